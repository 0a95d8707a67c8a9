//! The guest's end of the network device: what Linux's `virtio_net` does.
//!
//! [`GuestNet`] keeps the receive queue filled with buffers of one size, puts frames together that
//! span several of them, and sends frames as a header and parts of data. [`GuestNet::send_chain`]
//! sends anything else.
#![allow(clippy::expect_used, reason = "a test kit reports by panicking")]

mod host;
mod tap;

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use zerocopy::{FromZeros, IntoBytes};

pub use host::{Host, SocketBackend};

use super::Driver;
use crate::Memory;
use crate::device::VirtioDevice;
use crate::net::spec::{F_MRG_RXBUF, HEADER_SIZE, Header, MAX_FRAME};
use crate::transport::SavedTransport;

/// The receive queue.
pub const RX: u16 = 0;
/// The transmit queue.
pub const TX: u16 = 1;
/// Bytes of a receive buffer as Linux 6.12 makes them for an MTU of 1500.
pub const RX_BUFFER: u32 = 1536;
/// Everything that a device offers.
pub const ALL_FEATURES: u64 = !0;

const RX_AT: u64 = 0x40_0000;
const RX_END: u64 = 0x100_0000;
const TX_AT: u64 = 0x200_0000;
const TX_STRIDE: u64 = 0x1_2000;
const TX_COUNT: u64 = 128;
const EVENT_IDX: u64 = 1 << 29;
/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A guest with a network interface.
pub struct GuestNet {
    driver: Driver,
    wake: Epoll,
    event_idx: bool,
    is_merging: bool,
    hold: bool,
    rx_buffer: u32,
    /// Buffers that are not with the device, and which buffer a head stands for.
    rx_free: Vec<u64>,
    rx_of_head: Vec<u64>,
    tx_free: Vec<u64>,
    tx_of_head: Vec<u64>,
}

impl GuestNet {
    /// Brings `device` up with everything it offers, with buffers of [`RX_BUFFER`] bytes.
    #[must_use]
    pub fn start(device: Box<dyn VirtioDevice>) -> Self {
        Self::with(device, ALL_FEATURES, RX_BUFFER)
    }

    /// Brings `device` up within `features`, with receive buffers of `rx_buffer` bytes.
    ///
    /// # Panics
    /// When the handshake fails.
    #[must_use]
    pub fn with(device: Box<dyn VirtioDevice>, features: u64, rx_buffer: u32) -> Self {
        let mut driver = Driver::idle(device);
        driver.bring_up(features);
        Self::on(driver, features, rx_buffer)
    }

    fn on(mut driver: Driver, features: u64, rx_buffer: u32) -> Self {
        let size = driver.ring(RX).free_descriptors();
        let fits = (RX_END - RX_AT) / u64::from(rx_buffer).next_multiple_of(64);
        let mut this = Self {
            wake: watch(&driver),
            event_idx: features & EVENT_IDX != 0,
            is_merging: features & F_MRG_RXBUF != 0,
            hold: false,
            rx_buffer,
            rx_free: (0..fits.min(size as u64)).rev().collect(),
            rx_of_head: vec![0; size],
            tx_free: (0..TX_COUNT).collect(),
            tx_of_head: vec![0; driver.ring(TX).free_descriptors()],
            driver,
        };
        this.refill();
        this
    }

    /// The driver below, for pause, reset and odd register accesses.
    pub fn driver(&mut self) -> &mut Driver {
        &mut self.driver
    }

    /// Resets the device and brings it up again within `features`.
    ///
    /// # Panics
    /// When the handshake fails.
    #[must_use]
    pub fn restart(mut self, features: u64) -> Self {
        self.driver.bring_up(features);
        Self::on(self.driver, features, self.rx_buffer)
    }

    /// Puts `device` in the place of the one that the guest has used so far, over the same memory
    /// and with the state `saved`. The device is left paused.
    ///
    /// # Panics
    /// When the state does not fit.
    pub fn restore_into(&mut self, device: Box<dyn VirtioDevice>, saved: SavedTransport) {
        self.driver.replace(device, saved);
        self.wake = watch(&self.driver);
    }

    /// Stops (or goes on) offering receive buffers to the device.
    pub fn hold_receive_buffers(&mut self, hold: bool) {
        self.hold = hold;
        self.refill();
    }

    /// Offers `count` receive buffers although they are held.
    pub fn offer(&mut self, count: usize) {
        let keep = self.rx_free.len().saturating_sub(count);
        self.fill_down_to(keep);
    }

    /// Receive buffers that the driver has.
    #[must_use]
    pub fn free_receive_buffers(&self) -> usize {
        self.rx_free.len()
    }

