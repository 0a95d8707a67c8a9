//! The life of the socket device.

use std::fmt;
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread::JoinHandle;

use thiserror::Error;
use vmm_sys_util::epoll::Epoll;
use vmm_sys_util::eventfd::EventFd;

use super::config::{GuestCid, HostPorts, Limits, VsockConfig};
use super::events::Events;
use super::host::UnixBackend;
use super::lobby::Lobby;
use super::muxer::{HOST_PORTS_FROM, Muxer};
use super::rx::Rx;
use super::spec::{F_STREAM, HEADER_SIZE};
use super::state::VsockStateV1;
use super::tx::Tx;
use super::worker::{Hub, Worker};
use crate::device::{
    ActivateError, Activation, ActiveDevice, DeviceKind, DeviceState, Stopped, VirtioDevice,
};
use crate::queue::{ActiveQueue, QueueFault, QueueSize};

const fn size(entries: u16) -> QueueSize {
    match QueueSize::new(entries) {
        Some(size) => size,
        None => unreachable!(),
    }
}

/// rx, tx, event. Linux fills the receive queue with buffers of a page each, so its length is memory
/// of the guest: 512 KiB.
const QUEUE_SIZES: [QueueSize; 3] = [size(128), size(128), size(16)];

/// The socket device (virtio-v1.2 §5.10).
pub struct Vsock {
    host: Host,
    config_space: [u8; 8],
    /// What goes on after a pause.
    kept: Option<Kept>,
}

/// The host's side as it was handed in.
#[derive(Clone)]
struct Host {
    guest_cid: GuestCid,
    limits: Limits,
    listener: Arc<UnixListener>,
    ports: Arc<HostPorts>,
}

struct Kept {
    hub: Hub,
    is_reset_due: bool,
}

impl fmt::Debug for Vsock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vsock")
            .field("guest_cid", &self.host.guest_cid)
            .finish_non_exhaustive()
    }
}

