//! The memory balloon device (virtio-v1.2 §5.5), for one thing: memory that the guest has freed goes
//! back to the host.
//!
//! ```text
//!   guest frees pages ──report: their addresses──▶ reporting queue ──▶ worker ──▶ madvise: the host has
//!                                                                        │        the pages again
//!   guest may use them again ◀──────────── used ring ────────────────────┘
//! ```
//!
//! Only free page reporting (`VIRTIO_BALLOON_F_PAGE_REPORTING`) is offered. A page that has been reported
//! reads as zeros, and is backed anew when the guest writes to it: there is nothing to ask the host for.
//! The device never asks for memory itself: `num_pages` is 0 for ever, `actual` is not taken from the
//! driver, and whatever a driver puts into the inflate and deflate queues, which the specification makes it
//! have, stays there.
//!
//! The ranges of a report are the driver's word. They were checked to be guest memory when the chain was
//! popped; a guest that reports what it still uses, a ring of another device for instance, loses its
//! own data and nothing else. Only whole pages within a range are given back. [`MAX_RANGES`] bounds how
//! many ranges a second are served.

#[cfg(test)]
mod tests;
mod worker;

use std::num::NonZeroU64;

use thiserror::Error;

use crate::device::{
    ActivateError, Activation, ActiveDevice, DeviceKind, DeviceState, Stopped, VirtioDevice,
};
use crate::queue::{ActiveQueue, QueueSize};
use crate::worker::Worker;

/// Ranges of memory that are taken back in a second, on average: twice what Linux reports when 1 TiB is
/// free, a sixteenth of it every two seconds in ranges of 4 MiB.
pub const MAX_RANGES: NonZeroU64 = match NonZeroU64::new(16_384) {
    Some(ranges) => ranges,
    None => unreachable!(),
};

/// `VIRTIO_BALLOON_F_PAGE_REPORTING` (virtio-v1.2 §5.5.3).
const PAGE_REPORTING: u64 = 1 << 5;

/// Where reports come from, behind the queues for inflating and deflating. Those of virtio-v1.2 §5.5.2
/// that a device has are counted without gaps, as Linux does.
const REPORTING: usize = 2;

/// Linux reports 32 ranges at once and wants room for them.
const QUEUE_SIZES: [QueueSize; 3] = match (QueueSize::new(16), QueueSize::new(32)) {
    (Some(unserved), Some(reporting)) => [unserved, unserved, reporting],
    _ => unreachable!(),
};

/// `num_pages` and `actual` (virtio-v1.2 §5.5.4): no page is wanted, and none was given.
const CONFIG: [u8; 8] = [0; 8];

/// The balloon device.
#[derive(Debug, Default)]
pub struct Balloon;

#[derive(Debug, Error)]
enum BalloonError {
    #[error("the driver negotiated free page reporting and set up no queue for it")]
    NoQueue,
    #[error("cannot start the worker")]
    Worker(#[source] std::io::Error),
}

impl VirtioDevice for Balloon {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Balloon
    }

    fn queue_sizes(&self) -> &[QueueSize] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        PAGE_REPORTING
    }

    fn config(&self) -> &[u8] {
        &CONFIG
    }

    fn activate(
        self: Box<Self>,
        mut with: Activation,
    ) -> Result<Box<dyn ActiveDevice>, ActivateError> {
        match Active::start(&mut with) {
            Ok(active) => Ok(Box::new(active)),
            Err(error) => Err(ActivateError {
                kind: DeviceKind::Balloon,
                device: self,
                source: error.into(),
            }),
        }
    }
}

/// The device while a driver uses it.
struct Active {
    /// Kept as they are until the device stops; that of reports is with its worker.
    queues: Vec<Option<ActiveQueue>>,
    /// `None` with a driver that reports nothing.
    worker: Option<Worker>,
}

impl Active {
    fn start(with: &mut Activation) -> Result<Self, BalloonError> {
        let mut worker = None;
        if with.features & PAGE_REPORTING != 0 {
            let queue = with.queues.get_mut(REPORTING).and_then(Option::take);
            let queue = queue.ok_or(BalloonError::NoQueue)?;
            let started = worker::start(queue, &with.threads);
            worker = Some(started.map_err(BalloonError::Worker)?);
        }
        Ok(Self {
            queues: std::mem::take(&mut with.queues),
            worker,
        })
    }
}

impl ActiveDevice for Active {
    fn stop(mut self: Box<Self>) -> Stopped {
        if let (Some(worker), Some(queue)) = (self.worker, self.queues.get_mut(REPORTING)) {
            *queue = worker.stop();
        }
        let queues = self.queues.into_iter();
        Stopped {
            device: Box::new(Balloon),
            queues: queues.map(|queue| queue.map(ActiveQueue::save)).collect(),
            state: DeviceState {
                kind: DeviceKind::Balloon,
                version: 1,
                payload: Vec::new(),
            },
        }
    }
}
