//! A VMM process: how it is started, [what it is asked for](requests), [what it reports and how it
//! ends](life).

mod life;
mod requests;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use devices::net::NetConfig;
use devices::rate::RateLimit;
use rustix::fs::MemfdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::assets;
use crate::config::{PodConfig, Share};
use crate::control::{self, Launch, LaunchShare};
use crate::jail::{JailMode, Terms, WardenOptions, confine};
use crate::monitor::HostProcess;
use crate::net::{Interface, PodNetwork};
use crate::pod::PodError;
use crate::rundir::RunDir;

use life::Life;

/// virtio-fs tag of the pod's share.
pub const SHARE_TAG: &str = "podvmm";

/// Kernel parameters that make the guest kernel of this project boot fast; see the file itself.
const CMDLINE: &str = include_str!("../../guest-kernel-config/cmdline");

/// Tables of directory entries and inodes as for 256 MiB. By default they grow with memory, to 3 MiB for
/// 2 GiB, which each boot zeroes and no balloon ever gives back to the host. A guest of more memory may
/// have so many files at hand that small tables would slow it down.
const SMALL_TABLES: &str = "dhash_entries=32768 ihash_entries=16384";
/// Up to which the guest has small tables, in bytes.
const SMALL_MEMORY: u64 = 4 << 30;

/// What the process that was started is called; the VMM is its child.
const WARDEN: &str = "podvmm-warden";

/// A VMM process. All of it may be used from several threads at once.
#[derive(Debug)]
pub struct VmmProcess {
    pid: u32,
    /// Its warden, with which it ends.
    warden: Option<HostProcess>,
    control: OwnedFd,
    /// Held from a request to its answer.
    requests: Mutex<OwnedFd>,
    life: Mutex<Life>,
    jail: JailMode,
    /// What of its jail is missing, a sentence each.
    gaps: Mutex<Vec<String>>,
    kernel: PathBuf,
    initrd: PathBuf,
}

/// A descriptor that the VMM is given.
enum Given<'a> {
    /// Of a mount without surroundings.
    Alone(OwnedFd),
    /// As the sandbox has it.
    AsItIs(BorrowedFd<'a>),
}

impl Given<'_> {
    fn is_alone(&self) -> bool {
        matches!(self, Self::Alone(_))
    }
}

impl AsFd for Given<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Alone(fd) => fd.as_fd(),
            Self::AsItIs(fd) => *fd,
        }
    }
}

/// Everything that is opened before the process starts.
pub struct Resources {
    /// `/dev/kvm`.
    pub kvm: File,
    /// Guest kernel and where it was found.
    pub kernel: (PathBuf, File),
    /// Initramfs and where it was found.
    pub initrd: (PathBuf, File),
    /// Where host programs reach the guest.
    pub vsock: UnixListener,
    /// The pod's network, if it has one.
    pub network: Option<PodNetwork>,
}

impl VmmProcess {
    /// Starts the process and hands it `config` and `resources`.
    ///
    /// # Errors
    /// [`PodError`] when the binary is missing or cannot be started.
    pub fn start(
        config: &PodConfig,
        dir: &RunDir,
        resources: &Resources,
    ) -> Result<Self, PodError> {
        let start_error = |source: io::Error| PodError::StartVmm { source };
        let binary = assets::vmm_binary()?;
        let pair = || {
            let (unix, packets) = (AddressFamily::UNIX, SocketType::SEQPACKET);
            socketpair(unix, packets, SocketFlags::CLOEXEC, None)
                .map_err(|errno| start_error(errno.into()))
        };
        let (ours, theirs) = pair()?;
        let (requests, their_requests) = pair()?;
        let (stderr, to_child) = if config.log.is_some() {
            (None, Stdio::inherit())
        } else {
            let file = rustix::fs::memfd_create("vmm-stderr", MemfdFlags::CLOEXEC)
                .map(File::from)
                .map_err(|errno| start_error(errno.into()))?;
            let to_child = file.try_clone().map_err(start_error)?;
            (Some(file), to_child.into())
        };
        let warden = WardenOptions {
            mode: config.jail,
            runtime_dir: dir.path().to_owned(),
            cgroup: config.cgroup.clone(),
        };
        let mut command = Command::new(&binary);
        command
            .arg0(WARDEN)
            .args(warden.to_args())
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(to_child)
            .env_clear();
        // A terminal's Ctrl-C is for the command; the sandbox decides when the VM ends.
        command.process_group(0);
        if let Some(level) = config.log {
            command.env(crate::logging::LEVEL_VARIABLE, level.as_str());
        }
        let child = command
            .spawn()
            .map_err(|source| PodError::SpawnVmm { binary, source })?;
        let process = Self {
            pid: child.id(),
            warden: HostProcess::of(child.id()),
            control: ours,
            requests: Mutex::new(requests),
            life: Mutex::new(Life {
                child,
                stderr,
                is_running: false,
                ended: None,
            }),
            jail: config.jail,
            gaps: Mutex::default(),
            kernel: resources.kernel.0.clone(),
            initrd: resources.initrd.0.clone(),
        };
        process.configure(config, dir, resources, &their_requests)?;
        Ok(process)
    }

