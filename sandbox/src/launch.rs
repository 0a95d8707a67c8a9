//! Starting a VMM process and hearing how it ends.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::assets;
use crate::config::{PodConfig, Share};
use crate::control::{self, End, GuestFile, Launch, LaunchShare, Report};
use crate::jail::{JailMode, Terms, WardenOptions, confine};
use crate::pod::PodError;
use crate::rundir::RunDir;

/// virtio-fs tag of the pod's share.
pub const SHARE_TAG: &str = "podvmm";

/// Kernel parameters that make the guest kernel of this project boot fast; see the file itself.
const CMDLINE: &str = include_str!("../../guest-kernel-config/cmdline");

/// What the process that was started is called; the VMM is its child.
const WARDEN: &str = "podvmm-warden";

/// Longest error output of a dead VMM that is repeated.
const MAX_STDERR: u64 = 4096;

/// A VMM process.
#[derive(Debug)]
pub struct VmmProcess {
    child: Child,
    control: OwnedFd,
    /// What it wrote to standard error, where that is not ours.
    stderr: Option<File>,
    ended: Option<(End, String)>,
    /// What of its jail is missing.
    gaps: Vec<String>,
    kernel: PathBuf,
    initrd: PathBuf,
}

/// A share as the VMM is given it.
enum Confined<'a> {
    Alone(OwnedFd),
    AsItIs(&'a Share),
}

impl Confined<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Alone(fd) => fd.as_fd(),
            Self::AsItIs(share) => share.file.as_fd(),
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
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(|errno| start_error(errno.into()))?;
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
        let mut process = Self {
            child,
            control: ours,
            stderr,
            ended: None,
            gaps: Vec::new(),
            kernel: resources.kernel.0.clone(),
            initrd: resources.initrd.0.clone(),
        };
        process.configure(config, dir, resources)?;
        Ok(process)
    }

    fn configure(
        &mut self,
        config: &PodConfig,
        dir: &RunDir,
        resources: &Resources,
    ) -> Result<(), PodError> {
        let shares = config.shares.iter().map(|share| LaunchShare {
            name: share.name.clone(),
            read_only: share.read_only,
            unchanging: share.unchanging,
        });
        let (root, files) = self.confine(config, dir);
        let launch = Launch {
            vcpus: config.vcpus.get().into(),
            memory: config.memory.bytes(),
            cmdline: kernel_parameters(),
            seccomp: config.seccomp,
            root: root.is_some(),
            console: config.console.is_some(),
            vsock_path: dir.vsock().display().to_string(),
            share_tag: SHARE_TAG.to_owned(),
            shares: shares.collect(),
        };
        let mut fds: Vec<BorrowedFd<'_>> = vec![
            resources.kvm.as_fd(),
            resources.kernel.1.as_fd(),
            resources.initrd.1.as_fd(),
            resources.vsock.as_fd(),
        ];
        fds.extend(root.iter().map(AsFd::as_fd));
        fds.extend(config.console.iter().map(AsFd::as_fd));
        fds.extend(files.iter().map(Confined::as_fd));
        control::send(&self.control, &launch, &fds).map_err(|source| PodError::StartVmm { source })
    }

    /// The VMM's root directory and the shares, without their surroundings if that can be had.
    fn confine<'a>(
        &mut self,
        config: &'a PodConfig,
        dir: &RunDir,
    ) -> (Option<OwnedFd>, Vec<Confined<'a>>) {
        let as_they_are = config.shares.iter().map(Confined::AsItIs);
        if config.jail == JailMode::Off {
            return (None, as_they_are.collect());
        }
        let confined = dir.open_vmm_root().and_then(|root| {
            let terms = Terms {
                read_only: true,
                submounts: false,
            };
            let shares = config.shares.iter();
            let shares = shares.map(|share| (share.file.as_fd(), share.terms()));
            let all: Vec<_> = std::iter::once((root.as_fd(), terms))
                .chain(shares)
                .collect();
            confine(&all)
        });
        let mut confined = match confined {
            Ok(confined) => confined.into_iter(),
            Err(error) => {
                let what = "what is beside and above a share can be reached from it";
                self.gaps.push(format!("{what}: {error}"));
                return (None, as_they_are.collect());
            }
        };
        let root = confined.next();
        (root, confined.map(Confined::Alone).collect())
    }

    /// What of its jail is missing, as far as it has said, a sentence each.
    pub fn gaps(&self) -> &[String] {
        &self.gaps
    }

    /// Readable when the process has something to say or is gone.
    pub fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Waits until the process has something to say or is gone; `false` when `timeout` was over first.
    pub fn is_reporting_within(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut set = [PollFd::new(&self.control, PollFlags::IN)];
            match poll(&mut set, Some(&timeout)) {
                Ok(ready) => return ready > 0,
                Err(_) if left.is_zero() => return false,
                Err(_) => {}
            }
        }
    }

    /// Takes the next report, waiting for it. `Err` once the VM has stopped or was never made.
    pub fn next_report(&mut self) -> Result<(), PodError> {
        match control::receive::<Report>(&self.control) {
            Ok(Some((Report::Running { gaps }, _))) => {
                self.gaps.extend(gaps);
                Ok(())
            }
            Ok(Some((Report::Failed { file, message }, _))) => Err(self.refused(file, message)),
            Ok(Some((Report::Stopped { end, console }, _))) => {
                self.ended = Some((end.clone(), console.clone()));
                Err(PodError::Ended { end, console })
            }
            Ok(None) => Err(self.died()),
            Err(source) => Err(PodError::Control { source }),
        }
    }

    /// Ends the VM, if it still runs, and the process, and tells how the VM ended.
    pub fn stop(mut self) -> Option<End> {
        // Half-closing is the order to stop; the answer still comes through.
        let _ = rustix::net::shutdown(&self.control, rustix::net::Shutdown::Write);
        while self.ended.is_none() {
            if self.next_report().is_err() {
                break;
            }
        }
        let _ = self.child.wait();
        self.ended.take().map(|(end, _)| end)
    }

    /// The VM could not be made: says which parameter is at fault where one is.
    fn refused(&self, file: Option<GuestFile>, message: String) -> PodError {
        let (parameter, path) = match file {
            None => return PodError::Vmm { message },
            Some(GuestFile::Kernel) => ("--kernel", &self.kernel),
            Some(GuestFile::Initrd) => ("--initrd", &self.initrd),
        };
        PodError::BadAsset {
            parameter,
            path: path.clone(),
            message,
        }
    }

    /// The process ended without a report: says what is known of it.
    fn died(&mut self) -> PodError {
        let status = self.child.wait();
        let mut message = match status {
            Ok(status) => format!("it ended with {status}"),
            Err(error) => format!("its status is unknown: {error}"),
        };
        let mut said = String::new();
        if let Some(file) = &mut self.stderr
            && file.seek(SeekFrom::Start(0)).is_ok()
            && file.take(MAX_STDERR).read_to_string(&mut said).is_ok()
            && !said.trim().is_empty()
        {
            message = format!("{message}, saying: {}", said.trim());
        }
        PodError::VmmDied { message }
    }
}

impl Drop for VmmProcess {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The lines of the parameter file that are no comments, as one command line.
fn kernel_parameters() -> String {
    let lines = CMDLINE
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim());
    lines
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}