/// Why a socket device could not be made or started.
#[derive(Debug, Error)]
pub enum VsockError {
    /// The listener does not take the non-blocking mode.
    #[error("cannot switch the listening socket to non-blocking mode")]
    Listener(#[source] io::Error),
    /// The driver left the receive or transmit queue unused.
    #[error("the driver set up no {0} queue")]
    NoQueue(&'static str),
    /// A saved state of another device, version or size.
    #[error("the saved state is not one of a socket device, or of an unknown version")]
    State,
    /// A descriptor that the worker needs could not be made or watched.
    #[error("cannot set up the worker's events")]
    Events(#[source] io::Error),
    /// The thread could not be started.
    #[error("cannot start the worker")]
    Worker(#[source] io::Error),
}

/// What stops the device until its driver resets it.
#[derive(Debug, Error)]
pub enum VsockFault {
    /// The rings or a chain are broken.
    #[error(transparent)]
    Queue(#[from] QueueFault),
    /// A packet that is shorter than its header.
    #[error("a packet of {len} bytes has no room for a header of {}", HEADER_SIZE)]
    TxHeader {
        /// Bytes in the chain.
        len: usize,
    },
    /// A receive buffer that cannot hold a packet, or that is not all writable.
    #[error("a receive buffer of {len} writable bytes cannot hold a packet with data")]
    RxBuffer {
        /// Writable bytes in the chain.
        len: usize,
    },
    /// An event buffer that cannot hold an event.
    #[error("an event buffer of {len} writable bytes cannot hold an event")]
    EventBuffer {
        /// Writable bytes in the chain.
        len: usize,
    },
    /// The host does not let the worker wait: not the driver's fault.
    #[error("cannot wait for events")]
    Wait(#[source] io::Error),
}

impl Vsock {
    /// A device that no driver uses. Host programs may connect to the listener already: they are
    /// answered when the guest's driver is there.
    ///
    /// # Errors
    /// [`VsockError::Listener`] when it cannot be made non-blocking.
    pub fn new(config: VsockConfig) -> Result<Self, VsockError> {
        config
            .listener
            .set_nonblocking(true)
            .map_err(VsockError::Listener)?;
        Ok(Self::with_host(Host {
            guest_cid: config.guest_cid,
            limits: config.limits,
            listener: Arc::new(config.listener),
            ports: Arc::new(config.host_ports),
        }))
    }

    fn with_host(host: Host) -> Self {
        Self {
            config_space: host.guest_cid.get().to_le_bytes(),
            host,
            kept: None,
        }
    }

    fn start(&mut self, mut with: Activation) -> Result<Active, VsockError> {
        let mut queue = |index: usize| with.queues.get_mut(index).and_then(Option::take);
        let rx = Rx::new(queue(0).ok_or(VsockError::NoQueue("receive"))?);
        let tx = Tx::new(queue(1).ok_or(VsockError::NoQueue("transmit"))?);
        let event_queue = queue(2);
        let Kept { hub, is_reset_due } = self.hub(with.state.as_ref())?;
        let events = Events::new(event_queue, with.memory, is_reset_due);
        let stop = EventFd::new(libc::EFD_CLOEXEC).map_err(VsockError::Events)?;
        let stop_too = stop.try_clone().map_err(VsockError::Events)?;
        let worker = Worker::new(hub, rx, tx, events, stop_too).map_err(VsockError::Events)?;
        let thread = with
            .threads
            .start(DeviceKind::Vsock, "virtio-vsock", move || worker.run())
            .map_err(VsockError::Worker)?;
        Ok(Active {
            thread,
            stop,
            host: self.host.clone(),
        })
    }

    /// The connections to go on with: those kept over a pause, or none.
    fn hub(&mut self, state: Option<&DeviceState>) -> Result<Kept, VsockError> {
        let kept = self.kept.take();
        let Some(state) = state else {
            return self.new_hub(HOST_PORTS_FROM, false);
        };
        let state = VsockStateV1::restore(state).ok_or(VsockError::State)?;
        match kept {
            Some(kept) => Ok(kept),
            // Restored: what the driver knows of connections is of another time.
            None => self.new_hub(state.next_host_port.get(), true),
        }
    }

    fn new_hub(&self, next_host_port: u32, is_reset_due: bool) -> Result<Kept, VsockError> {
        let epoll = Arc::new(Epoll::new().map_err(VsockError::Events)?);
        let backend = UnixBackend {
            ports: Arc::clone(&self.host.ports),
            epoll: Arc::clone(&epoll),
        };
        let (guest, limits) = (self.host.guest_cid, self.host.limits);
        Ok(Kept {
            hub: Hub {
                muxer: Muxer::new(backend, guest, limits, next_host_port),
                lobby: Lobby::default(),
                listener: Arc::clone(&self.host.listener),
                epoll,
            },
            is_reset_due,
        })
    }
}

impl VirtioDevice for Vsock {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Vsock
    }

    fn queue_sizes(&self) -> &[QueueSize] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        F_STREAM
    }

    fn config(&self) -> &[u8] {
        &self.config_space
    }

    fn reset(&mut self) {
        self.kept = None;
    }

    fn activate(
        mut self: Box<Self>,
        with: Activation,
    ) -> Result<Box<dyn ActiveDevice>, ActivateError> {
        match self.start(with) {
            Ok(active) => Ok(Box::new(active)),
            Err(error) => Err(ActivateError {
                kind: DeviceKind::Vsock,
                device: self,
                source: error.into(),
            }),
        }
    }
}

/// A socket device whose worker runs.
struct Active {
    thread: JoinHandle<Worker>,
    stop: EventFd,
    host: Host,
}

impl ActiveDevice for Active {
    fn stop(self: Box<Self>) -> Stopped {
        let _ = self.stop.write(1);
        let mut device = Vsock::with_host(self.host);
        let mut queues = vec![None, None, None];
        let mut next_host_port = HOST_PORTS_FROM;
        // A worker that panicked has taken queues and connections with it.
        if let Ok(worker) = self.thread.join() {
            let Worker {
                hub,
                rx,
                tx,
                events,
                ..
            } = worker;
            next_host_port = hub.muxer.next_host_port();
            let is_reset_due = events.is_reset_due();
            let event_queue = events.into_queue();
            queues = [Some(rx.queue), Some(tx.queue), event_queue]
                .into_iter()
                .map(|queue| queue.map(ActiveQueue::save))
                .collect();
            device.kept = Some(Kept { hub, is_reset_due });
        }
        let state = VsockStateV1 {
            guest_cid: device.host.guest_cid.get().into(),
            next_host_port: next_host_port.into(),
        };
        Stopped {
            device: Box::new(device),
            queues,
            state: state.save(),
        }
    }
}
