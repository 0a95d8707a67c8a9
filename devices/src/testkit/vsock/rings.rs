//! The three queues with buffers as Linux lays them out.

use vm_memory::{Bytes, GuestAddress};
use zerocopy::{FromZeros, IntoBytes};

use super::{Driver, MAX_PACKET};
use crate::Memory;
use crate::vsock::spec::{HEADER_SIZE, Header};

const RX: u16 = 0;
const TX: u16 = 1;
const EVENT: u16 = 2;

const RX_AT: u64 = 0x20_0000;
const EVENTS_AT: u64 = 0x30_0000;
const TX_HEADERS_AT: u64 = 0x31_0000;
const TX_AT: u64 = 0x40_0000;

const RX_COUNT: u64 = 128;
const TX_COUNT: u64 = 64;
const EVENT_COUNT: u64 = 8;

/// `SKB_WITH_OVERHEAD(4096)`: what Linux 6.12 offers, header included.
const RX_BUFFER: u32 = 4096 - 320;

pub(super) struct Rings {
    memory: Memory,
    event_idx: bool,
    pub hold: bool,
    /// Buffers that are not with the device, and which buffer a head stands for.
    rx_free: Vec<u64>,
    rx_of_head: Vec<u64>,
    tx_free: Vec<u64>,
    tx_of_head: Vec<u64>,
    payload: Box<[u8]>,
}

impl Rings {
    pub fn new(driver: &mut Driver, event_idx: bool) -> Self {
        let mut this = Self {
            memory: Memory::clone(driver.memory()),
            event_idx,
            hold: false,
            rx_free: (0..RX_COUNT).collect(),
            rx_of_head: vec![0; RX_COUNT as usize],
            tx_free: (0..TX_COUNT).collect(),
            tx_of_head: vec![0; 2 * TX_COUNT as usize],
            payload: vec![0; RX_BUFFER as usize].into(),
        };
        for event in 0..EVENT_COUNT {
            driver
                .ring(EVENT)
                .add(&[(EVENTS_AT + 16 * event, 4, true)])
                .expect("room in the ring");
        }
        driver.kick(EVENT);
        this.refill(driver);
        this
    }

    /// Offers all receive buffers that are free.
    pub fn refill(&mut self, driver: &mut Driver) {
        if self.hold || self.rx_free.is_empty() {
            return;
        }
        let ring = driver.ring(RX);
        while let Some(buffer) = self.rx_free.pop() {
            let head = ring
                .add(&[(RX_AT + 4096 * buffer, RX_BUFFER, true)])
                .expect("room in the ring");
            self.rx_of_head[usize::from(head)] = buffer;
        }
        if ring.is_doorbell_due(self.event_idx) {
            driver.kick(RX);
        }
    }

    /// The header of the next packet; its payload is kept for [`payload`](Self::payload).
    pub fn receive(&mut self, driver: &mut Driver) -> Option<Header> {
        let (head, written) = driver.ring(RX).take_used()?;
        let buffer = self.rx_of_head[usize::from(head)];
        self.rx_free.push(buffer);
        let at = RX_AT + 4096 * buffer;
        let mut header = Header::new_zeroed();
        self.read(header.as_mut_bytes(), at);
        let len = written as usize - HEADER_SIZE;
        assert_eq!(len, header.len.get() as usize, "used length and header");
        self.memory
            .read_slice(
                &mut self.payload[..len],
                GuestAddress(at + HEADER_SIZE as u64),
            )
            .expect("in memory");
        Some(header)
    }

    /// The payload of the packet that was received last.
    pub fn payload(&self, len: usize) -> &[u8] {
        &self.payload[..len]
    }

    pub fn has_tx_room(&mut self, driver: &mut Driver) -> bool {
        while let Some((head, _)) = driver.ring(TX).take_used() {
            self.tx_free.push(self.tx_of_head[usize::from(head)]);
        }
        !self.tx_free.is_empty()
    }

    /// Sends a packet: header and payload in a descriptor each. There is room.
    pub fn send(&mut self, driver: &mut Driver, header: &Header, payload: &[u8]) {
        let buffer = self.tx_free.pop().expect("room");
        let header_at = TX_HEADERS_AT + 64 * buffer;
        let payload_at = TX_AT + MAX_PACKET as u64 * buffer;
        self.write(header.as_bytes(), header_at);
        self.write(payload, payload_at);
        let both = [
            (header_at, HEADER_SIZE as u32, false),
            (payload_at, payload.len() as u32, false),
        ];
        let used = if payload.is_empty() { 1 } else { 2 };
        let ring = driver.ring(TX);
        let head = ring.add(&both[..used]).expect("room in the ring");
        self.tx_of_head[usize::from(head)] = buffer;
        if ring.is_doorbell_due(self.event_idx) {
            driver.kick(TX);
        }
    }

    pub fn take_event(&mut self, driver: &mut Driver) -> Option<u32> {
        let ring = driver.ring(EVENT);
        let (head, written) = ring.take_used()?;
        assert_eq!(written, 4, "an event");
        // Buffers were posted in the order of their descriptors, once.
        let mut bytes = [0; 4];
        let at = EVENTS_AT + 16 * u64::from(head);
        self.read(&mut bytes, at);
        Some(u32::from_le_bytes(bytes))
    }

    fn read(&self, bytes: &mut [u8], at: u64) {
        self.memory
            .read_slice(bytes, GuestAddress(at))
            .expect("in memory");
    }

    fn write(&self, bytes: &[u8], at: u64) {
        self.memory
            .write_slice(bytes, GuestAddress(at))
            .expect("in memory");
    }
}
