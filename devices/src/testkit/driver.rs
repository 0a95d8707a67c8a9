//! A driver on virtio-mmio: handshake, then requests and replies.
#![allow(clippy::expect_used, reason = "a test kit reports by panicking")]

use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::Ring;
use crate::Memory;
use crate::device::VirtioDevice;
use crate::transport::{MmioTransport, SavedTransport};

const RINGS_AT: u64 = 0x10_0000;
const RING_STRIDE: u64 = 0x4_0000;
const BUFFERS_AT: u64 = 0x100_0000;
/// How long a reply may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the reply of a posted request will be.
#[derive(Clone, Debug)]
struct Pending {
    queue: u16,
    head: u16,
    writable: Vec<(u64, u32)>,
}

/// A driver that has brought its device to `DRIVER_OK`.
pub struct Driver {
    transport: MmioTransport,
    memory: Memory,
    line: EventFd,
    rings: Vec<Ring>,
    pending: Vec<Pending>,
    next_buffer: u64,
}

impl Driver {
    /// Brings `device` up, negotiating what it offers within `features`.
    ///
    /// # Panics
    /// When the handshake fails.
    #[must_use]
    pub fn start(device: Box<dyn VirtioDevice>, features: u64) -> Self {
        let mut driver = Self::idle(device);
        driver.bring_up(features);
        driver
    }

    /// Wraps `device` without touching a register.
    ///
    /// # Panics
    /// When the process is out of file descriptors.
    #[must_use]
    pub fn idle(device: Box<dyn VirtioDevice>) -> Self {
        let memory = super::memory();
        let line = EventFd::new(libc::EFD_NONBLOCK).expect("event fd");
        let transport = MmioTransport::new(
            device,
            Memory::clone(&memory),
            line.try_clone().expect("event fd"),
        )
        .expect("transport");
        Self {
            transport,
            memory,
            line,
            rings: Vec::new(),
            pending: Vec::new(),
            next_buffer: BUFFERS_AT,
        }
    }

    /// Resets the device and brings it to `DRIVER_OK` as virtio-v1.2 §3.1.1 orders it.
    ///
    /// # Panics
    /// When the device refuses the features.
    pub fn bring_up(&mut self, features: u64) {
        self.write(0x70, 0);
        self.write(0x70, 1);
        self.write(0x70, 3);
        for select in 0..2 {
            self.write(0x14, select);
            let offered = self.read(0x10);
            self.write(0x24, select);
            self.write(0x20, offered & (features >> (32 * select)) as u32);
        }
        self.write(0x70, 11);
        assert_eq!(self.read(0x70), 11, "the device refused the features");
        self.rings.clear();
        self.pending.clear();
        self.next_buffer = BUFFERS_AT;
        for index in 0u32.. {
            self.write(0x30, index);
            let max = self.read(0x34);
            if max == 0 {
                break;
            }
            let base = RINGS_AT + RING_STRIDE * u64::from(index);
            let ring = Ring::new(Memory::clone(&self.memory), base, max as u16);
            self.write(0x38, max);
            for (register, address) in [
                (0x80, ring.desc()),
                (0x90, ring.avail()),
                (0xa0, ring.used()),
            ] {
                self.write(register, address as u32);
                self.write(register + 4, (address >> 32) as u32);
            }
            self.write(0x44, 1);
            self.rings.push(ring);
        }
        self.write(0x70, 15);
    }

