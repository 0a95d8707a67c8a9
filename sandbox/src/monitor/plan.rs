//! A pod as data: everything that a monitor needs to run it, in a form that can be written down.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use devices::rate::RateLimit;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use vmm::{MemorySize, VcpuCount};

use super::addresses::AddressTokens;
use super::etc::EtcPlan;
use super::health::Health;
use super::volumes::{DirectoryPlan, TerminationPlan};
use crate::assets::GuestAssets;
use crate::block::BlockError;
use crate::config::{PodConfig, Share, ShareError, default_root};
use crate::container::{ContainerRequest, SeccompFilter};
use crate::forward::PortPlan;
use crate::jail::{JailMode, SeccompMode};
use crate::logs::LogLimits;
use crate::net::cni::CniPlan;
use crate::net::{NetError, Netns, Network};
use crate::oci::{Changes, ContainerConfig, Rootfs, Stdio};
use crate::volume::GuestVolume;

/// Most containers of a pod.
pub const MAX_CONTAINERS: usize = 64;
/// Most disks of a pod.
pub const MAX_BLOCKS: usize = 16;
/// Longest name of a container, as the agent has it.
const MAX_NAME: usize = 128;
/// How long containers are given to end unless something else is said, as in docker and podman.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// What statfs(2) says of cgroups (v2).
const CGROUP2_MAGIC: rustix::fs::FsWord = 0x6367_7270;
/// SIGTERM.
const DEFAULT_STOP_SIGNAL: u32 = 15;

/// A plan that cannot be carried out.
#[derive(Debug, Error)]
pub enum PlanError {
    /// There is nothing to run.
    #[error("the pod has no container that stays; name at least one that is no init container")]
    NoContainer,
    /// There is too much.
    #[error("the pod has {0} containers; at most {MAX_CONTAINERS} are possible")]
    TooMany(usize),
    /// A name that a container cannot have.
    #[error(
        "container {0:?}: a container's name has 1 to {MAX_NAME} characters of a-z, A-Z, 0-9, `-`, `_` and `.`, and starts with a letter or digit"
    )]
    Name(String),
    /// Two of one name.
    #[error("container {0}: there are two of this name; names are unique in a pod")]
    Twice(String),
    /// Its root file system is nowhere.
    #[error("container {container}: its root file system {share:?} is none of the pod's shares")]
    NoShare {
        /// The container.
        container: String,
        /// What was named.
        share: String,
    },
    /// There are too many disks.
    #[error("--device: the pod has {0} block devices; at most {MAX_BLOCKS} are possible")]
    TooManyBlocks(usize),
    /// A disk could not be had.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// A host path could not be shared.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The network could not be had.
    #[error(transparent)]
    Network(#[from] NetError),
    /// The console's file could not be opened.
    #[error("--console {path}: cannot be written", path = .0.display())]
    Console(PathBuf, #[source] io::Error),
    /// There is no such cgroup.
    #[error(
        "--cgroup {path}: is no cgroup (v2); make one below /sys/fs/cgroup with mkdir, and name that",
        path = .0.display()
    )]
    Cgroup(PathBuf),
}

/// A pod. Paths are absolute: who carries it out may be elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodPlan {
    /// Unique among the pods below `root`.
    pub name: String,
    /// Directory of all pods' runtime directories.
    pub root: PathBuf,
    /// vCPUs.
    pub vcpus: VcpuCount,
    /// Guest memory.
    pub memory: MemorySize,
    /// Most vCPUs that it can be resized to.
    pub max_vcpus: VcpuCount,
    /// Most memory that it can be resized to.
    pub max_memory: MemorySize,
    /// The guest's host name; empty for the pod's name.
    pub hostname: String,
    /// Kernel parameters of the whole guest.
    pub sysctls: BTreeMap<String, String>,
    /// Bytes of the pod's shared memory.
    pub shm_size: Option<u64>,
    /// Guest kernel, if it was named.
    pub kernel: Option<PathBuf>,
    /// Initramfs, if it was named.
    pub initrd: Option<PathBuf>,
    /// Where the guest's console is copied to.
    pub console: Option<PathBuf>,
    /// Host directories and files that the guest sees.
    pub shares: Vec<SharePlan>,
    /// Directories on the host's disk that go with the pod, below [`data`](Self::data).
    pub directories: Vec<DirectoryPlan>,
    /// Where those are made.
    pub data: PathBuf,
    /// Directories of the guest's memory.
    pub volumes: Vec<GuestVolume>,
    /// `/etc/hosts` and its like, if containers are to find them.
    pub etc: Option<EtcPlan>,
    /// What stands for the pod's addresses in what containers are told, if anything does.
    pub address_tokens: Option<AddressTokens>,
    /// Whether there is a pid namespace that containers may share.
    pub shared_pids: bool,
    /// The guest's network.
    pub network: Option<NetworkPlan>,
    /// TCP ports of the host that stand for ports of the guest's localhost.
    pub publish: Vec<PortPlan>,
    /// What each interface may move in a second.
    pub net_limit: RateLimit,
    /// What may be read and written in a second.
    pub disk_limit: RateLimit,
    /// How much of a jail the VMM process must have.
    pub jail: JailMode,
    /// What happens to a system call that the VMM process has no reason to make.
    pub seccomp: SeccompMode,
    /// Directory of the cgroup (v2) that the VMM process is started in.
    pub cgroup: Option<PathBuf>,
    /// Init containers run first, one after the other, in this order; then all others.
    pub containers: Vec<ContainerPlan>,
    /// How long containers are given to end when the pod is stopped.
    pub grace: Duration,
    /// How long the pod may run.
    pub deadline: Option<Duration>,
    /// How much of each container's output is kept.
    pub log: LogLimits,
    /// Whether the directory goes when the pod has ended.
    pub remove: bool,
}

