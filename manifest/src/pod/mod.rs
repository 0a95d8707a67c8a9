//! A pod whose manifest has been checked in full.
//!
//! Nothing here has to be checked again: names have their forms, references lead somewhere, numbers are
//! in range. The [plan](crate::plan) turns it into what a runtime does.

mod container;
mod env;
mod mount;
mod probe;
mod resources;
mod security;
mod spec;
mod volume;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

pub use env::{EnvFrom, EnvValue, EnvVar, FieldRef, ObjectKind, ObjectRef, ResourceRef};
pub use mount::{SubPath, VolumeMount};
pub use probe::{Hook, HttpGet, Probe, ProbeAction, ProbeTiming};
pub use resources::{Amounts, Resources};
pub use security::Security;
pub(crate) use security::all_capabilities;
pub(crate) use spec::read;

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
    /// Whether the network's or the host's is the base; otherwise nothing is.
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

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Name, unique in the pod.
    pub name: String,
    /// What is in it.
    pub source: VolumeSource,
}

/// How large a volume may become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeLimit {
    /// Bytes.
    pub bytes: u64,
    /// The quantity as it is written.
    pub text: String,
}

/// What a volume is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// Nothing at first.
    EmptyDir {
        /// In the guest's memory.
        in_memory: bool,
        /// As much as may be in it.
        size_limit: Option<SizeLimit>,
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
