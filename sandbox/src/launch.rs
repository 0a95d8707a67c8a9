//! Starting a VMM process and hearing how it ends.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::assets;
use crate::config::{PodConfig, Share};
use crate::control::{self, Answer, End, GuestFile, Launch, LaunchShare, Report, Request};
use crate::pod::PodError;
use crate::rundir::RunDir;

/// virtio-fs tag of the pod's share.
pub const SHARE_TAG: &str = "podvmm";

/// Kernel parameters that make the guest kernel of this project boot fast; see the file itself.
const CMDLINE: &str = include_str!("../../guest-kernel-config/cmdline");

/// Longest error output of a dead VMM that is repeated.
const MAX_STDERR: u64 = 4096;

/// A VMM process. All of it may be used from several threads at once.
#[derive(Debug)]
pub struct VmmProcess {
    pid: u32,
    control: OwnedFd,
    /// Held from a request to its answer.
    requests: Mutex<OwnedFd>,
    life: Mutex<Life>,
    kernel: PathBuf,
    initrd: PathBuf,
}

/// What whoever waits for the process's end finds out.
#[derive(Debug)]
struct Life {
    child: Child,
    /// What it wrote to standard error, where that is not ours.
    stderr: Option<File>,
    ended: Option<(End, String)>,
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
        let mut command = Command::new(&binary);
        command
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
            control: ours,
            requests: Mutex::new(requests),
            life: Mutex::new(Life {
                child,
                stderr,
                ended: None,
            }),
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
        let launch = Launch {
            vcpus: config.vcpus.get().into(),
            memory: config.memory.bytes(),
            cmdline: kernel_parameters(),
            console: config.console.is_some(),
            vsock_path: dir.vsock().display().to_string(),
            share_tag: SHARE_TAG.to_owned(),
            shares: config.shares.iter().map(launch_share).collect(),
            runtime_dir: dir.path().display().to_string(),
        };
        let mut fds: Vec<BorrowedFd<'_>> = vec![
            resources.kvm.as_fd(),
            resources.kernel.1.as_fd(),
            resources.initrd.1.as_fd(),
            resources.vsock.as_fd(),
            their_requests.as_fd(),
        ];
        fds.extend(config.console.iter().map(AsFd::as_fd));
        fds.extend(config.shares.iter().map(|share| share.file.as_fd()));
        control::send(&self.control, &launch, &fds).map_err(|source| PodError::StartVmm { source })
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

    /// Its number among the host's processes.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Shows the guest one more file or directory.
    ///
    /// # Errors
    /// [`PodError::ChangeShare`].
    pub fn add_share(&self, share: &Share) -> Result<(), PodError> {
        let request = Request::AddShare(launch_share(share));
        self.request(&share.name, &request, &[share.file.as_fd()])
    }

    /// Takes a share away; what the guest still holds of it answers `ESTALE`.
    ///
    /// # Errors
    /// [`PodError::ChangeShare`].
    pub fn remove_share(&self, name: &str) -> Result<(), PodError> {
        let request = Request::RemoveShare { name: name.into() };
        self.request(name, &request, &[])
    }

    fn request(
        &self,
        share: &str,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), PodError> {
        let failed = |message: String| PodError::ChangeShare {
            share: share.to_owned(),
            message,
        };
        let socket = lock(&self.requests);
        control::send(&*socket, request, fds).map_err(|error| failed(error.to_string()))?;
        match control::receive::<Answer>(&*socket) {
            Ok(Some((Answer::Done, _))) => Ok(()),
            Ok(Some((Answer::Refused { message }, _))) => Err(failed(message)),
            Ok(None) => Err(failed("the VMM process is gone".into())),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Takes the next report, waiting for it. `Err` once the VM has stopped or was never made.
    pub fn next_report(&self) -> Result<(), PodError> {
        // One at a time: who comes second finds what the first was told.
        let mut life = lock(&self.life);
        if let Some((end, console)) = life.ended.clone() {
            return Err(PodError::Ended { end, console });
        }
        match control::receive::<Report>(&self.control) {
            Ok(Some((Report::Running, _))) => Ok(()),
            Ok(Some((Report::Failed { file, message }, _))) => Err(self.refused(file, message)),
            Ok(Some((Report::Stopped { end, console }, _))) => {
                life.ended = Some((end.clone(), console.clone()));
                Err(PodError::Ended { end, console })
            }
            Ok(None) => Err(life.died()),
            Err(source) => Err(PodError::Control { source }),
        }
    }

    /// Tells the VM to stop, and does not wait for it.
    pub fn ask_to_stop(&self) {
        // Half-closing is the order to stop; the answer still comes through.
        let _ = rustix::net::shutdown(&self.control, rustix::net::Shutdown::Write);
    }

    /// Ends the VM, if it still runs, and the process, and tells how the VM ended.
    pub fn stop(&self) -> Option<End> {
        self.ask_to_stop();
        while self.next_report().is_ok() {}
        let mut life = lock(&self.life);
        let _ = life.child.wait();
        life.ended.as_ref().map(|(end, _)| end.clone())
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
}

impl Life {
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
        let life = self.life.get_mut().unwrap_or_else(PoisonError::into_inner);
        if matches!(life.child.try_wait(), Ok(None)) {
            let _ = life.child.kill();
            let _ = life.child.wait();
        }
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