/// One host directory or file that the guest may see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharePlan {
    /// Name in the guest's share.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Whether the host refuses all changes.
    pub read_only: bool,
    /// Whether it is a root file system: a directory, without what is mounted below it.
    pub is_rootfs: bool,
}

/// The guest's network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkPlan {
    /// Where it comes from.
    pub source: NetworkSource,
    /// Lets the guest reach a cloud's metadata service.
    pub allow_metadata: bool,
}

/// Whose interfaces become the guest's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum NetworkSource {
    /// Those of a network namespace that somebody else has made.
    Netns(PathBuf),
    /// Those that CNI plugins make in a network namespace of the pod's own.
    Cni(CniPlan),
}

/// When a container that has ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Never.
    #[default]
    Never,
    /// When it has failed.
    OnFailure,
    /// Whenever it has ended.
    Always,
}

/// A block device or disk image of the host that a container finds as a block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockPlan {
    /// Where it is on the host.
    pub source: PathBuf,
    /// Absolute path of its node in the container.
    pub path: String,
    /// Whether the host refuses all changes.
    pub read_only: bool,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerPlan {
    /// Unique in its pod.
    pub name: String,
    /// Whether it runs to its end before the next one starts.
    pub init: bool,
    /// An OCI `config.json` that means something inside the guest.
    pub spec: Value,
    /// Its root file system.
    pub rootfs: Rootfs,
    /// Disks whose nodes it finds.
    pub blocks: Vec<BlockPlan>,
    /// Rows and columns of its terminal, if it has one.
    pub terminal: Option<(u16, u16)>,
    /// Whether it has an input. Without a terminal at the other end nothing is ever read from it.
    pub stdin: bool,
    /// Whether its input ends with that of the first client that attaches.
    pub stdin_once: bool,
    /// Name of the container whose pid namespace it shares, if it does.
    pub pid_namespace_of: Option<String>,
    /// What its processes may ask of the guest's kernel, if that is limited.
    pub seccomp: Option<SeccompFilter>,
    /// What happens when it has ended. An init container that must not fail again is not started again.
    pub restart: Restart,
    /// What asks it to end.
    pub stop_signal: u32,
    /// Its last words, if it has a file for them: at [`termination_path`](super::termination_path).
    pub termination: Option<TerminationPlan>,
    /// Its probes and hooks.
    pub health: Health,
}

impl ContainerPlan {
    /// The container `config`, which is not started again.
    #[must_use]
    pub fn new(config: &ContainerConfig) -> Self {
        let request = config.request();
        let (terminal, stdin) = match config.stdio {
            Stdio::Terminal { rows, cols } => (Some((rows, cols)), true),
            Stdio::Pipes { stdin, .. } => (None, stdin),
        };
        Self {
            name: request.id,
            init: false,
            spec: config.spec(),
            rootfs: request.rootfs,
            blocks: Vec::new(),
            terminal,
            stdin,
            stdin_once: false,
            pid_namespace_of: None,
            seccomp: None,
            restart: Restart::Never,
            stop_signal: DEFAULT_STOP_SIGNAL,
            termination: None,
            health: Health::default(),
        }
    }

    /// Command and arguments.
    #[must_use]
    pub fn command(&self) -> Vec<String> {
        let args = self.spec["process"]["args"].as_array();
        let args = args.into_iter().flatten();
        args.filter_map(|arg| arg.as_str().map(str::to_owned))
            .collect()
    }

    /// Adds entries to its configuration's `linux.devices`.
    pub(super) fn add_devices(&mut self, nodes: &[Value]) {
        if nodes.is_empty() {
            return;
        }
        let devices = &mut self.spec["linux"]["devices"];
        match devices.as_array_mut() {
            Some(devices) => devices.extend_from_slice(nodes),
            None => *devices = nodes.into(),
        }
    }

    pub(super) fn request(&self) -> ContainerRequest {
        ContainerRequest {
            id: self.name.clone(),
            spec_json: self.spec.to_string().into_bytes(),
            rootfs: self.rootfs.clone(),
            stdio: match self.terminal {
                Some((rows, cols)) => Stdio::Terminal { rows, cols },
                None => Stdio::pipes(self.stdin),
            },
            pid_namespace_of: self.pid_namespace_of.clone(),
            seccomp: self.seccomp.clone(),
        }
    }
}

