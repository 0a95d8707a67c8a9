//! The life of the network device.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;
use zerocopy::IntoBytes;

use super::backend::{NetBackend, Offloads};
use super::config::NetConfig;
use super::counters::{Counters, NetCounters};
use super::spec::{
    Config, F_CSUM, F_GUEST_CSUM, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_USO4, F_GUEST_USO6,
    F_HOST_TSO4, F_HOST_TSO6, F_HOST_USO, F_MAC, F_MRG_RXBUF, F_MTU, F_STATUS, HEADER_SIZE,
    LINK_UP,
};
use super::state::{InvalidNetState, NetStateV1};
use super::worker::{self, Direction, Parts, Terms, Watch};
use crate::device::{ActivateError, Activation, ActiveDevice, DeviceKind, Stopped, VirtioDevice};
use crate::queue::{QueueFault, QueueSize};
use crate::rate::Limiter;

const fn size(entries: u16) -> QueueSize {
    match QueueSize::new(entries) {
        Some(size) => size,
        None => unreachable!(),
    }
}

/// rx, tx. Linux fills the receive queue with buffers of 1.5 KiB and more: 384 KiB.
const QUEUE_SIZES: [QueueSize; 2] = [size(256), size(256)];

/// Most frames of an earlier life that are looked for; a tap holds 1000 at most.
const MAX_STALE: usize = 4096;

