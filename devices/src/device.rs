//! The life of a virtio device, in types.
//!
//! ```text
//!   Box<dyn VirtioDevice> ──activate(Activation)──▶ Box<dyn ActiveDevice>
//!            ▲                                              │
//!            └───────────── Stopped ◀──────stop()───────────┘
//! ```
//!
//! A reset throws the [`Stopped`] queues and state away; a pause keeps them and activates again with
//! them; a save serialises them. There is no other way in or out, so a stopped device provably has
//! nobody working on guest memory.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Memory;
use crate::queue::{ActiveQueue, QueueSize, SavedQueue};

/// The device types of virtio-v1.2 §5 that exist here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u32)]
pub enum DeviceKind {
    /// Network device, §5.1.
    Net = 1,
    /// Block device, §5.2.
    Blk = 2,
    /// Entropy device, §5.4.
    Rng = 4,
    /// Memory balloon device, §5.5.
    Balloon = 5,
    /// Memory device, §5.15.
    Mem = 24,
    /// Socket device, §5.10.
    Vsock = 19,
    /// File system device, §5.11.
    Fs = 26,
}

/// How a device tells its driver that something happened.
///
/// Implementations are called from worker threads and must not block.
pub trait Interrupt: Send + Sync {
    /// Used buffers were returned on queue `queue` (virtio-v1.2 §2.3).
    fn used_buffers(&self, queue: u16);
    /// The configuration space is `config` from now on. The driver is told by
    /// [`config_changed`](Self::config_changed), where it has to know.
    fn set_config(&self, config: &[u8]);
    /// The configuration space changed.
    fn config_changed(&self);
    /// The device met a fault that it cannot recover from (virtio-v1.2 §2.1.2,
    /// `DEVICE_NEEDS_RESET`). `reason` reaches the host's log with its causes, not the guest.
    fn needs_reset(&self, reason: &dyn std::error::Error);
}

/// Everything that an inactive device is given when its driver sets `DRIVER_OK`.
pub struct Activation {
    /// The guest's memory.
    pub memory: Memory,
    /// Negotiated features: a subset of what the device and its transport offered.
    pub features: u64,
    /// One entry per queue of the device, in order; `None` where the driver left one unused.
    pub queues: Vec<Option<ActiveQueue>>,
    /// Way to the driver.
    pub interrupt: Arc<dyn Interrupt>,
    /// What the device gave when it was stopped, if it goes on from there.
    pub state: Option<DeviceState>,
    /// What its workers are started by.
    pub threads: Threads,
}

/// Starts the workers of devices.
///
/// An embedder that narrows what its threads may do gives a hook: it runs first thing in each worker,
/// which inherits the rights of the thread that activates the device.
#[derive(Clone, Default)]
pub struct Threads(Option<ThreadHook>);

/// Called in each new worker thread with the device that it works for.
pub type ThreadHook = Arc<dyn Fn(DeviceKind) + Send + Sync>;

impl Threads {
    /// Workers that call `hook` first.
    #[must_use]
    pub fn with_hook(hook: ThreadHook) -> Self {
        Self(Some(hook))
    }

    /// Starts a worker of a `kind` device.
    ///
    /// # Errors
    /// When the system makes no thread.
    pub fn start<T: Send + 'static>(
        &self,
        kind: DeviceKind,
        name: impl Into<String>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        let hook = self.0.clone();
        let thread = Builder::new().name(name.into()).stack_size(WORKER_STACK);
        thread.spawn(move || {
            if let Some(hook) = hook {
                hook(kind);
            }
            work()
        })
    }
}

/// A device's own state as plain data, apart from its queues and its host resources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    /// Whose state this is.
    pub kind: DeviceKind,
    /// Version of the layout of `payload`.
    pub version: u16,
    /// The device's `…StateV<version>`; empty for a device that has none.
    pub payload: Vec<u8>,
}

/// What is left of a device whose workers have ended.
pub struct Stopped {
    /// The device, ready to be activated again.
    pub device: Box<dyn VirtioDevice>,
    /// Its queues at the point where it stopped; same order and length as on activation.
    pub queues: Vec<Option<SavedQueue>>,
    /// Its own state.
    pub state: DeviceState,
}

/// A device that could not be activated, handed back whole.
#[derive(Error)]
#[error("{kind:?} device could not be activated")]
pub struct ActivateError {
    /// Which device.
    pub kind: DeviceKind,
    /// The device itself, unchanged.
    pub device: Box<dyn VirtioDevice>,
    /// What went wrong.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl std::fmt::Debug for ActivateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ActivateError")
            .field("kind", &self.kind)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// A device that no driver uses.
pub trait VirtioDevice: Send {
    /// The device type.
    fn kind(&self) -> DeviceKind;
    /// The largest size of each queue; its length is the number of queues.
    fn queue_sizes(&self) -> &[QueueSize];
    /// Device feature bits offered. Ring and transport bits are the transport's business.
    fn features(&self) -> u64;
    /// The device's configuration space, little-endian as the driver reads it.
    fn config(&self) -> &[u8];
    /// The driver reset the device: whatever it kept so as to go on after a pause is thrown away.
    fn reset(&mut self) {}
    /// Starts the device: the queues move into its workers.
    ///
    /// # Errors
    /// [`ActivateError`] with the device in it when host resources are missing or the driver left a
    /// queue unused that the device cannot do without.
    fn activate(self: Box<Self>, with: Activation) -> Result<Box<dyn ActiveDevice>, ActivateError>;
}

/// A device whose workers own its queues.
pub trait ActiveDevice: Send {
    /// Ends all workers, waits until none touches guest memory any more, and gives everything back.
    fn stop(self: Box<Self>) -> Stopped;
}

/// Stack of a worker thread in bytes. Only what is touched becomes resident.
const WORKER_STACK: usize = 256 * 1024;
