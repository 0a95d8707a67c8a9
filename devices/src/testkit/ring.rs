//! The driver's side of one split virtqueue.
#![allow(clippy::expect_used, reason = "a test kit reports by panicking")]

use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress};

use crate::Memory;

/// A descriptor as it lies in memory (virtio-v1.2 §2.7.5).
#[derive(Clone, Copy, Debug, Default)]
pub struct Descriptor {
    /// Guest physical address of the buffer.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// `VRING_DESC_F_*`.
    pub flags: u16,
    /// Next descriptor, if flagged.
    pub next: u16,
}

/// A split virtqueue laid out in guest memory, writable with anything.
#[derive(Clone)]
pub struct Ring {
    memory: Memory,
    base: u64,
    size: u16,
    next_avail: u16,
    next_used: u16,
    last_rung: u16,
    free: Vec<u16>,
}

impl Ring {
    /// Lays out a ring of `size` entries at `base` (4 KiB aligned).
    #[must_use]
    pub fn new(memory: Memory, base: u64, size: u16) -> Self {
        let ring = Self {
            memory,
            base,
            size,
            next_avail: 0,
            next_used: 0,
            last_rung: 0,
            free: (0..size).rev().collect(),
        };
        ring.memory
            .write_slice(&vec![0; ring.bytes() as usize], GuestAddress(base))
            .expect("ring in memory");
        ring
    }

    /// Bytes that the whole ring takes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.used() - self.base + 6 + 8 * u64::from(self.size)
    }

    /// Address of the descriptor table.
    #[must_use]
    pub fn desc(&self) -> u64 {
        self.base
    }

    /// Address of the available ring.
    #[must_use]
    pub fn avail(&self) -> u64 {
        self.base + 16 * u64::from(self.size)
    }

    /// Address of the used ring.
    #[must_use]
    pub fn used(&self) -> u64 {
        (self.avail() + 6 + 2 * u64::from(self.size)).next_multiple_of(4)
    }

    /// Writes descriptor `index` as it is.
    pub fn write_desc(&self, index: u16, d: Descriptor) {
        let at = self.desc() + 16 * u64::from(index);
        self.put(&d.addr.to_le_bytes(), at);
        self.put(&d.len.to_le_bytes(), at + 8);
        self.put(&d.flags.to_le_bytes(), at + 12);
        self.put(&d.next.to_le_bytes(), at + 14);
    }

    /// Writes the available index as it is.
    pub fn write_avail_idx(&self, value: u16) {
        self.put(&value.to_le_bytes(), self.avail() + 2);
    }

    /// Writes `value` into slot `slot` of the available ring.
    pub fn write_avail_entry(&self, slot: u16, value: u16) {
        self.put(
            &value.to_le_bytes(),
            self.avail() + 4 + 2 * u64::from(slot % self.size),
        );
    }

    /// Makes `head` available and publishes it.
    pub fn publish(&mut self, head: u16) {
        self.write_avail_entry(self.next_avail, head);
        fence(Ordering::SeqCst);
        self.next_avail = self.next_avail.wrapping_add(1);
        self.write_avail_idx(self.next_avail);
        fence(Ordering::SeqCst);
    }

    /// Links `buffers` (address, length, device-writable) into a chain and makes it available.
    ///
    /// Returns its head, or `None` when too few descriptors are free.
    pub fn add(&mut self, buffers: &[(u64, u32, bool)]) -> Option<u16> {
        if self.free.len() < buffers.len() || buffers.is_empty() {
            return None;
        }
        let at = self.free.len() - buffers.len();
        let indices: Vec<u16> = self.free.drain(at..).collect();
        for (i, (addr, len, writable)) in buffers.iter().enumerate() {
            let next = indices.get(i + 1).copied();
            let mut flags = 0;
            if *writable {
                flags |= VRING_DESC_F_WRITE as u16;
            }
            if next.is_some() {
                flags |= VRING_DESC_F_NEXT as u16;
            }
            let next = next.unwrap_or(0);
            self.write_desc(
                indices[i],
                Descriptor {
                    addr: *addr,
                    len: *len,
                    flags,
                    next,
                },
            );
        }
        self.publish(indices[0]);
        Some(indices[0])
    }

    /// Takes the next used element: (head, bytes written). Frees its descriptors.
    pub fn take_used(&mut self) -> Option<(u16, u32)> {
        fence(Ordering::SeqCst);
        let idx = u16::from_le_bytes(self.get(self.used() + 2));
        if idx == self.next_used {
            return None;
        }
        fence(Ordering::SeqCst);
        let at = self.used() + 4 + 8 * u64::from(self.next_used % self.size);
        let head = u32::from_le_bytes(self.get(at)) as u16;
        let written = u32::from_le_bytes(self.get(at + 4));
        self.next_used = self.next_used.wrapping_add(1);
        self.release(head);
        // Ask for an interrupt on the next one.
        self.write_used_event(self.next_used);
        Some((head, written))
    }

    /// Writes `used_event` (VIRTIO_F_EVENT_IDX): which used element is worth an interrupt.
    pub fn write_used_event(&self, value: u16) {
        self.put(
            &value.to_le_bytes(),
            self.avail() + 4 + 2 * u64::from(self.size),
        );
    }

    /// Whether the device wants a doorbell for anything published since the last call.
    pub fn is_doorbell_due(&mut self, event_idx: bool) -> bool {
        let rung = std::mem::replace(&mut self.last_rung, self.next_avail);
        fence(Ordering::SeqCst);
        if !event_idx {
            return u16::from_le_bytes(self.get(self.used())) & 1 == 0;
        }
        let event = u16::from_le_bytes(self.get(self.used() + 4 + 8 * u64::from(self.size)));
        // §2.7.7.2, as `vring_need_event` has it.
        let published = self.next_avail.wrapping_sub(rung);
        self.next_avail.wrapping_sub(event).wrapping_sub(1) < published
    }

    /// Descriptors that no chain uses.
    #[must_use]
    pub fn free_descriptors(&self) -> usize {
        self.free.len()
    }

    /// Whether the device wants a doorbell for what was just published (avail_event).
    #[must_use]
    pub fn wants_kick(&self) -> bool {
        fence(Ordering::SeqCst);
        let event = u16::from_le_bytes(self.get(self.used() + 4 + 8 * u64::from(self.size)));
        self.next_avail.wrapping_sub(event).wrapping_sub(1) < 1
    }

    fn release(&mut self, head: u16) {
        let mut index = head;
        for _ in 0..self.size {
            self.free.push(index);
            let at = self.desc() + 16 * u64::from(index);
            let flags = u16::from_le_bytes(self.get(at + 12));
            if flags & VRING_DESC_F_NEXT as u16 == 0 {
                break;
            }
            index = u16::from_le_bytes(self.get(at + 14));
        }
    }

    fn put(&self, bytes: &[u8], at: u64) {
        self.memory
            .write_slice(bytes, GuestAddress(at))
            .expect("ring in memory");
    }

    fn get<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory
            .read_slice(&mut bytes, GuestAddress(at))
            .expect("ring in memory");
        bytes
    }
}