/// The network device (virtio-v1.2 §5.1).
pub struct Net {
    config: NetConfig,
    backend: Arc<dyn NetBackend>,
    config_space: Vec<u8>,
    counters: Arc<Counters>,
    /// What goes on after a pause: the limits of rx and tx.
    kept: Option<(Limiter, Limiter)>,
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Why a network device could not be started.
#[derive(Debug, Error)]
enum NetError {
    #[error("the driver set up no {0} queue")]
    NoQueue(&'static str),
    #[error("its saved state cannot be taken up")]
    State(#[from] InvalidNetState),
    #[error("the backend cannot be told what the guest takes")]
    Offloads(#[source] io::Error),
    #[error("cannot set up the worker's events")]
    Events(#[source] io::Error),
    #[error("cannot start the worker")]
    Worker(#[source] io::Error),
}

/// What stops the device until its driver resets it.
#[derive(Debug, Error)]
pub(super) enum NetFault {
    /// The rings or a chain are broken.
    #[error(transparent)]
    Queue(#[from] QueueFault),
    /// A frame that is shorter than its header.
    #[error("a frame of {len} bytes has no room for a header of {}", HEADER_SIZE)]
    TxHeader { len: usize },
    /// A receive buffer that cannot hold a header, or that is not all writable.
    #[error(
        "a receive buffer of {len} writable bytes cannot hold a header, or it is not all writable"
    )]
    RxBuffer { len: usize },
    /// The host does not let the worker wait: not the driver's fault.
    #[error("cannot wait for events")]
    Wait(#[source] io::Error),
}

impl Net {
    /// A device that no driver uses, on a backend that is its alone.
    #[must_use]
    pub fn new(config: NetConfig, backend: Arc<dyn NetBackend>) -> Self {
        let space = Config {
            mac: config.mac.octets(),
            status: LINK_UP.into(),
            max_virtqueue_pairs: 1.into(),
            mtu: config.mtu.get().into(),
        };
        Self {
            config,
            backend,
            config_space: space.as_bytes().to_vec(),
            counters: Arc::default(),
            kept: None,
        }
    }

    /// What passes through it, also after it has moved into a machine.
    #[must_use]
    pub fn counters(&self) -> NetCounters {
        NetCounters(Arc::clone(&self.counters))
    }

    fn start(&mut self, mut with: Activation) -> Result<(JoinHandle<Parts>, EventFd), NetError> {
        let mut queue = |index: usize| with.queues.get_mut(index).and_then(Option::take);
        let rx = queue(0).ok_or(NetError::NoQueue("receive"))?;
        let tx = queue(1).ok_or(NetError::NoQueue("transmit"))?;
        if let Some(state) = &with.state {
            NetStateV1::restore(state)?;
        }
        self.backend
            .set_guest_offloads(guest_offloads(with.features))
            .map_err(NetError::Offloads)?;
        if with.state.is_none() {
            // Frames that came for an earlier driver may be of kinds that this one does not take.
            discard_frames(&*self.backend);
        }
        let (rx_limiter, tx_limiter) = self.kept.take().unwrap_or_else(|| {
            let NetConfig {
                rx_limit, tx_limit, ..
            } = self.config;
            (Limiter::new(rx_limit), Limiter::new(tx_limit))
        });
        let parts = Parts {
            rx: Direction {
                queue: rx,
                limiter: rx_limiter,
            },
            tx: Direction {
                queue: tx,
                limiter: tx_limiter,
            },
        };
        let terms = Terms {
            backend: Arc::clone(&self.backend),
            config: self.config,
            features: with.features,
            counters: Arc::clone(&self.counters),
        };
        let stop = EventFd::new(libc::EFD_CLOEXEC).map_err(NetError::Events)?;
        let stop_too = stop.try_clone().map_err(NetError::Events)?;
        let watch = Watch::new(&parts, &terms, stop_too).map_err(NetError::Events)?;
        let thread = with
            .threads
            .start(DeviceKind::Net, "virtio-net", move || {
                worker::run(parts, watch, terms)
            })
            .map_err(NetError::Worker)?;
        Ok((thread, stop))
    }
}

/// What is offered on a backend with these abilities.
fn features_of(offloads: Offloads) -> u64 {
    let Offloads {
        checksum,
        tso4,
        tso6,
        uso,
    } = offloads;
    [
        (checksum, F_CSUM | F_GUEST_CSUM),
        (checksum && tso4, F_HOST_TSO4 | F_GUEST_TSO4),
        (checksum && tso6, F_HOST_TSO6 | F_GUEST_TSO6),
        (checksum && uso, F_HOST_USO | F_GUEST_USO4 | F_GUEST_USO6),
    ]
    .into_iter()
    .filter(|(is_there, _)| *is_there)
    .fold(F_MAC | F_MTU | F_STATUS | F_MRG_RXBUF, |all, (_, bits)| {
        all | bits
    })
}

/// What a driver with these features may be given. Large segments come with incomplete checksums
/// (virtio-v1.2 §5.1.3.1).
fn guest_offloads(features: u64) -> Offloads {
    let has = |bits: u64| features & bits == bits;
    let checksum = has(F_GUEST_CSUM);
    Offloads {
        checksum,
        tso4: checksum && has(F_GUEST_TSO4),
        tso6: checksum && has(F_GUEST_TSO6),
        uso: checksum && has(F_GUEST_USO4 | F_GUEST_USO6),
    }
}

fn discard_frames(backend: &dyn NetBackend) {
    let mut header = [0; HEADER_SIZE];
    for _ in 0..MAX_STALE {
        match rustix::io::read(backend.as_fd(), &mut header) {
            Ok(1..) => {}
            // None is left, or none will ever come.
            Ok(0) | Err(_) => return,
        }
    }
}

impl VirtioDevice for Net {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Net
    }

    fn queue_sizes(&self) -> &[QueueSize] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        features_of(self.backend.offloads())
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
            Ok((thread, stop)) => Ok(Box::new(Active {
                device: self,
                thread,
                stop,
            })),
            Err(error) => Err(ActivateError {
                kind: DeviceKind::Net,
                device: self,
                source: error.into(),
            }),
        }
    }
}

/// A network device whose worker runs.
struct Active {
    device: Box<Net>,
    thread: JoinHandle<Parts>,
    stop: EventFd,
}

impl ActiveDevice for Active {
    fn stop(mut self: Box<Self>) -> Stopped {
        let _ = self.stop.write(1);
        let mut queues = vec![None, None];
        // A worker that panicked has taken the queues with it.
        if let Ok(Parts { rx, tx }) = self.thread.join() {
            queues = vec![Some(rx.queue.save()), Some(tx.queue.save())];
            self.device.kept = Some((rx.limiter, tx.limiter));
        }
        let NetConfig { mac, mtu, .. } = self.device.config;
        let state = NetStateV1 {
            mac: mac.octets(),
            mtu: mtu.get().into(),
            pairs: 1.into(),
        };
        Stopped {
            device: self.device,
            queues,
            state: state.save(),
        }
    }
}
