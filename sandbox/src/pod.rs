//! A pod: one VM with an agent in it.

mod error;

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agent_protocol::proto::stream_open::Stream;
use agent_protocol::proto::{
    AgentClient, HelloRequest, PowerOffRequest, SetupPodRequest, StatsRequest, StatsResponse,
    StreamOpen,
};
use vmm::{MemorySize, VcpuCount};

use crate::block::{BlockVolume, GuestBlock, Table};
use crate::config::{PodConfig, Share};
use crate::container::{ContainerError, ContainerHandle, ContainerRequest, GuestStats, Process};
use crate::control::End;
use crate::events::EventSink;
use crate::guest::{CALL_TIMEOUT, Guest, call_context};
use crate::kvm;
use crate::launch::{Resources, SHARE_TAG, VmmProcess};
use crate::lifeline::{Awaiting, LastWords};
use crate::net::PodNetwork;
use crate::oci::ContainerConfig;
use crate::resize::{PodSize, resize, size};
use crate::rundir::RunDir;

pub use error::PodError;

/// Longest host name: a DNS label's.
const MAX_HOSTNAME: usize = 63;
/// How long containers that still run are given at a power-off, in milliseconds.
const POWER_OFF_GRACE_MS: u32 = 1_000;
/// How long the VMM may take to report an end that its agent's silence has announced.
const REPORT_PATIENCE: Duration = Duration::from_secs(2);
/// How long a power-off that was accepted may take.
const POWER_OFF_PATIENCE: Duration = Duration::from_secs(10);

/// A running pod, to be used from any number of threads. Dropping it ends the VM at once.
pub struct Pod {
    // Order matters: the agent's connection goes before the VM, the VM before network and directory.
    guest: Guest,
    vmm: VmmProcess,
    last_words: LastWords,
    kernel_release: String,
    /// Whether data of the host could be in the guest's memory.
    writable_share: AtomicBool,
    resizing: Mutex<()>,
    blocks: Mutex<Table>,
    halted: Once,
    network: Mutex<Option<PodNetwork>>,
    /// Held for its lock, and removed with the pod unless it is kept.
    _dir: Arc<RunDir>,
}

impl Pod {
    /// Starts a VM and waits for its agent.
    ///
    /// # Errors
    /// [`PodError`]; nothing is left behind.
    pub fn start(config: PodConfig) -> Result<Self, PodError> {
        let files = GuestFiles::open(&config)?;
        let dir = RunDir::create(&config.root, &config.name)?;
        Self::start_with(config, files, Arc::new(dir))
    }