impl PodPlan {
    /// A pod of 1 vCPU and 2 GiB that shares nothing and has no container yet.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        let config = PodConfig::new(name);
        Self {
            name: config.name,
            root: default_root(),
            vcpus: config.vcpus,
            memory: config.memory,
            max_vcpus: config.max_vcpus,
            max_memory: config.max_memory,
            hostname: String::new(),
            sysctls: BTreeMap::new(),
            shm_size: None,
            kernel: None,
            initrd: None,
            console: None,
            shares: Vec::new(),
            directories: Vec::new(),
            data: PathBuf::new(),
            volumes: Vec::new(),
            etc: None,
            address_tokens: None,
            shared_pids: false,
            network: None,
            publish: Vec::new(),
            net_limit: config.net_limit,
            disk_limit: config.disk_limit,
            jail: config.jail,
            seccomp: config.seccomp,
            cgroup: None,
            containers: Vec::new(),
            grace: DEFAULT_GRACE,
            deadline: None,
            log: LogLimits::default(),
            remove: false,
        }
    }

    /// Shares `dir` as the root file system `name`; `changes` says where changes go.
    pub fn rootfs(&mut self, name: &str, dir: &Path, changes: Changes) -> Rootfs {
        self.shares.push(SharePlan {
            name: name.to_owned(),
            path: dir.to_owned(),
            read_only: changes != Changes::Host,
            is_rootfs: true,
        });
        Rootfs {
            share: name.to_owned(),
            changes,
        }
    }

    /// Whether it can be carried out at all.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn check(&self) -> Result<(), PlanError> {
        let containers = &self.containers;
        if containers.iter().all(|container| container.init) {
            return Err(PlanError::NoContainer);
        }
        if containers.len() > MAX_CONTAINERS {
            return Err(PlanError::TooMany(containers.len()));
        }
        let blocks = self.block_count();
        if blocks > MAX_BLOCKS {
            return Err(PlanError::TooManyBlocks(blocks));
        }
        for (index, container) in containers.iter().enumerate() {
            let name = &container.name;
            check_name(name)?;
            if containers[..index].iter().any(|other| other.name == *name) {
                return Err(PlanError::Twice(name.clone()));
            }
            let share = &container.rootfs.share;
            // A path in a share is as good as the share itself.
            let first = share.split('/').next();
            if !self.shares.iter().any(|s| Some(s.name.as_str()) == first) {
                return Err(PlanError::NoShare {
                    container: name.clone(),
                    share: share.clone(),
                });
            }
        }
        Ok(())
    }

    fn block_count(&self) -> usize {
        self.containers.iter().map(|c| c.blocks.len()).sum()
    }

    /// Opens what the plan names but for disks. What CNI plugins make is made by the monitor.
    ///
    /// # Errors
    /// [`PlanError`] says what cannot be had.
    pub fn open(&self) -> Result<PodConfig, PlanError> {
        self.check()?;
        if let Some(cgroup) = &self.cgroup
            && !is_cgroup(cgroup)
        {
            return Err(PlanError::Cgroup(cgroup.clone()));
        }
        let mut config = PodConfig::new(self.name.clone());
        config.root.clone_from(&self.root);
        config.vcpus = self.vcpus;
        config.memory = self.memory;
        config.max_vcpus = self.max_vcpus;
        config.max_memory = self.max_memory;
        config.hostname.clone_from(&self.hostname);
        config.sysctls.clone_from(&self.sysctls);
        config.shm_size = self.shm_size;
        config.shared_pids = self.shared_pids;
        config.assets = GuestAssets {
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
        };
        if let Some(plan) = &self.network
            && let NetworkSource::Netns(path) = &plan.source
        {
            let mut network = Network::new(Netns::open(path)?);
            network.allow_metadata = plan.allow_metadata;
            config.network = Some(network);
        }
        config.net_limit = self.net_limit;
        config.disk_limit = self.disk_limit;
        config.block_slots = u8::try_from(self.block_count()).unwrap_or(u8::MAX);
        config.jail = self.jail;
        config.seccomp = self.seccomp;
        config.cgroup.clone_from(&self.cgroup);
        for share in &self.shares {
            config.shares.push(share.open()?);
        }
        if let Some(path) = &self.console {
            let file = OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(true)
                .open(path);
            config.console = Some(file.map_err(|error| PlanError::Console(path.clone(), error))?);
        }
        Ok(config)
    }
}

impl SharePlan {
    fn open(&self) -> Result<Share, ShareError> {
        if self.is_rootfs {
            Share::rootfs(&self.name, &self.path, !self.read_only)
        } else {
            Share::open("--volume", &self.name, &self.path, self.read_only)
        }
    }
}

/// Whether it is a directory of the second version's file system.
fn is_cgroup(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == CGROUP2_MAGIC) && path.is_dir()
}

fn check_name(name: &str) -> Result<(), PlanError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && name.len() <= MAX_NAME && name.chars().all(allowed) {
        Ok(())
    } else {
        Err(PlanError::Name(name.to_owned()))
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
