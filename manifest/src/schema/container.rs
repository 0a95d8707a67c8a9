//! Containers and what is in them.

use super::Shape::List;
use super::{Object, idle, no, note, yes};

pub(crate) static CONTAINER: Object = Object {
    name: "Container",
    fields: &[
        yes("name"),
        yes("image"),
        yes("imagePullPolicy"),
        note("command", "with `$(VAR)` and `$$`"),
        note("args", "likewise"),
        yes("workingDir"),
        yes("env"),
        yes("envFrom"),
        yes("resources"),
        yes("volumeMounts"),
        yes("securityContext"),
        yes("ports"),
        note("lifecycle", "not of init containers"),
        note("livenessProbe", "not of init containers"),
        note("readinessProbe", "not of init containers"),
        note("startupProbe", "not of init containers"),
        yes("stdin"),
        yes("stdinOnce"),
        yes("tty"),
        yes("terminationMessagePath"),
        yes("terminationMessagePolicy"),
        idle(
            "resizePolicy",
            List,
            "it is about changes of a running pod, which are not made",
        ),
        no(
            "restartPolicy",
            "leave it out, and use spec.restartPolicy; for a sidecar, list it among spec.containers",
        ),
        no(
            "restartPolicyRules",
            "leave it out, and use spec.restartPolicy",
        ),
        no("volumeDevices", "use a volume with a file system"),
    ],
};

pub(crate) static PORT: Object = Object {
    name: "ContainerPort",
    fields: &[
        yes("name"),
        yes("containerPort"),
        yes("protocol"),
        yes("hostPort"),
        yes("hostIP"),
    ],
};

pub(crate) static ENV: Object = Object {
    name: "EnvVar",
    fields: &[
        yes("name"),
        note("value", "with `$(VAR)` and `$$`"),
        yes("valueFrom"),
    ],
};

pub(crate) static ENV_SOURCE: Object = Object {
    name: "EnvVarSource",
    fields: &[
        yes("fieldRef"),
        yes("resourceFieldRef"),
        yes("configMapKeyRef"),
        yes("secretKeyRef"),
        no("fileKeyRef", "use a configMapKeyRef"),
    ],
};

pub(crate) static FIELD_REF: Object = Object {
    name: "ObjectFieldSelector",
    fields: &[
        note("apiVersion", "only `v1`"),
        note(
            "fieldPath",
            "`metadata.name`, `.namespace`, `.uid`, `.labels['KEY']`, `.annotations['KEY']` (in volumes also all of them), `spec.nodeName`, `spec.serviceAccountName`, `status.podIP`, `status.podIPs`, `status.hostIP`, `status.hostIPs`",
        ),
    ],
};

pub(crate) static RESOURCE_REF: Object = Object {
    name: "ResourceFieldSelector",
    fields: &[
        yes("containerName"),
        note("resource", "`limits.` or `requests.` and `cpu` or `memory`"),
        yes("divisor"),
    ],
};

pub(crate) static KEY_REF: Object = Object {
    name: "ConfigMapKeySelector, SecretKeySelector",
    fields: &[yes("name"), yes("key"), yes("optional")],
};

pub(crate) static ENV_FROM: Object = Object {
    name: "EnvFromSource",
    fields: &[yes("prefix"), yes("configMapRef"), yes("secretRef")],
};

pub(crate) static OBJECT_REF: Object = Object {
    name: "ConfigMapEnvSource, SecretEnvSource",
    fields: &[yes("name"), yes("optional")],
};

pub(crate) static RESOURCES: Object = Object {
    name: "ResourceRequirements",
    fields: &[
        note("limits", "`cpu` and `memory`"),
        note(
            "requests",
            "`cpu` and `memory`; they do not count for the size of the VM",
        ),
        no("claims", "leave it out: there are no claimed devices"),
    ],
};

pub(crate) static VOLUME_MOUNT: Object = Object {
    name: "VolumeMount",
    fields: &[
        yes("name"),
        yes("mountPath"),
        yes("readOnly"),
        yes("subPath"),
        yes("subPathExpr"),
        note("mountPropagation", "only `None`"),
        note("recursiveReadOnly", "only `Disabled`"),
    ],
};

pub(crate) static SECURITY: Object = Object {
    name: "SecurityContext",
    fields: &[
        yes("runAsUser"),
        yes("runAsGroup"),
        yes("runAsNonRoot"),
        yes("capabilities"),
        yes("allowPrivilegeEscalation"),
        yes("readOnlyRootFilesystem"),
        note("procMount", "`Default` or `Unmasked`"),
        yes("seccompProfile"),
        note("privileged", "only `false`"),
        note("appArmorProfile", "only `Unconfined`"),
        no(
            "seLinuxOptions",
            "leave it out: the guest's kernel has no SELinux, and the virtual machine confines the pod",
        ),
        no("windowsOptions", "leave it out: the pod runs Linux"),
    ],
};

pub(crate) static CAPABILITIES: Object = Object {
    name: "Capabilities",
    fields: &[yes("add"), yes("drop")],
};

pub(crate) static SECCOMP: Object = Object {
    name: "SeccompProfile",
    fields: &[
        note("type", "`Unconfined` or `RuntimeDefault`"),
        no("localhostProfile", "use the type RuntimeDefault"),
    ],
};

pub(crate) static APPARMOR: Object = Object {
    name: "AppArmorProfile",
    fields: &[
        note("type", "only `Unconfined`"),
        no(
            "localhostProfile",
            "leave it out: the guest's kernel has no AppArmor",
        ),
    ],
};

pub(crate) static LIFECYCLE: Object = Object {
    name: "Lifecycle",
    fields: &[
        yes("postStart"),
        yes("preStop"),
        no("stopSignal", "set the signal in the image (STOPSIGNAL)"),
    ],
};

pub(crate) static LIFECYCLE_HANDLER: Object = Object {
    name: "LifecycleHandler",
    fields: &[
        yes("exec"),
        note("httpGet", "any answer is good"),
        yes("sleep"),
        no("tcpSocket", "use exec"),
    ],
};

pub(crate) static PROBE: Object = Object {
    name: "Probe",
    fields: &[
        yes("exec"),
        yes("httpGet"),
        yes("tcpSocket"),
        no("grpc", "use exec with a client in the image, or tcpSocket"),
        yes("initialDelaySeconds"),
        yes("periodSeconds"),
        yes("timeoutSeconds"),
        yes("successThreshold"),
        yes("failureThreshold"),
        note("terminationGracePeriodSeconds", "not of readiness probes"),
    ],
};

pub(crate) static EXEC: Object = Object {
    name: "ExecAction",
    fields: &[yes("command")],
};

pub(crate) static HTTP_GET: Object = Object {
    name: "HTTPGetAction",
    fields: &[
        yes("path"),
        yes("port"),
        yes("host"),
        yes("scheme"),
        yes("httpHeaders"),
    ],
};

pub(crate) static HTTP_HEADER: Object = Object {
    name: "HTTPHeader",
    fields: &[yes("name"), yes("value")],
};

pub(crate) static TCP_SOCKET: Object = Object {
    name: "TCPSocketAction",
    fields: &[yes("port"), yes("host")],
};

pub(crate) static SLEEP: Object = Object {
    name: "SleepAction",
    fields: &[yes("seconds")],
};