    /// Starts a VM in a directory that the caller has, and may have more in.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_in(config: PodConfig, dir: Arc<RunDir>) -> Result<Self, PodError> {
        let files = GuestFiles::open(&config)?;
        Self::start_with(config, files, dir)
    }

    fn start_with(
        mut config: PodConfig,
        files: GuestFiles,
        dir: Arc<RunDir>,
    ) -> Result<Self, PodError> {
        let GuestFiles { kernel, initrd } = files;
        let kvm = kvm::open()?;
        let vsock = UnixListener::bind(dir.vsock()).map_err(PodError::Connect)?;
        let awaiting = Awaiting::listen(&dir.vsock()).map_err(PodError::Connect)?;
        let network = config.network.take().map(PodNetwork::join).transpose()?;
        let mut resources = Resources {
            kvm,
            kernel,
            initrd,
            vsock,
            network,
        };
        let vmm = VmmProcess::start(&config, &dir, &resources)?;
        let mut network = resources.network.take();
        if let Some(network) = &mut network {
            // They are the VMM's alone, and gone with it.
            network.taps.clear();
        }
        let (hello, last_words) = awaiting
            .hello(
                &vmm,
                config.boot_timeout,
                config.cancel.as_ref().map(AsFd::as_fd),
                config.events.take().unwrap_or_else(EventSink::none),
            )
            .map_err(kvm::or_of_the_host)?;
        // A mark of `tests/bench`.
        log::info!("agent ready");
        let guest = match Guest::dial(dir.vsock()) {
            Ok(guest) => guest,
            Err(error) => return Err(failure(&last_words, &vmm).unwrap_or(error)),
        };
        let pod = Self {
            guest,
            vmm,
            last_words,
            kernel_release: hello.kernel_release,
            writable_share: AtomicBool::new(config.has_writable_share()),
            resizing: Mutex::new(()),
            blocks: Mutex::new(Table::new(config.block_slots)),
            halted: Once::new(),
            network: Mutex::new(network),
            _dir: dir,
        };
        match pod.set_up(&config) {
            Ok(()) => Ok(pod),
            // That the connection broke is the least that there is to say.
            Err(error) if error.is_of_connection() => Err(pod.failure().unwrap_or(error)),
            Err(error) => Err(error),
        }
    }

    fn set_up(&self, config: &PodConfig) -> Result<(), PodError> {
        let hello = HelloRequest {
            protocol_version: agent_protocol::PROTOCOL_VERSION,
            ..Default::default()
        };
        self.guest
            .agent
            .hello(call_context(), &hello)
            .map_err(|source| PodError::Call {
                call: "Hello",
                source,
            })?;
        let hostname = if config.hostname.is_empty() {
            config.name.chars().take(MAX_HOSTNAME).collect()
        } else {
            config.hostname.clone()
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let setup = SetupPodRequest {
            hostname,
            share_tag: SHARE_TAG.to_owned(),
            sysctls: config.sysctls.clone().into_iter().collect(),
            shm_size: config.shm_size.unwrap_or(0),
            shared_pids: config.shared_pids,
            wall_clock_ns: u64::try_from(now.as_nanos()).unwrap_or(0),
            ..Default::default()
        };
        self.guest
            .agent
            .setup_pod(call_context(), &setup)
            .map_err(|source| PodError::Call {
                call: "SetupPod",
                source,
            })?;
        if let Some(network) = &*self.network() {
            self.guest
                .agent
                .setup_network(call_context(), &network.request())
                .map_err(|source| PodError::Call {
                    call: "SetupNetwork",
                    source,
                })?;
        }
        Ok(())
    }

    fn network(&self) -> MutexGuard<'_, Option<PodNetwork>> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Addresses of the guest's interfaces, in their order.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let network = self.network();
        let interfaces = network.iter().flat_map(|network| &network.interfaces);
        let addresses = interfaces.flat_map(|interface| &interface.addresses);
        addresses.map(|prefix| prefix.address).collect()
    }

    /// `uname -r` of the guest.
    #[must_use]
    pub fn kernel_release(&self) -> &str {
        &self.kernel_release
    }

    /// What of the VMM's jail is missing on this host, a sentence each.
    #[must_use]
    pub fn jail_gaps(&self) -> Vec<String> {
        self.vmm.gaps()
    }

    /// The agent, for calls that have no method here.
    #[must_use]
    pub fn agent(&self) -> &AgentClient {
        &self.guest.agent
    }

    /// Creates a container and connects its standard streams.
    ///
    /// # Errors
    /// [`ContainerError`]; the pod stays usable.
    pub fn create_container(&self, config: &ContainerConfig) -> Result<Process, PodError> {
        Ok(self.create(config.request())?)
    }

    /// Creates a container of an OCI configuration and connects its standard streams.
    ///
    /// # Errors
    /// [`ContainerError`]; the pod stays usable.
    pub fn create(&self, request: ContainerRequest) -> Result<Process, ContainerError> {
        ContainerHandle::create(&self.guest, request)
    }

    /// Steers the container `id`, from any thread; whether there is one shows when it is used.
    #[must_use]
    pub fn container(&self, id: &str) -> ContainerHandle {
        ContainerHandle::new(&self.guest, id)
    }

    /// What the guest as a whole uses.
    ///
    /// # Errors
    /// [`ContainerError::Call`].
    pub fn stats(&self) -> Result<GuestStats, ContainerError> {
        Ok(self.all_stats()?.guest.take().unwrap_or_default())
    }

    /// What the guest and all its containers use.
    pub(crate) fn all_stats(&self) -> Result<StatsResponse, ContainerError> {
        let answer = self.guest.agent.stats(call_context(), &StatsRequest::new());
        answer.map_err(|error| ContainerError::Call {
            call: "Stats",
            error,
        })
    }

    /// Connects to a vsock port of the guest.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        self.guest.connect(port)
    }

    /// Connects to whoever listens on a TCP port of the guest's localhost. Each direction ends with a
    /// half-close.
    ///
    /// # Errors
    /// [`ContainerError::Open`] when nobody does.
    pub fn dial_localhost(&self, port: u16) -> Result<UnixStream, ContainerError> {
        self.dial_localhost_until(port, Instant::now() + CALL_TIMEOUT)
    }

    /// Likewise, and gives up at that time.
    pub(crate) fn dial_localhost_until(
        &self,
        port: u16,
        until: Instant,
    ) -> Result<UnixStream, ContainerError> {
        let open = StreamOpen {
            stream: Stream::LOCALHOST.into(),
            port: port.into(),
            ..Default::default()
        };
        let asked = self.guest.ask_for_stream(&open);
        let asked = asked.map_err(ContainerError::Connect)?;
        asked.opened(until)
    }

    /// A handle that ends the VM from any thread.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn killer(&self) -> io::Result<PodKiller> {
        Ok(PodKiller(self.vmm.control().try_clone_to_owned()?))
    }

    /// Why the agent is gone, if it said so, or else how the VM ended.
    #[must_use]
    pub fn failure(&self) -> Option<PodError> {
        failure(&self.last_words, &self.vmm)
    }

    /// Shows the guest one more file or directory, below the pod's share.
    ///
    /// # Errors
    /// [`PodError::ChangeShare`]: the name is taken, or the VM has ended.
    pub fn add_share(&self, share: &Share) -> Result<(), PodError> {
        self.vmm.add_share(share)?;
        if !share.read_only {
            self.writable_share.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Takes a share away; what the guest still has open of it answers `ESTALE`.
    ///
    /// # Errors
    /// [`PodError::ChangeShare`]: there is none of that name, or the VM has ended.
    pub fn remove_share(&self, name: &str) -> Result<(), PodError> {
        self.vmm.remove_share(name)
    }

    /// Makes the VM larger or smaller while it runs, as far as its guest goes along, and tells how large it
    /// is then. It grows as soon as the guest's kernel has taken what it was given. It shrinks by what the
    /// guest can do without: memory that is in use stays.
    ///
    /// Memory comes and goes in blocks of 2 MiB, and a size is rounded up to them.
    ///
    /// # Errors
    /// [`PodError::Resize`] beyond the maximum that the VM was started with, [`PodError::Call`] when the guest
    /// does not bring vCPUs up or down.
    pub fn resize(&self, vcpus: VcpuCount, memory: MemorySize) -> Result<PodSize, PodError> {
        let resizing = self.resizing.lock();
        let _one_at_a_time = resizing.unwrap_or_else(PoisonError::into_inner);
        resize(&self.vmm, &self.guest.agent, vcpus, memory)
    }

    /// How large the VM is.
    ///
    /// # Errors
    /// [`PodError::Resize`] when the VM has ended, [`PodError::Call`] when the guest does not tell.
    pub fn size(&self) -> Result<PodSize, PodError> {
        size(&self.vmm, &self.guest.agent)
    }

    /// Gives the guest a disk, and tells its numbers there. One that it has already, on the same terms,
    /// is the same disk: whoever uses it sees what the others write.
    ///
    /// # Errors
    /// [`PodError::Block`]: there is no room for another one, or the guest does not take it.
    pub fn add_block(&self, volume: &BlockVolume) -> Result<GuestBlock, PodError> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let block = blocks.add(volume, &self.vmm, &self.guest.agent)?;
        if !volume.read_only {
            self.writable_share.store(true, Ordering::Relaxed);
        }
        Ok(block)
    }

    /// Takes a disk away from the guest, once for each time that it was given. With the last, the
    /// guest's driver writes what it has kept back and lets go; then the disk is gone, whether it has or
    /// not.
    ///
    /// # Errors
    /// [`PodError::Block`]: what the guest had not written back is lost.
    pub fn remove_block(&self, block: GuestBlock) -> Result<(), PodError> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(blocks.remove(block, &self.vmm, &self.guest.agent)?)
    }

    /// The number among the host's processes of the VMM's warden, which lives as long as the VMM.
    #[must_use]
    pub fn vmm_pid(&self) -> u32 {
        self.vmm.pid()
    }

    /// Waits until the VM has ended, however long that takes, and tells why.
    pub fn wait(&self) -> PodError {
        loop {
            if let Err(error) = self.vmm.next_report() {
                return match self.last_words.get() {
                    Some(message) => PodError::Agent { message },
                    None => error,
                };
            }
        }
    }

    /// Ends the VM: by an orderly power-off where data of the host could still be in the guest's
    /// memory, at once otherwise. Then nothing of the guest runs any more, and what it wrote is with the
    /// host. The VMM process may be on its way out still, which is long on a busy host.
    ///
    /// Whoever comes second waits for the first.
    pub fn halt(&self) {
        self.halted.call_once(|| {
            if self.writable_share.load(Ordering::Relaxed) && !self.vmm.has_ended() {
                let request = PowerOffRequest {
                    grace_ms: POWER_OFF_GRACE_MS,
                    ..Default::default()
                };
                if self.guest.agent.power_off(call_context(), &request).is_ok() {
                    self.vmm.ends_within(POWER_OFF_PATIENCE);
                }
            }
            self.vmm.halt();
        });
    }

    /// Ends the pod: the VM as by [`halt`](Self::halt), then its process and its part of the network.
    ///
    /// # Errors
    /// None at present; how the VM ended is told where it is known.
    pub fn stop(&self) -> Result<Option<End>, PodError> {
        self.halt();
        let end = self.vmm.stop();
        drop(self.network().take());
        Ok(end)
    }
}

