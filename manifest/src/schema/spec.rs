//! The pod as a whole.

use super::Shape::{Bool, Int, List, Object as Obj, Text};
use super::{Object, idle, no, note, yes};

const SCHEDULING: &str = "there is one machine to run on";
const API: &str = "there is no API server that it would be for";

pub(crate) static POD_SPEC: Object = Object {
    name: "PodSpec",
    fields: &[
        yes("containers"),
        yes("initContainers"),
        yes("volumes"),
        yes("restartPolicy"),
        yes("terminationGracePeriodSeconds"),
        yes("activeDeadlineSeconds"),
        note(
            "runtimeClassName",
            "`podvmm`, `kata-mshv-vm-isolation`, `kata-vm-isolation`; without it the pod asks for no sandbox",
        ),
        yes("securityContext"),
        yes("hostname"),
        note("subdomain", "with `hostname`, a name in /etc/hosts"),
        yes("hostAliases"),
        note(
            "dnsPolicy",
            "there is no cluster: `ClusterFirst` is as `Default`, the resolvers of the network or else of the host",
        ),
        yes("dnsConfig"),
        yes("shareProcessNamespace"),
        note("hostNetwork", "only `false`"),
        note("hostPID", "only `false`"),
        note("hostIPC", "only `false`"),
        note("hostUsers", "only `true`"),
        note("os", "only `linux`"),
        note("nodeName", "what `spec.nodeName` of a fieldRef tells"),
        note(
            "serviceAccountName",
            "what `spec.serviceAccountName` of a fieldRef tells",
        ),
        idle("affinity", Obj, SCHEDULING),
        idle("nodeSelector", Obj, SCHEDULING),
        idle("tolerations", List, SCHEDULING),
        idle("topologySpreadConstraints", List, SCHEDULING),
        idle("schedulerName", Text, SCHEDULING),
        idle("priority", Int, SCHEDULING),
        idle("priorityClassName", Text, SCHEDULING),
        idle("preemptionPolicy", Text, SCHEDULING),
        idle("overhead", Obj, "the rule of sizing has a base of its own"),
        idle("serviceAccount", Text, API),
        idle("automountServiceAccountToken", Bool, API),
        idle(
            "enableServiceLinks",
            Bool,
            "there are no services that variables could name",
        ),
        no(
            "ephemeralContainers",
            "leave it out, and use exec in the running pod",
        ),
        no("hostnameOverride", "write spec.hostname"),
        no(
            "imagePullSecrets",
            "leave it out, and pull the image beforehand",
        ),
        no(
            "readinessGates",
            "leave it out: there is no controller to open one",
        ),
        no(
            "resourceClaims",
            "leave it out: there are no claimed devices",
        ),
        no("resources", "write the resources of each container"),
        no(
            "schedulingGates",
            "leave it out: there is no controller to open one",
        ),
        no("setHostnameAsFQDN", "leave it out"),
        no("workloadRef", "leave it out"),
    ],
};

pub(crate) static POD_SECURITY: Object = Object {
    name: "PodSecurityContext",
    fields: &[
        yes("runAsUser"),
        yes("runAsGroup"),
        yes("runAsNonRoot"),
        yes("supplementalGroups"),
        yes("supplementalGroupsPolicy"),
        note(
            "fsGroup",
            "of emptyDir, configMap, secret, downwardAPI and projected volumes; a hostPath keeps its owner",
        ),
        idle(
            "fsGroupChangePolicy",
            Text,
            "volumes are made for the pod, so nothing has to change",
        ),
        yes("seccompProfile"),
        yes("sysctls"),
        note("appArmorProfile", "only `Unconfined`"),
        no(
            "seLinuxOptions",
            "leave it out: the guest's kernel has no SELinux, and the virtual machine confines the pod",
        ),
        no("seLinuxChangePolicy", "leave it out with seLinuxOptions"),
        no("windowsOptions", "leave it out: the pod runs Linux"),
    ],
};

pub(crate) static HOST_ALIAS: Object = Object {
    name: "HostAlias",
    fields: &[yes("ip"), yes("hostnames")],
};

pub(crate) static DNS_CONFIG: Object = Object {
    name: "PodDNSConfig",
    fields: &[yes("nameservers"), yes("searches"), yes("options")],
};

pub(crate) static DNS_OPTION: Object = Object {
    name: "PodDNSConfigOption",
    fields: &[yes("name"), yes("value")],
};

pub(crate) static SYSCTL: Object = Object {
    name: "Sysctl",
    fields: &[yes("name"), yes("value")],
};

pub(crate) static POD_OS: Object = Object {
    name: "PodOS",
    fields: &[yes("name")],
};
