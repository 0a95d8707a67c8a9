//! A pod whose manifest has been checked in full.
//!
//! Nothing here has to be checked again: names have their forms, references lead somewhere, numbers are
//! in range. The [plan](crate::plan) turns it into what a runtime does.

mod container;
mod env;
mod probe;
mod resources;
mod security;
mod spec;
mod volume;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

pub(crate) use spec::read;

use crate::quantity::Quantity;

/// Names of runtime classes that lead to podvmm; all but the first are managed clusters'.
pub const RUNTIME_CLASSES: [&str; 3] = ["podvmm", "kata-mshv-vm-isolation", "kata-vm-isolation"];

/// Whether a manifest asks for a VM of the pod's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// It does, by this runtime class.
    Asked(String),
    /// It has no runtime class: in a cluster it would run without a sandbox.
    NotAsked,
}

/// A checked Pod.
#[derive(Clone, Debug)]
pub struct Pod {
    /// metadata.name.
    pub name: String,
    /// metadata.namespace.
    pub namespace: String,
    /// metadata.labels.
    pub labels: BTreeMap<String, String>,
    /// metadata.annotations.
    pub annotations: BTreeMap<String, String>,
    /// By spec.runtimeClassName.
    pub sandbox: Sandbox,
    /// They run one after the other before the others.
    pub init_containers: Vec<Container>,
    /// They run side by side.
    pub containers: Vec<Container>,
    /// Volumes, in the order of the manifest.
    pub volumes: Vec<Volume>,
    /// When a container is started again.
    pub restart: RestartPolicy,
    /// How long containers may take to end.
    pub grace: Duration,
    /// How long the pod may run.
    pub deadline: Option<Duration>,
    /// spec.hostname.
    pub hostname: Option<String>,
    /// spec.subdomain.
    pub subdomain: Option<String>,
    /// Further lines of /etc/hosts.
    pub host_aliases: Vec<HostAlias>,
    /// Name resolution.
    pub dns: Dns,
    /// Whether containers see each other's processes.
    pub share_processes: bool,
    /// Groups that all containers' processes are in.
    pub supplemental_groups: Vec<u32>,
    /// Whether the groups that the image has for the user are added.
    pub image_groups: bool,
    /// Group that volumes made for the pod belong to.
    pub fs_group: Option<u32>,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// What spec.nodeName of a fieldRef tells.
    pub node_name: Option<String>,
    /// What spec.serviceAccountName of a fieldRef tells.
    pub service_account: String,
}

/// spec.restartPolicy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whenever a container ends.
    #[default]
    Always,
    /// When a container fails.
    OnFailure,
    /// Not.
    Never,
}

/// A line of /etc/hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostAlias {
    /// Address.
    pub ip: IpAddr,
    /// Names.
    pub names: Vec<String>,
}

/// Where resolv.conf comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Whether the host's is the base; otherwise nothing is.
    pub of_host: bool,
    /// Name servers, after the base's.
    pub nameservers: Vec<IpAddr>,
    /// Search domains, after the base's.
    pub searches: Vec<String>,
    /// Options, in place of the base's of the same name.
    pub options: Vec<(String, Option<String>)>,
}

/// A container.
#[derive(Clone, Debug)]
pub struct Container {
    /// Name, unique in the pod.
    pub name: String,
    /// Image.
    pub image: String,
    /// When the image is pulled.
    pub pull: PullPolicy,
    /// In place of the image's entry point.
    pub command: Option<Vec<String>>,
    /// In place of the image's command.
    pub args: Option<Vec<String>>,
    /// In place of the image's working directory.
    pub working_dir: Option<String>,
    /// Sources of variables, before `env`.
    pub env_from: Vec<EnvFrom>,
    /// Variables.
    pub env: Vec<EnvVar>,
    /// Limits and requests.
    pub resources: Resources,
    /// Volumes seen inside.
    pub mounts: Vec<VolumeMount>,
    /// Rights; the pod's are in it already.
    pub security: Security,
    /// Ports, told of for people, and published if they have a host port.
    pub ports: Vec<Port>,
    /// Run beside the command once it has started.
    pub post_start: Option<Hook>,
    /// Run before the command is ended.
    pub pre_stop: Option<Hook>,
    /// Whether it has to be started again.
    pub liveness: Option<Probe>,
    /// Whether it can be used.
    pub readiness: Option<Probe>,
    /// Whether it has started; the others wait for it.
    pub startup: Option<Probe>,
    /// Whether it has standard input.
    pub stdin: bool,
    /// Whether the input ends with its first user.
    pub stdin_once: bool,
    /// Whether it has a terminal.
    pub tty: bool,
    /// File of its last words.
    pub termination_path: String,
    /// Whether the log's end stands for last words that are missing.
    pub termination_from_log: bool,
}

/// imagePullPolicy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Before each start.
    Always,
    /// When it is not there.
    IfNotPresent,
    /// Never: it has to be there.
    Never,
}

/// A source of variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvFrom {
    /// What stands before each key.
    pub prefix: String,
    /// Where the data is.
    pub source: ObjectRef,
}

/// A ConfigMap or Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRef {
    /// Which of both.
    pub kind: ObjectKind,
    /// Name.
    pub name: String,
    /// Whether it may be missing.
    pub optional: bool,
}

/// What data is kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// ConfigMap.
    ConfigMap,
    /// Secret.
    Secret,
}

/// A variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvVar {
    /// Name.
    pub name: String,
    /// Value.
    pub value: EnvValue,
}

/// Where a variable's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvValue {
    /// Written down; `$(VAR)` is expanded.
    Text(String),
    /// The pod.
    Field(FieldRef),
    /// A container's resources.
    Resource(ResourceRef),
    /// An object's key.
    Key(ObjectRef, String),
}