/// What the agent said last, or else how the VM ended.
fn failure(last_words: &LastWords, vmm: &VmmProcess) -> Option<PodError> {
    if let Some(message) = last_words.get() {
        return Some(PodError::Agent { message });
    }
    if !vmm.is_reporting_within(REPORT_PATIENCE) {
        return None;
    }
    loop {
        if let Err(error) = vmm.next_report() {
            return Some(error);
        }
    }
}

/// Ends a pod's VM at once.
#[derive(Debug)]
pub struct PodKiller(OwnedFd);

impl PodKiller {
    /// Ends the VM as pulling the plug would. Calls to its agent fail from then on.
    pub fn kill(&self) {
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Write);
    }
}

/// What can be wrong with the request comes before what can be wrong with the machine.
struct GuestFiles {
    kernel: (PathBuf, File),
    initrd: (PathBuf, File),
}

impl GuestFiles {
    fn open(config: &PodConfig) -> Result<Self, PodError> {
        Ok(Self {
            kernel: open("--kernel", config.assets.kernel()?)?,
            initrd: open("--initrd", config.assets.initrd()?)?,
        })
    }
}

fn open(parameter: &'static str, path: PathBuf) -> Result<(PathBuf, File), PodError> {
    let opened = File::open(&path).and_then(|file| {
        let kind = file.metadata()?.file_type();
        if kind.is_file() {
            Ok(file)
        } else {
            Err(io::Error::other("is not a regular file"))
        }
    });
    match opened {
        Ok(file) => Ok((path, file)),
        Err(source) => Err(PodError::OpenAsset {
            parameter,
            path,
            source,
        }),
    }
}