    fn configure(
        &self,
        config: &PodConfig,
        dir: &RunDir,
        resources: &Resources,
        their_requests: &OwnedFd,
    ) -> Result<(), PodError> {
        let (interfaces, taps) = match &resources.network {
            Some(network) => (&network.interfaces[..], &network.taps[..]),
            None => (&[][..], &[][..]),
        };
        let root = dir.open_vmm_root();
        let root = root.map_err(|source| PodError::StartVmm { source })?;
        let sockets_only = Terms {
            read_only: true,
            ..Terms::default()
        };
        let mut files = vec![(root.as_fd(), sockets_only)];
        files.extend(config.shares.iter().map(|s| (s.file.as_fd(), s.terms())));
        let mut root = self.confine(&files)?;
        let shares = root.split_off(1);
        // Without a mount of its own it cannot become the root.
        root.retain(Given::is_alone);
        let launch = Launch {
            vcpus: config.vcpus.get().into(),
            memory: config.memory.bytes(),
            max_vcpus: config.max_vcpus.get().into(),
            max_memory: config.max_memory.bytes(),
            cmdline: kernel_parameters(config.memory.bytes()),
            seccomp: config.seccomp,
            root: !root.is_empty(),
            console: config.console.is_some(),
            vsock_path: dir.vsock().display().to_string(),
            share_tag: SHARE_TAG.to_owned(),
            shares: config.shares.iter().map(launch_share).collect(),
            disk_limit: config.disk_limit,
            nets: interfaces
                .iter()
                .map(|interface| net_config(interface, config.net_limit))
                .collect(),
            block_slots: config.block_slots,
        };
        let mut fds: Vec<BorrowedFd<'_>> = vec![
            resources.kvm.as_fd(),
            resources.kernel.1.as_fd(),
            resources.initrd.1.as_fd(),
            resources.vsock.as_fd(),
            their_requests.as_fd(),
        ];
        fds.extend(root.iter().map(Given::as_fd));
        fds.extend(config.console.iter().map(AsFd::as_fd));
        fds.extend(shares.iter().map(Given::as_fd));
        fds.extend(taps.iter().map(AsFd::as_fd));
        control::send(&self.control, &launch, &fds).map_err(|source| PodError::StartVmm { source })
    }

    /// What the VMM is given for `files`: as they are, or without their surroundings.
    fn confine<'a>(&self, files: &[(BorrowedFd<'a>, Terms)]) -> Result<Vec<Given<'a>>, PodError> {
        let as_they_are = || files.iter().map(|(fd, _)| Given::AsItIs(*fd)).collect();
        if self.jail == JailMode::Off {
            return Ok(as_they_are());
        }
        match confine(files) {
            Ok(confined) => Ok(confined.into_iter().map(Given::Alone).collect()),
            Err(error) => {
                let what = "what is beside and above a share can be reached from it";
                let gap = format!("{what}: {error}");
                if self.jail == JailMode::Full {
                    let message = format!("--jail full: {gap}");
                    return Err(PodError::Vmm { message });
                }
                self.note_gaps(vec![gap]);
                Ok(as_they_are())
            }
        }
    }

    fn note_gaps(&self, gaps: Vec<String>) {
        for gap in &gaps {
            log::warn!("the jail of the VMM process is incomplete: {gap}");
        }
        lock(&self.gaps).extend(gaps);
    }

    /// What of its jail is missing, as far as it has said, a sentence each.
    pub fn gaps(&self) -> Vec<String> {
        lock(&self.gaps).clone()
    }

    /// Its warden's number among the host's processes, which lives as long as it.
    pub fn pid(&self) -> u32 {
        self.pid
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn launch_share(share: &Share) -> LaunchShare {
    LaunchShare {
        name: share.name.clone(),
        read_only: share.read_only,
        unchanging: share.unchanging,
    }
}

fn net_config(interface: &Interface, limit: RateLimit) -> NetConfig {
    NetConfig {
        mac: interface.mac,
        mtu: interface.mtu,
        rx_limit: limit,
        tx_limit: limit,
    }
}

/// The lines of the parameter file that are no comments, and what depends on the guest's memory, as one
/// command line.
fn kernel_parameters(memory: u64) -> String {
    let lines = CMDLINE
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim());
    let tables = (memory <= SMALL_MEMORY).then_some(SMALL_TABLES);
    lines
        .filter(|line| !line.is_empty())
        .chain(tables)
        .collect::<Vec<_>>()
        .join(" ")
}