    /// The next frame that was received, if there is one, and its header.
    ///
    /// # Panics
    /// When the device breaks a rule: part of a frame, or more buffers than were negotiated.
    pub fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut bytes = Vec::new();
        let header = self.receive_into(&mut bytes)?;
        Some((header, bytes))
    }

    /// As [`receive`](Self::receive), into memory that is used again.
    ///
    /// # Panics
    /// As [`receive`](Self::receive).
    pub fn receive_into(&mut self, bytes: &mut Vec<u8>) -> Option<Header> {
        bytes.clear();
        let (head, written) = self.driver.ring(RX).take_used()?;
        let first = self.rx_of_head[usize::from(head)];
        let mut header = Header::new_zeroed();
        let written = written as usize;
        assert!(written >= HEADER_SIZE, "{written} bytes hold no header");
        self.read(first, 0, header.as_mut_bytes());
        bytes.resize(written - HEADER_SIZE, 0);
        self.read(first, HEADER_SIZE, bytes);
        self.rx_free.push(first);
        let count = header.num_buffers.get();
        assert!(
            count == 1 || (self.is_merging && count > 1),
            "{count} buffers"
        );
        for _ in 1..count {
            let next = self.driver.ring(RX).take_used();
            let (head, written) = next.expect("all buffers of a frame at once");
            let buffer = self.rx_of_head[usize::from(head)];
            let start = bytes.len();
            assert_ne!(written, 0, "a buffer of a frame with nothing in it");
            bytes.resize(start + written as usize, 0);
            self.read(buffer, 0, &mut bytes[start..]);
            self.rx_free.push(buffer);
        }
        self.refill();
        Some(header)
    }

    /// Waits for a frame.
    ///
    /// # Panics
    /// When none comes in time.
    pub fn wait_frame(&mut self) -> (Header, Vec<u8>) {
        self.wait_for("a frame", Self::receive)
    }

    /// Whether a frame can be sent without waiting.
    pub fn has_tx_room(&mut self) -> bool {
        while let Some((head, _)) = self.driver.ring(TX).take_used() {
            self.tx_free.push(self.tx_of_head[usize::from(head)]);
        }
        !self.tx_free.is_empty()
    }

    /// Frames that the device has not given back.
    pub fn tx_pending(&mut self) -> usize {
        self.has_tx_room();
        TX_COUNT as usize - self.tx_free.len()
    }

    /// Waits until the device has given all frames back.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn wait_sent(&mut self) {
        self.wait_for("all frames back", |guest| {
            (guest.tx_pending() == 0).then_some(())
        });
    }

    /// Sends a frame if there is room: header and data in a descriptor each.
    pub fn try_send(&mut self, header: &Header, frame: &[u8]) -> bool {
        if !self.has_tx_room() {
            return false;
        }
        self.send_parts(header, &[frame]);
        true
    }

    /// Sends a frame, waiting for room.
    ///
    /// # Panics
    /// When none comes in time.
    pub fn send(&mut self, header: &Header, frame: &[u8]) {
        self.wait_for("room in the transmit queue", |guest| {
            guest.try_send(header, frame).then_some(())
        });
    }

    /// Sends a frame with each of `parts` in a descriptor of its own. There must be room.
    ///
    /// # Panics
    /// When there is none, or the frame is longer than any.
    pub fn send_parts(&mut self, header: &Header, parts: &[&[u8]]) {
        let mut all = vec![header.as_bytes()];
        all.extend_from_slice(parts);
        self.send_chain(&all);
    }

    /// Sends a chain of these parts, whatever they are, and gives its head.
    ///
    /// # Panics
    /// When there is no room for it.
    pub fn send_chain(&mut self, parts: &[&[u8]]) -> u16 {
        let buffer = self.tx_free.pop().expect("room");
        let mut at = TX_AT + TX_STRIDE * buffer;
        let end = at + TX_STRIDE;
        let mut chain = Vec::with_capacity(parts.len());
        for part in parts {
            assert!(at + part.len() as u64 <= end, "longer than any frame");
            self.memory()
                .write_slice(part, GuestAddress(at))
                .expect("in memory");
            chain.push((at, part.len() as u32, false));
            at += part.len() as u64;
        }
        let ring = self.driver.ring(TX);
        let head = ring.add(&chain).expect("room in the ring");
        let is_due = ring.is_doorbell_due(self.event_idx);
        self.tx_of_head[usize::from(head)] = buffer;
        if is_due {
            self.driver.kick(TX);
        }
        head
    }

    /// Polls until `ready` gives something, sleeping on the interrupt line in between.
    ///
    /// # Panics
    /// When that takes more than 20 seconds.
    pub fn wait_for<T>(&mut self, what: &str, mut ready: impl FnMut(&mut Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(result) = ready(self) {
                return result;
            }
            assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
            // The time limit covers conditions that the device does not announce.
            let _ = self.wake.wait(2, &mut [EpollEvent::default()]);
        }
    }

    fn refill(&mut self) {
        if !self.hold {
            self.fill_down_to(0);
        }
    }

    fn fill_down_to(&mut self, keep: usize) {
        let stride = u64::from(self.rx_buffer).next_multiple_of(64);
        let ring = self.driver.ring(RX);
        while self.rx_free.len() > keep
            && let Some(buffer) = self.rx_free.pop()
        {
            let head = ring
                .add(&[(RX_AT + stride * buffer, self.rx_buffer, true)])
                .expect("room in the ring");
            self.rx_of_head[usize::from(head)] = buffer;
        }
        if ring.is_doorbell_due(self.event_idx) {
            self.driver.kick(RX);
        }
    }

    fn read(&self, buffer: u64, offset: usize, bytes: &mut [u8]) {
        assert!(
            offset + bytes.len() <= self.rx_buffer as usize,
            "more was written than fits"
        );
        let stride = u64::from(self.rx_buffer).next_multiple_of(64);
        let at = RX_AT + stride * buffer + offset as u64;
        self.memory()
            .read_slice(bytes, GuestAddress(at))
            .expect("in memory");
    }

    fn memory(&self) -> &Memory {
        self.driver.memory()
    }
}

fn watch(driver: &Driver) -> Epoll {
    let wake = Epoll::new().expect("epoll");
    let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 0);
    wake.ctl(ControlOperation::Add, driver.line().as_raw_fd(), event)
        .expect("epoll_ctl");
    wake
}

const _: () = assert!(TX_STRIDE as usize >= HEADER_SIZE + MAX_FRAME);
