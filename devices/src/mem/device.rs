//! The life of the memory device.

use thiserror::Error;

use super::config::MemRegion;
use super::handle::MemHandle;
use super::spec::F_UNPLUGGED_INACCESSIBLE;
use super::state::{self, InvalidMemState};
use super::worker;
use crate::device::{ActivateError, Activation, ActiveDevice, DeviceKind, Stopped, VirtioDevice};
use crate::queue::{ActiveQueue, QueueSize};
use crate::worker::Worker;

/// Linux has one request under way at a time.
const QUEUE_SIZES: [QueueSize; 1] = match QueueSize::new(16) {
    Some(size) => [size],
    None => unreachable!(),
};

/// The memory device (virtio-v1.2 §5.15).
#[derive(Debug)]
pub struct Mem {
    handle: MemHandle,
    config: Vec<u8>,
}

#[derive(Debug, Error)]
enum MemError {
    #[error("the driver set up no request queue")]
    NoQueue,
    #[error("the driver would read memory that is not there")]
    Features,
    #[error("its saved state cannot be taken up")]
    State(#[from] InvalidMemState),
    #[error("cannot start the worker")]
    Worker(#[source] std::io::Error),
}

impl Mem {
    /// A device for `region`, of which nothing is plugged or provided.
    #[must_use]
    pub fn new(region: MemRegion) -> Self {
        Self::of(MemHandle::new(region))
    }

    fn of(handle: MemHandle) -> Self {
        let config = handle.lock().region.config();
        Self { handle, config }
    }

    /// Steers the device, also after it has moved into a machine.
    #[must_use]
    pub fn handle(&self) -> MemHandle {
        self.handle.clone()
    }

    fn start(&self, with: &mut Activation) -> Result<Worker, MemError> {
        if with.features & F_UNPLUGGED_INACCESSIBLE == 0 {
            return Err(MemError::Features);
        }
        let queue = with.queues.first_mut().and_then(Option::take);
        let queue = queue.ok_or(MemError::NoQueue)?;
        let mut guarded = self.handle.lock();
        if let Some(saved) = &with.state {
            state::restore(&mut guarded.region, saved)?;
        }
        let worker = worker::start(queue, self.handle.clone(), &with.threads);
        let worker = worker.map_err(MemError::Worker)?;
        // What the host has wanted while there was no driver.
        guarded.interrupt = Some(with.interrupt.clone());
        guarded.publish();
        with.interrupt.config_changed();
        Ok(worker)
    }
}

impl VirtioDevice for Mem {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Mem
    }

    fn queue_sizes(&self) -> &[QueueSize] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        F_UNPLUGGED_INACCESSIBLE
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn activate(
        self: Box<Self>,
        mut with: Activation,
    ) -> Result<Box<dyn ActiveDevice>, ActivateError> {
        match self.start(&mut with) {
            Ok(worker) => Ok(Box::new(Active {
                handle: self.handle,
                worker,
            })),
            Err(error) => Err(ActivateError {
                kind: DeviceKind::Mem,
                device: self,
                source: error.into(),
            }),
        }
    }
}

/// The device while a driver uses it.
struct Active {
    handle: MemHandle,
    worker: Worker,
}

impl ActiveDevice for Active {
    fn stop(self: Box<Self>) -> Stopped {
        let queue = self.worker.stop();
        let mut guarded = self.handle.lock();
        guarded.interrupt = None;
        let state = state::save(&guarded.region);
        drop(guarded);
        Stopped {
            device: Box::new(Mem::of(self.handle)),
            queues: vec![queue.map(ActiveQueue::save)],
            state,
        }
    }
}
