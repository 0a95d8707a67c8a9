//! A validated virtqueue and the descriptor chains popped from it.
//!
//! ```text
//!   available ring ──pop──▶ Chain { readable: [Segment], writable: [Segment] } ──push_used──▶ used ring
//! ```
//!
//! The rings are `virtio-queue`'s. What is added: a chain is walked and checked whole before a
//! device sees any of it, ends of the walk that the driver caused are [`QueueFault`]s instead of
//! silence, and the segment lists are reused so that a request costs no allocation.

mod access;
mod chain;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_bindings::virtio_ring::vring_used_elem;
use virtio_queue::{Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

pub use access::{ChainReader, ChainWriter, ShortChain};
pub use chain::{Chain, Segment};

use crate::Memory;
use crate::device::Interrupt;

/// A queue size that virtio-v1.2 §2.7 allows: a power of two up to 32768.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSize(u16);

impl QueueSize {
    /// `size` entries.
    ///
    /// Returns `None` unless it is a power of two in 1..=32768.
    #[must_use]
    pub const fn new(size: u16) -> Option<Self> {
        if size.is_power_of_two() {
            Some(Self(size))
        } else {
            None
        }
    }

    /// The number of entries.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// What a driver did that the specification forbids, seen while its queue was served.
#[derive(Debug, Error)]
pub enum QueueFault {
    /// The available index is further ahead than the queue is long, or a ring lies outside memory.
    #[error("queue {queue}: rings are inconsistent")]
    Ring {
        /// Index of the queue.
        queue: u16,
        /// What `virtio-queue` saw.
        #[source]
        source: virtio_queue::Error,
    },
    /// A chain loops, has an index outside the table, or an indirect table breaks the rules.
    #[error("queue {queue}: descriptor chain at {head} ends nowhere")]
    BrokenChain {
        /// Index of the queue.
        queue: u16,
        /// Head of the chain.
        head: u16,
    },
    /// A descriptor covers addresses that are not guest memory.
    #[error("queue {queue}: buffer of {len} bytes at {addr:#x} is not in guest memory")]
    BufferOutside {
        /// Index of the queue.
        queue: u16,
        /// Guest physical address.
        addr: u64,
        /// Length in bytes.
        len: u32,
    },
    /// A device-readable descriptor follows a device-writable one (virtio-v1.2 §2.7.4.2).
    #[error("queue {queue}: readable buffer after a writable one in the chain at {head}")]
    Order {
        /// Index of the queue.
        queue: u16,
        /// Head of the chain.
        head: u16,
    },
}

/// The state of one queue as plain data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedQueue {
    /// Largest size offered by the device.
    pub max_size: u16,
    /// Size chosen by the driver.
    pub size: u16,
    /// Next entry of the available ring to be read.
    pub next_avail: u16,
    /// Next entry of the used ring to be written.
    pub next_used: u16,
    /// Whether `VIRTIO_F_EVENT_IDX` was negotiated.
    pub event_idx: bool,
    /// Guest physical address of the descriptor table.
    pub desc_table: u64,
    /// Guest physical address of the available ring.
    pub avail_ring: u64,
    /// Guest physical address of the used ring.
    pub used_ring: u64,
}

/// A configuration that cannot be a live queue.
#[derive(Debug, Error)]
pub enum InvalidQueue {
    /// Size or alignment that the specification forbids.
    #[error("queue {queue}: size or alignment is not allowed")]
    Layout {
        /// Index of the queue.
        queue: u16,
        /// What `virtio-queue` objected to.
        #[source]
        source: virtio_queue::Error,
    },
    /// A ring does not lie in guest memory.
    #[error("queue {queue}: a ring lies outside guest memory")]
    Outside {
        /// Index of the queue.
        queue: u16,
    },
    /// The event file descriptor could not be duplicated.
    #[error("queue {queue}: cannot duplicate the doorbell")]
    Doorbell {
        /// Index of the queue.
        queue: u16,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// A live queue: owned by one worker, valid by construction.
pub struct ActiveQueue {
    index: u16,
    ring: Queue,
    memory: Memory,
    kick: EventFd,
    interrupt: Arc<dyn Interrupt>,
    /// Position in the used ring up to which the driver has been notified, or did not want it.
    notified: u16,
}

/// What is in the used ring before its elements (virtio-v1.2 §2.7.8).
const USED_HEADER: u64 = 4;
const USED_ELEMENT: u64 = size_of::<vring_used_elem>() as u64;
/// What is in the available ring before its entries (virtio-v1.2 §2.7.6).
const AVAIL_HEADER: u64 = 4;
const AVAIL_ENTRY: u64 = size_of::<u16>() as u64;

impl ActiveQueue {
    /// Validates `saved` against `memory` and makes it live.
    ///
    /// `kick` is the doorbell: readable when the driver has made buffers available.
    ///
    /// # Errors
    /// [`InvalidQueue`] when sizes, alignments or addresses are not allowed.
    pub fn new(
        index: u16,
        saved: &SavedQueue,
        memory: Memory,
        kick: &EventFd,
        interrupt: Arc<dyn Interrupt>,
    ) -> Result<Self, InvalidQueue> {
        let ring = Queue::try_from(QueueState {
            max_size: saved.max_size,
            next_avail: saved.next_avail,
            next_used: saved.next_used,
            event_idx_enabled: saved.event_idx,
            size: saved.size,
            ready: true,
            desc_table: saved.desc_table,
            avail_ring: saved.avail_ring,
            used_ring: saved.used_ring,
        })
        .map_err(|source| InvalidQueue::Layout {
            queue: index,
            source,
        })?;
        if !ring.is_valid(&*memory) {
            return Err(InvalidQueue::Outside { queue: index });
        }
        let kick = kick.try_clone().map_err(|source| InvalidQueue::Doorbell {
            queue: index,
            source,
        })?;
        Ok(Self {
            index,
            ring,
            memory,
            kick,
            interrupt,
            notified: saved.next_used,
        })
    }

    /// Position of this queue in its device.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Number of its descriptors.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// The doorbell.
    #[must_use]
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// The guest memory that this queue and its buffers lie in.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Takes the next available chain into `chain`; `false` when there is none.
    ///
    /// The whole chain has been checked when this returns: every segment lies in guest memory and
    /// the order is right. `chain` keeps its allocations from call to call.
    ///
    /// # Errors
    /// [`QueueFault`] when the driver broke the rules; the queue must not be served any further.
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, QueueFault> {
        // Looked at before the iterator does: an entry that appears in between is the next call's.
        if !self.has_available()? {
            return Ok(false);
        }
        let memory = Memory::clone(&self.memory);
        let next = self
            .ring
            .iter(&*memory)
            .map_err(|source| QueueFault::Ring {
                queue: self.index,
                source,
            })?
            .next();
        // An entry that is there and cannot be read, or a head outside the table.
        let broken = |head| QueueFault::BrokenChain {
            queue: self.index,
            head,
        };
        let descriptors = next.ok_or_else(|| broken(u16::MAX))?;
        let head = descriptors.head_index();
        if head >= self.ring.size() {
            return Err(broken(head));
        }
        chain.fill(self.index, &memory, descriptors)?;
        Ok(true)
    }

    /// Gives the `count` chains that were popped last back to the available ring, unused.
    ///
    /// They must not have been pushed to the used ring; the next [`pop`](Self::pop) finds the first
    /// of them again.
    pub fn unpop(&mut self, count: u16) {
        for _ in 0..count {
            self.ring.go_to_previous_position();
        }
    }

    /// Puts the chain whose head is `head` on the used ring: `written` bytes of its writable part
    /// hold data.
    ///
    /// # Errors
    /// [`QueueFault::Ring`] when the used ring cannot be written.
    pub fn push_used(&mut self, head: u16, written: u32) -> Result<(), QueueFault> {
        self.ring
            .add_used(&*self.memory, head, written)
            .map_err(|source| QueueFault::Ring {
                queue: self.index,
                source,
            })
    }

    /// Puts several chains on the used ring so that the driver sees either none of them or all.
    ///
    /// # Errors
    /// [`QueueFault::Ring`] when the used ring cannot be written.
    pub fn push_used_together(&mut self, chains: &[(u16, u32)]) -> Result<(), QueueFault> {
        let Some(((head, written), before)) = chains.split_last() else {
            return Ok(());
        };
        let first = self.ring.next_used();
        let mut next = first;
        for (head, written) in before {
            let slot = u64::from(next % self.ring.size());
            let at = GuestAddress(self.ring.used_ring() + USED_HEADER + USED_ELEMENT * slot);
            let mut element = [0; USED_ELEMENT as usize];
            element[..4].copy_from_slice(&u32::from(*head).to_le_bytes());
            element[4..].copy_from_slice(&written.to_le_bytes());
            self.memory
                .write_slice(&element, at)
                .map_err(|error| self.ring_fault(virtio_queue::Error::GuestMemory(error)))?;
            next = next.wrapping_add(1);
        }
        // The driver looks no further than the index, which moves with the last of them.
        self.ring.set_next_used(next);
        self.push_used(*head, *written)
    }

    /// Interrupts the driver if it asked for it since the last call. Call it once per batch.
    ///
    /// # Errors
    /// [`QueueFault::Ring`] when the rings cannot be read.
    pub fn notify(&mut self) -> Result<(), QueueFault> {
        if self.is_notification_due()? {
            self.interrupt.used_buffers(self.index);
        }
        Ok(())
    }

    /// virtio-v1.2 §2.7.7. `virtio-queue` would count the chains of
    /// [`push_used_together`](Self::push_used_together) as one.
    fn is_notification_due(&mut self) -> Result<bool, QueueFault> {
        if !self.ring.event_idx_enabled() {
            return Ok(true);
        }
        // What was pushed must be seen before `used_event` is looked at.
        fence(Ordering::SeqCst);
        let entries = AVAIL_ENTRY * u64::from(self.ring.size());
        let at = GuestAddress(self.ring.avail_ring() + AVAIL_HEADER + entries);
        let used_event = self
            .memory
            .load(at, Ordering::Relaxed)
            .map(u16::from_le)
            .map_err(|error| self.ring_fault(virtio_queue::Error::GuestMemory(error)))?;
        let now = self.ring.next_used();
        let since = std::mem::replace(&mut self.notified, now);
        Ok(now.wrapping_sub(used_event).wrapping_sub(1) < now.wrapping_sub(since))
    }

    /// Asks the driver for a doorbell on its next buffer; `true` when one is available already, in
    /// which case the caller must look again before it sleeps.
    ///
    /// # Errors
    /// [`QueueFault::Ring`] when the rings cannot be accessed.
    pub fn enable_kicks(&mut self) -> Result<bool, QueueFault> {
        self.ring
            .enable_notification(&*self.memory)
            .map_err(|source| QueueFault::Ring {
                queue: self.index,
                source,
            })
    }

    /// Asks the driver for no doorbells while the worker is busy anyway. It is a hint.
    ///
    /// # Errors
    /// [`QueueFault::Ring`] when the rings cannot be accessed.
    pub fn disable_kicks(&mut self) -> Result<(), QueueFault> {
        self.ring
            .disable_notification(&*self.memory)
            .map_err(|source| QueueFault::Ring {
                queue: self.index,
                source,
            })
    }

    /// Reports `fault` to the driver and the log. The queue must not be served any further.
    pub fn fail(&self, fault: &dyn std::error::Error) {
        self.interrupt.needs_reset(fault);
    }

    /// Ends the queue and gives its state.
    #[must_use]
    pub fn save(self) -> SavedQueue {
        SavedQueue {
            max_size: self.ring.max_size(),
            size: self.ring.size(),
            next_avail: self.ring.next_avail(),
            next_used: self.ring.next_used(),
            event_idx: self.ring.event_idx_enabled(),
            desc_table: self.ring.desc_table(),
            avail_ring: self.ring.avail_ring(),
            used_ring: self.ring.used_ring(),
        }
    }

    fn ring_fault(&self, source: virtio_queue::Error) -> QueueFault {
        QueueFault::Ring {
            queue: self.index,
            source,
        }
    }

    fn has_available(&self) -> Result<bool, QueueFault> {
        let available = self
            .ring
            .avail_idx(&*self.memory, Ordering::Acquire)
            .map_err(|source| QueueFault::Ring {
                queue: self.index,
                source,
            })?;
        Ok(available.0 != self.ring.next_avail())
    }
}
