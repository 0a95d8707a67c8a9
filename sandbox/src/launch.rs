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

use devices::net::NetConfig;
use devices::rate::RateLimit;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use vmm::{MemorySize, VcpuCount};

use crate::assets;
use crate::block::{BlockVolume, reopen};
use crate::config::{PodConfig, Share};
use crate::control::{
    self, Answer, End, GuestFile, Launch, LaunchBlock, LaunchShare, MachineSize, Report, Request,
};
use crate::jail::{JailMode, Terms, WardenOptions, confine};
use crate::monitor::HostProcess;
use crate::net::{Interface, PodNetwork};
use crate::pod::PodError;
use crate::rundir::RunDir;

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

/// How often whoever waits for the end looks whether another thread has been told of it.
const SECOND_LOOK: Duration = Duration::from_millis(20);

/// How long a VMM may take to end when it was asked to, and its process to be gone after that. What it has to do is
/// finish requests that disks are slow to serve, and unmap memory. One that a guest has taken over need not
/// want to: it is killed then.
const LAST_PATIENCE: Duration = Duration::from_secs(60);

/// Longest error output of a dead VMM that is repeated.
const MAX_STDERR: u64 = 4096;

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

/// What whoever waits for the process's end finds out.
#[derive(Debug)]
struct Life {
    child: Child,
    /// What it wrote to standard error, where that is not ours.
    stderr: Option<File>,
    /// Whether it has said that the VM runs.
    is_running: bool,
    ended: Option<(End, String)>,
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

    /// Its warden's number among the host's processes, which lives as long as it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Shows the guest one more file or directory.
    ///
    /// # Errors
    /// [`PodError::ChangeShare`].
    pub fn add_share(&self, share: &Share) -> Result<(), PodError> {
        let request = Request::AddShare(launch_share(share));
        let given = self.confine(&[(share.file.as_fd(), share.terms())])?;
        let fds: Vec<_> = given.iter().map(Given::as_fd).collect();
        self.change_share(&share.name, &request, &fds)
    }

    /// Takes a share away; what the guest still holds of it answers `ESTALE`.
    ///
    /// # Errors
    /// [`PodError::ChangeShare`].
    pub fn remove_share(&self, name: &str) -> Result<(), PodError> {
        let request = Request::RemoveShare { name: name.into() };
        self.change_share(name, &request, &[])
    }

    /// Has the machine resized, and tells how large it is then.
    ///
    /// # Errors
    /// [`PodError::Resize`].
    pub fn resize(&self, vcpus: VcpuCount, memory: MemorySize) -> Result<MachineSize, PodError> {
        self.ask_size(&Request::Resize {
            vcpus: vcpus.into(),
            memory: memory.into(),
        })
    }

    /// How large the machine is.
    ///
    /// # Errors
    /// [`PodError::Resize`] when the process is gone.
    pub fn size(&self) -> Result<MachineSize, PodError> {
        self.ask_size(&Request::Size)
    }

    fn ask_size(&self, request: &Request) -> Result<MachineSize, PodError> {
        match self.request(request, &[]) {
            Ok(Answer::Size(size)) => Ok(size),
            Ok(other) => Err(format!("it answers {other:?}")),
            Err(message) => Err(message),
        }
        .map_err(|message| PodError::Resize { message })
    }

    fn change_share(
        &self,
        share: &str,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), PodError> {
        match self.request(request, fds) {
            Ok(Answer::Done) => Ok(()),
            Ok(other) => Err(format!("it answers {other:?}")),
            Err(message) => Err(message),
        }
        .map_err(|message| PodError::ChangeShare {
            share: share.to_owned(),
            message,
        })
    }

    /// Gives the machine a disk called `id`, and tells where its registers are in the guest.
    ///
    /// # Errors
    /// The reason.
    pub fn add_block(&self, id: String, volume: &BlockVolume) -> Result<u64, String> {
        let request = Request::AddBlock(LaunchBlock {
            id,
            geometry: volume.geometry,
            read_only: volume.read_only,
        });
        let alone = self.alone(volume)?;
        let file = alone.as_ref().unwrap_or(&volume.file);
        match self.request(&request, &[file.as_fd()])? {
            Answer::Plugged { address } => Ok(address),
            other => Err(format!("the VMM process answered {other:?}")),
        }
    }

    /// A disk image opened from a mount of its own, so that one to be read only cannot be opened anew for
    /// writing either. None for what needs none, or can have none.
    fn alone(&self, volume: &BlockVolume) -> Result<Option<File>, String> {
        let Some(place) = &volume.place else {
            return Ok(None);
        };
        let terms = Terms {
            read_only: volume.read_only,
            ..Terms::default()
        };
        let given = self.confine(&[(place.as_fd(), terms)]);
        let given = given.map_err(|error| error.to_string())?;
        match given.first() {
            Some(Given::Alone(place)) => reopen(place, volume.read_only)
                .map(Some)
                .map_err(|error| error.to_string()),
            _ => Ok(None),
        }
    }

    /// Takes a disk away, whatever the guest is at with it.
    ///
    /// # Errors
    /// The reason.
    pub fn remove_block(&self, address: u64) -> Result<(), String> {
        let request = Request::RemoveBlock { address };
        self.request(&request, &[]).map(drop)
    }

