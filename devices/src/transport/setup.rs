//! What the driver has set up so far, before it becomes queues.

use serde::{Deserialize, Serialize};

use super::registers as reg;
use crate::queue::{QueueSize, SavedQueue};

/// One queue as the driver's register writes left it: not yet checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QueueSetup {
    pub max: u16,
    pub num: u32,
    pub ready: bool,
    pub desc: u64,
    pub driver: u64,
    pub device: u64,
}

impl QueueSetup {
    pub fn new(max: QueueSize) -> Self {
        Self {
            max: max.get(),
            num: u32::from(max.get()),
            ready: false,
            desc: 0,
            driver: 0,
            device: 0,
        }
    }

    /// Stores a write to one of the address registers.
    pub fn set_address(&mut self, register: u64, value: u32) {
        let (field, high) = match register {
            reg::QUEUE_DESC_LOW => (&mut self.desc, false),
            reg::QUEUE_DESC_HIGH => (&mut self.desc, true),
            reg::QUEUE_DRIVER_LOW => (&mut self.driver, false),
            reg::QUEUE_DRIVER_HIGH => (&mut self.driver, true),
            reg::QUEUE_DEVICE_LOW => (&mut self.device, false),
            reg::QUEUE_DEVICE_HIGH => (&mut self.device, true),
            _ => return,
        };
        *field = if high {
            (*field & 0xffff_ffff) | (u64::from(value) << 32)
        } else {
            (*field & !0xffff_ffff) | u64::from(value)
        };
    }

    /// The start of a live queue's state; `None` if the size does not even fit the field.
    pub fn start(&self, event_idx: bool) -> Option<SavedQueue> {
        Some(SavedQueue {
            max_size: self.max,
            size: u16::try_from(self.num).ok()?,
            next_avail: 0,
            next_used: 0,
            event_idx,
            desc_table: self.desc,
            avail_ring: self.driver,
            used_ring: self.device,
        })
    }
}