/// A field of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldRef {
    /// metadata.name.
    Name,
    /// metadata.namespace.
    Namespace,
    /// metadata.uid.
    Uid,
    /// metadata.labels['KEY'].
    Label(String),
    /// metadata.annotations['KEY'].
    Annotation(String),
    /// metadata.labels.
    Labels,
    /// metadata.annotations.
    Annotations,
    /// spec.nodeName.
    NodeName,
    /// spec.serviceAccountName.
    ServiceAccount,
    /// status.podIP.
    PodIp,
    /// status.podIPs.
    PodIps,
    /// status.hostIP.
    HostIp,
    /// status.hostIPs.
    HostIps,
}

/// A container's resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceRef {
    /// Whose.
    pub container: String,
    /// A limit or a request.
    pub limit: bool,
    /// CPU or memory.
    pub cpu: bool,
    /// Unit.
    pub divisor: Quantity,
}

/// Limits and requests of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// What it may use at most.
    pub limits: Amounts,
    /// What it asks for.
    pub requests: Amounts,
}

/// An amount of each resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a CPU.
    pub cpu_millis: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
}

/// A volume inside a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeMount {
    /// Name of the volume.
    pub volume: String,
    /// Absolute path.
    pub path: String,
    /// Whether it cannot be written.
    pub read_only: bool,
    /// Part of the volume.
    pub sub_path: SubPath,
}

/// Part of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SubPath {
    /// All of it.
    #[default]
    Whole,
    /// A relative path.
    Path(String),
    /// A relative path with `$(VAR)`.
    Expression(String),
}

/// Rights of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// User, in place of the image's.
    pub user: Option<u32>,
    /// Group, in place of the user's.
    pub group: Option<u32>,
    /// Whether root is refused.
    pub non_root: bool,
    /// Capabilities to add, such as `CAP_NET_ADMIN`, or `ALL`.
    pub add: Vec<String>,
    /// Capabilities to drop.
    pub drop: Vec<String>,
    /// Whether set-user-ID programs have an effect.
    pub allow_escalation: bool,
    /// Whether the root cannot be written.
    pub read_only_root: bool,
    /// Whether nothing of /proc is hidden.
    pub unmasked_proc: bool,
    /// Whether system calls are filtered.
    pub seccomp: bool,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name for probes.
    pub name: Option<String>,
    /// Number.
    pub number: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the host that leads to it.
    pub host_port: Option<u16>,
    /// Address of the host that this port is of.
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// What runs when a container has started or is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A command in the container.
    Exec(Vec<String>),
    /// A pause.
    Sleep(Duration),
}

/// A question that is asked again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// How it is asked.
    pub action: ProbeAction,
    /// When.
    pub timing: ProbeTiming,
    /// How long the container may take to end if this probe ends it.
    pub grace: Option<Duration>,
}

/// When a probe asks, and how often the same answer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeTiming {
    /// After the container's start.
    pub initial_delay: Duration,
    /// Between questions.
    pub period: Duration,
    /// For an answer.
    pub timeout: Duration,
    /// Good answers in a row.
    pub successes: u32,
    /// Bad answers in a row.
    pub failures: u32,
}

/// How a probe asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeAction {
    /// A command in the container: 0 is good.
    Exec(Vec<String>),
    /// A request: a status of 200 to 399 is good.
    Http {
        /// Over TLS, without looking at the certificate.
        tls: bool,
        /// The pod's own address if there is none.
        host: Option<String>,
        /// Port.
        port: u16,
        /// With the slash at its beginning.
        path: String,
        /// Headers.
        headers: Vec<(String, String)>,
    },
    /// A connection.
    Tcp {
        /// The pod's own address if there is none.
        host: Option<String>,
        /// Port.
        port: u16,
    },
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Name, unique in the pod.
    pub name: String,
    /// What is in it.
    pub source: VolumeSource,
}

/// What a volume is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// Nothing at first.
    EmptyDir {
        /// In the guest's memory.
        in_memory: bool,
        /// Bytes.
        size_limit: Option<u64>,
    },
    /// Something of the host.
    HostPath {
        /// Absolute.
        path: String,
        /// What has to be there.
        kind: HostPathType,
    },
    /// Files from data.
    Files {
        /// Sources; later ones do not replace earlier ones, paths are unique.
        sources: Vec<FileSource>,
        /// Mode of files that have none of their own.
        default_mode: u32,
    },
    /// One that is not supported, where such fields are ignored: it is left out with its mounts.
    Ignored,
}

/// hostPath.type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPathType {
    /// A file or directory.
    Any,
    /// A directory.
    Directory,
    /// A directory, made if it is missing.
    DirectoryOrCreate,
    /// A file.
    File,
    /// A file, made if it is missing.
    FileOrCreate,
}

/// Files of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileSource {
    /// Keys of an object.
    Object {
        /// Which.
        object: ObjectRef,
        /// Keys and paths; all keys under their own names if there are none.
        items: Option<Vec<KeyToPath>>,
    },
    /// Fields of the pod.
    Downward(Vec<DownwardFile>),
}

/// A key that becomes a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyToPath {
    /// Key.
    pub key: String,
    /// Relative path.
    pub path: String,
    /// Mode.
    pub mode: Option<u32>,
}

/// A field that becomes a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownwardFile {
    /// Relative path.
    pub path: String,
    /// Mode.
    pub mode: Option<u32>,
    /// What is in it: a field or a resource.
    pub value: EnvValue,
}

/// All capabilities, such as `CAP_CHOWN`.
pub(crate) fn capabilities() -> impl Iterator<Item = String> {
    security::CAPABILITIES
        .into_iter()
        .map(|name| format!("CAP_{name}"))
}