    /// Writes a 32-bit register.
    pub fn write(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    /// Reads a 32-bit register.
    #[must_use]
    pub fn read(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.transport.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// The transport, for pause, save, restore and odd register accesses.
    pub fn transport(&mut self) -> &mut MmioTransport {
        &mut self.transport
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Puts `device` in the place of the present one, over the same memory and rings and with the
    /// state `saved`, as a restore does. It is left paused.
    ///
    /// # Panics
    /// When the state does not fit.
    pub fn replace(&mut self, device: Box<dyn VirtioDevice>, saved: SavedTransport) {
        let line = self.line.try_clone().expect("event fd");
        self.transport =
            MmioTransport::new(device, Memory::clone(&self.memory), line).expect("event fd");
        self.transport.restore(saved).expect("a state that fits");
    }

    /// The interrupt line, for a driver that sleeps until it is raised.
    #[must_use]
    pub fn line(&self) -> &EventFd {
        &self.line
    }

    /// The raw ring of queue `queue`.
    pub fn ring(&mut self, queue: u16) -> &mut Ring {
        &mut self.rings[usize::from(queue)]
    }

    /// Whether the device has set `DEVICE_NEEDS_RESET`.
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        self.read(0x70) & 0x40 != 0
    }

    /// Whether the interrupt line was raised since the last call.
    #[must_use]
    pub fn interrupted(&self) -> bool {
        self.line.read().is_ok()
    }

    /// Posts a request of `readable` buffers and room of `writable` lengths, and rings the doorbell.
    /// Returns its head.
    ///
    /// # Panics
    /// When the ring is full.
    pub fn post(&mut self, queue: u16, readable: &[&[u8]], writable: &[u32]) -> u16 {
        let head = self.post_quietly(queue, readable, writable);
        self.kick(queue);
        head
    }

    /// As [`post`](Self::post), without the doorbell.
    ///
    /// # Panics
    /// When the ring is full.
    pub fn post_quietly(&mut self, queue: u16, readable: &[&[u8]], writable: &[u32]) -> u16 {
        let mut buffers = Vec::with_capacity(readable.len() + writable.len());
        for bytes in readable {
            let at = self.allocate(bytes.len() as u64);
            self.memory
                .write_slice(bytes, GuestAddress(at))
                .expect("buffer in memory");
            buffers.push((at, bytes.len() as u32, false));
        }
        let room: Vec<_> = writable
            .iter()
            .map(|len| (self.allocate(u64::from(*len)), *len))
            .collect();
        buffers.extend(room.iter().map(|(at, len)| (*at, *len, true)));
        let head = self.rings[usize::from(queue)]
            .add(&buffers)
            .expect("room in the ring");
        self.pending.push(Pending {
            queue,
            head,
            writable: room,
        });
        head
    }

    /// Rings the doorbell of `queue`.
    pub fn kick(&mut self, queue: u16) {
        self.write(0x50, u32::from(queue));
    }

    /// The next reply on `queue`, if there is one: its head and the bytes written.
    ///
    /// # Panics
    /// When the device returns a chain that was never posted.
    pub fn poll(&mut self, queue: u16) -> Option<(u16, Vec<u8>)> {
        let (head, written) = self.rings[usize::from(queue)].take_used()?;
        let at = self
            .pending
            .iter()
            .position(|p| p.queue == queue && p.head == head)
            .expect("a reply to something posted");
        let pending = self.pending.swap_remove(at);
        let mut bytes = Vec::with_capacity(written as usize);
        for (at, len) in pending.writable {
            let len = (len as usize).min(written as usize - bytes.len());
            let start = bytes.len();
            bytes.resize(start + len, 0);
            self.memory
                .read_slice(&mut bytes[start..], GuestAddress(at))
                .expect("in memory");
        }
        Some((head, bytes))
    }

    /// Waits for the next reply on `queue`.
    ///
    /// # Panics
    /// When none comes within ten seconds.
    pub fn wait(&mut self, queue: u16) -> (u16, Vec<u8>) {
        let start = Instant::now();
        loop {
            if let Some(reply) = self.poll(queue) {
                return reply;
            }
            assert!(start.elapsed() < PATIENCE, "no reply on queue {queue}");
            std::thread::yield_now();
        }
    }

    /// Posts a request and waits for its reply.
    ///
    /// # Panics
    /// When none comes, or another one does.
    pub fn request(&mut self, queue: u16, readable: &[&[u8]], writable: &[u32]) -> Vec<u8> {
        let head = self.post(queue, readable, writable);
        let (replied, bytes) = self.wait(queue);
        assert_eq!(replied, head, "one request, one reply");
        bytes
    }

    /// Room in guest memory for one buffer. A ring buffer over 32 MiB: old buffers are reused.
    fn allocate(&mut self, len: u64) -> u64 {
        let end = super::MEMORY_SIZE as u64;
        if self.next_buffer + len > end {
            self.next_buffer = BUFFERS_AT;
        }
        let at = self.next_buffer;
        self.next_buffer += len.next_multiple_of(16).max(16);
        at
    }
}