    /// Sends a request and waits for what came of it.
    fn request(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Answer, String> {
        let socket = lock(&self.requests);
        control::send(&*socket, request, fds).map_err(|error| error.to_string())?;
        match control::receive::<Answer>(&*socket) {
            Ok(Some((Answer::Refused { message }, _))) => Err(message),
            Ok(Some((answer, _))) => Ok(answer),
            Ok(None) => Err("the VMM process is gone".into()),
            Err(error) => Err(error.to_string()),
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
            // Once: what it says is kept, and logged.
            Ok(Some((Report::Running { gaps }, _))) if !life.is_running => {
                life.is_running = true;
                self.note_gaps(gaps);
                Ok(())
            }
            Ok(Some((Report::Running { .. }, _))) => Err(PodError::Control {
                source: io::Error::new(io::ErrorKind::InvalidData, "it says twice that it runs"),
            }),
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

    /// Whether the VM is known to have ended.
    pub fn has_ended(&self) -> bool {
        // Whoever holds it waits for the next report: there was none of the end.
        let life = self.life.try_lock();
        life.is_ok_and(|life| life.ended.is_some())
    }

    /// Waits until the VM has ended; `false` when `timeout` was over first.
    pub fn ends_within(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // The socket tells nothing of a report that another thread takes first.
            if self.has_ended()
                || self.is_reporting_within(left.min(SECOND_LOOK)) && self.next_report().is_err()
            {
                return true;
            }
            if left.is_zero() {
                return false;
            }
        }
    }

    /// Ends the VM, if it still runs. By then its process has let go of the host's files.
    pub fn halt(&self) {
        self.halt_within(LAST_PATIENCE);
    }

    fn halt_within(&self, patience: Duration) {
        self.ask_to_stop();
        if !self.ends_within(patience) {
            self.kill();
        }
        while self.next_report().is_ok() {}
    }

    /// Ends the VM, if it still runs, and the process, and tells how the VM ended.
    pub fn stop(&self) -> Option<End> {
        self.stop_within(LAST_PATIENCE)
    }

    fn stop_within(&self, patience: Duration) -> Option<End> {
        self.halt_within(patience);
        // That it says so does not mean that it has.
        let warden = self.warden;
        if warden.is_some_and(|warden| !warden.ends_within(patience).unwrap_or(true)) {
            self.kill();
        }
        let mut life = lock(&self.life);
        let _ = life.child.wait();
        life.ended.as_ref().map(|(end, _)| end.clone())
    }

    /// Kills the process, by its warden: whoever waits for its end does not let go of `life`.
    fn kill(&self) {
        log::warn!("the VMM process does not end when it is asked to: it is killed");
        if let Some(Err(error)) = self.warden.map(|warden| warden.kill(Duration::ZERO)) {
            log::error!("the VMM process cannot be killed: {error}");
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(100);

    /// A VMM that does as `script` says. Its end of the socket is standard input.
    fn vmm(script: &str) -> VmmProcess {
        let pair = || {
            let (unix, packets) = (AddressFamily::UNIX, SocketType::SEQPACKET);
            socketpair(unix, packets, SocketFlags::CLOEXEC, None).unwrap()
        };
        let ((control, theirs), (requests, _)) = (pair(), pair());
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(theirs);
        let child = command.spawn().unwrap();
        VmmProcess {
            pid: child.id(),
            warden: HostProcess::of(child.id()),
            control,
            requests: Mutex::new(requests),
            life: Mutex::new(Life {
                child,
                stderr: None,
                is_running: false,
                ended: None,
            }),
            jail: JailMode::Off,
            gaps: Mutex::default(),
            kernel: PathBuf::new(),
            initrd: PathBuf::new(),
        }
    }

    #[test]
    fn case_24_a_vmm_that_does_not_want_to_end_is_killed() {
        // The second says that it has ended, and goes on.
        for (script, said) in [
            ("exec sleep 1000", None),
            (
                "printf '{\"stopped\":{\"end\":\"stopped\",\"console\":\"\"}}' >&0; exec sleep 1000",
                Some(End::Stopped),
            ),
        ] {
            let vmm = vmm(script);
            let began = Instant::now();
            let end = std::thread::scope(|scope| {
                // Somebody waits for its end all the time.
                scope.spawn(|| while vmm.next_report().is_ok() {});
                vmm.stop_within(PATIENCE)
            });
            assert_eq!(end, said, "{script}");
            assert!(began.elapsed() < Duration::from_secs(100));
            assert!(vmm.warden.unwrap().ends_within(Duration::ZERO).unwrap());
        }
    }

    #[test]
    fn case_08_a_vmm_says_once_that_it_runs() {
        let script = "while printf '{\"running\":{\"gaps\":[\"x\"]}}' >&0; do :; done 2>/dev/null";
        let vmm = vmm(script);
        vmm.next_report().unwrap();
        for _ in 0..10 {
            let error = vmm.next_report().unwrap_err();
            assert!(matches!(error, PodError::Control { .. }), "{error}");
        }
        assert_eq!(vmm.gaps(), ["x"]);
        assert_eq!(vmm.stop_within(PATIENCE), None);
    }

    #[test]
    fn a_vmm_that_ends_is_waited_for() {
        let vmm = vmm("sleep 0.2; exit 3");
        assert_eq!(vmm.stop_within(Duration::from_secs(100)), None);
        let status = lock(&vmm.life).child.wait().unwrap();
        assert_eq!(status.code(), Some(3), "nobody killed it");
    }
}
