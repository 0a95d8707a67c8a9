//! The life of the block device.

use std::fs::File;
use std::io;
use std::sync::Arc;

use thiserror::Error;

use super::config::BlkConfig;
use super::disk::Disk;
use super::spec::feature;
use super::worker;
use crate::device::{
    ActivateError, Activation, ActiveDevice, DeviceKind, DeviceState, Stopped, VirtioDevice,
};
use crate::queue::{ActiveQueue, QueueSize};
use crate::rate::SharedLimiter;
use crate::transfer::Write;
use crate::worker::Worker;

/// A request of as many segments as it may have, header and status fit.
const QUEUE_SIZES: [QueueSize; 1] = match QueueSize::new(256) {
    Some(size) => [size],
    None => unreachable!(),
};
/// Of the saved state. It is empty: nothing is under way when the worker has ended.
const STATE_VERSION: u16 = 1;

#[derive(Debug, Error)]
enum StartError {
    #[error("the driver set up no request queue")]
    NoQueue,
    #[error("its saved state is not a block device's of version {STATE_VERSION}")]
    State,
    #[error("cannot start the worker")]
    Worker(#[source] io::Error),
}

/// The block device.
pub struct Blk {
    disk: Arc<Disk>,
    space: Vec<u8>,
}

impl Blk {
    /// A disk whose data is in `file`. One that is not read-only needs it open for writing.
    #[must_use]
    pub fn new(config: BlkConfig, file: File) -> Self {
        Self {
            space: config.space(),
            disk: Arc::new(Disk {
                limiter: SharedLimiter::new(config.limit),
                config,
                file,
            }),
        }
    }

    fn start(&self, with: &mut Activation) -> Result<Worker, StartError> {
        let queue = with.queues.first_mut().and_then(Option::take);
        let queue = queue.ok_or(StartError::NoQueue)?;
        if with.state.as_ref().is_some_and(|state| *state != saved()) {
            return Err(StartError::State);
        }
        // §5.2.6.2: a driver that cannot flush takes what is answered for written.
        let writes = if with.features & feature::FLUSH != 0 {
            Write::Cached
        } else {
            Write::Durable
        };
        worker::start(queue, Arc::clone(&self.disk), writes, &with.threads)
            .map_err(StartError::Worker)
    }
}

fn saved() -> DeviceState {
    DeviceState {
        kind: DeviceKind::Blk,
        version: STATE_VERSION,
        payload: Vec::new(),
    }
}

impl VirtioDevice for Blk {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Blk
    }

    fn queue_sizes(&self) -> &[QueueSize] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        self.disk.config.features()
    }

    fn config(&self) -> &[u8] {
        &self.space
    }

    fn activate(
        self: Box<Self>,
        mut with: Activation,
    ) -> Result<Box<dyn ActiveDevice>, ActivateError> {
        match self.start(&mut with) {
            Ok(worker) => Ok(Box::new(ActiveBlk {
                device: self,
                worker,
            })),
            Err(error) => Err(ActivateError {
                kind: DeviceKind::Blk,
                device: self,
                source: error.into(),
            }),
        }
    }
}

/// The device while its worker owns the queue.
struct ActiveBlk {
    device: Box<Blk>,
    worker: Worker,
}

impl ActiveDevice for ActiveBlk {
    fn stop(self: Box<Self>) -> Stopped {
        Stopped {
            queues: vec![self.worker.stop().map(ActiveQueue::save)],
            state: saved(),
            device: self.device,
        }
    }
}
