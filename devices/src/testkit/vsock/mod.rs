//! The guest's end of the socket device: what Linux's `virtio_vsock` and its sockets do.
//!
//! [`GuestVsock`] keeps the receive queue filled, answers credit requests, accepts connections on
//! ports it listens on, respects the host's credit and closes with the handshake of Linux: shutdown
//! of both directions, then wait for the reset. [`GuestVsock::send_packet`] says anything else.
#![allow(clippy::expect_used, reason = "a test kit reports by panicking")]

mod answers;
mod rings;
mod socket;

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::AsRawFd;
use std::time::Duration;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use rings::Rings;
use socket::Socket;
pub use socket::{SocketId, State};

use super::Driver;
use crate::device::VirtioDevice;
use crate::transport::SavedTransport;
use crate::vsock::spec::{
    HOST_CID, Header, Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM,
};

/// Most bytes that Linux puts into one packet.
pub const MAX_PACKET: usize = 64 * 1024;
/// Receive buffer of a socket unless it is changed, as Linux has it.
pub const DEFAULT_BUFFER: u32 = 256 * 1024;
/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A guest with sockets.
pub struct GuestVsock {
    driver: Driver,
    rings: Rings,
    wake: Epoll,
    cid: u64,
    sockets: HashMap<SocketId, Socket>,
    listening: HashSet<u32>,
    accepted: VecDeque<SocketId>,
    next_port: u32,
    buffer: u32,
    is_credit_checked: bool,
    /// Headers of packets that no socket took, newest last.
    strays: VecDeque<Header>,
    events: Vec<u32>,
}

impl GuestVsock {
    /// Brings `device` up with all features and fills its queues.
    ///
    /// # Panics
    /// When the handshake fails.
    #[must_use]
    pub fn start(device: Box<dyn VirtioDevice>) -> Self {
        Self::with_features(device, !0)
    }

    /// As [`start`](Self::start), within `features`.
    ///
    /// # Panics
    /// When the handshake fails.
    #[must_use]
    pub fn with_features(device: Box<dyn VirtioDevice>, features: u64) -> Self {
        let mut driver = Driver::idle(device);
        driver.bring_up(features);
        Self::on(driver, features & (1 << 29) != 0)
    }

    /// Takes over a driver that is up.
    fn on(mut driver: Driver, event_idx: bool) -> Self {
        let wake = Self::watch(&driver);
        let mut cid = [0; 8];
        driver.transport().read(0x100, &mut cid);
        let rings = Rings::new(&mut driver, event_idx);
        Self {
            driver,
            rings,
            wake,
            cid: u64::from_le_bytes(cid),
            sockets: HashMap::new(),
            listening: HashSet::new(),
            accepted: VecDeque::new(),
            next_port: 50_000,
            buffer: DEFAULT_BUFFER,
            is_credit_checked: true,
            strays: VecDeque::new(),
            events: Vec::new(),
        }
    }

    fn watch(driver: &Driver) -> Epoll {
        let wake = Epoll::new().expect("epoll");
        let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 0);
        wake.ctl(ControlOperation::Add, driver.line().as_raw_fd(), event)
            .expect("epoll_ctl");
        wake
    }

    /// The driver below, for pause, reset and odd register accesses.
    pub fn driver(&mut self) -> &mut Driver {
        &mut self.driver
    }

    /// Resets the device and brings it up again; all sockets are forgotten.
    ///
    /// # Panics
    /// When the handshake fails.
    #[must_use]
    pub fn restart(mut self) -> Self {
        self.driver.bring_up(!0);
        Self::on(self.driver, true)
    }

    /// Puts `device` in the place of the one that the guest has used so far, over the same memory and
    /// with the state `saved`: a restore in another process. The device is left paused.
    ///
    /// # Panics
    /// When the state does not fit.
    pub fn restore_into(&mut self, device: Box<dyn VirtioDevice>, saved: SavedTransport) {
        self.driver.replace(device, saved);
        self.wake = Self::watch(&self.driver);
    }

    /// The guest's address, as the configuration space has it.
    #[must_use]
    pub fn cid(&self) -> u64 {
        self.cid
    }

    /// Receive buffer in bytes of sockets made from now on.
    pub fn set_buffer(&mut self, bytes: u32) {
        self.buffer = bytes;
    }

    /// No longer insists that the device respects credit: for a guest that lies about it.
    pub fn allow_overruns(&mut self) {
        self.is_credit_checked = false;
    }

    /// Stops (or goes on) offering receive buffers to the device.
    pub fn hold_receive_buffers(&mut self, hold: bool) {
        self.rings.hold = hold;
        if !hold {
            self.rings.refill(&mut self.driver);
        }
    }

    /// Accepts connections to `port`.
    pub fn listen(&mut self, port: u32) {
        self.listening.insert(port);
    }

    /// A connection that was accepted, if there is one.
    pub fn try_accept(&mut self) -> Option<SocketId> {
        self.poll();
        self.accepted.pop_front()
    }

    /// Waits for a connection.
    ///
    /// # Panics
    /// When none comes in time.
    pub fn accept(&mut self) -> SocketId {
        self.wait_for("a connection", |guest| guest.accepted.pop_front())
    }

    /// Asks for a connection to `port` of the host, without waiting for the answer.
    pub fn start_connect(&mut self, port: u32) -> SocketId {
        self.next_port += 1;
        let id = SocketId {
            guest_port: self.next_port,
            host_port: port,
        };
        self.sockets
            .insert(id, Socket::new(State::Connecting, self.buffer));
        self.control(id, Op::Request, 0);
        id
    }

    /// Connects to `port` of the host; `None` if it is refused.
    ///
    /// # Panics
    /// When there is no answer in time.
    pub fn connect(&mut self, port: u32) -> Option<SocketId> {
        let id = self.start_connect(port);
        let state = self.wait_for("an answer", |guest| match guest.state(id) {
            State::Connecting => None,
            state => Some(state),
        });
        (state == State::Connected).then_some(id)
    }

    /// What has become of a socket. One that is unknown is closed.
    #[must_use]
    pub fn state(&self, id: SocketId) -> State {
        self.sockets
            .get(&id)
            .map_or(State::Closed, |socket| socket.state)
    }

    /// Shutdown flags that the host has sent on `id`.
    #[must_use]
    pub fn peer_shutdown(&self, id: SocketId) -> u32 {
        self.sockets
            .get(&id)
            .map_or(SHUTDOWN_BOTH, |socket| socket.peer_shut)
    }

    /// Bytes that wait to be [received](Self::try_receive).
    #[must_use]
    pub fn queued(&self, id: SocketId) -> usize {
        self.sockets.get(&id).map_or(0, |socket| socket.data.len())
    }

    /// Bytes that the host's credit allows now.
    #[must_use]
    pub fn credit(&self, id: SocketId) -> u32 {
        self.sockets.get(&id).map_or(0, Socket::credit)
    }

    /// Sends as much of `data` in one packet as credit and the queue allow: the number of bytes.
    pub fn try_send(&mut self, id: SocketId, data: &[u8]) -> usize {
        self.poll();
        if !self.rings.has_tx_room(&mut self.driver) {
            return 0;
        }
        let Some(socket) = self.sockets.get_mut(&id) else {
            return 0;
        };
        let len = data.len().min(socket.credit() as usize).min(MAX_PACKET);
        if len == 0 || socket.state != State::Connected {
            return 0;
        }
        socket.sent = socket.sent.wrapping_add(len as u32);
        let header = socket.header(self.cid, id, Op::Rw, 0, len as u32);
        self.rings.send(&mut self.driver, &header, &data[..len]);
        len
    }

    /// Sends all of `data`.
    ///
    /// # Panics
    /// When credit does not come in time.
    pub fn send(&mut self, id: SocketId, mut data: &[u8]) {
        while !data.is_empty() {
            let sent = self.wait_for("credit", |guest| match guest.try_send(id, data) {
                0 => None,
                sent => Some(sent),
            });
            data = &data[sent..];
        }
    }

    /// Takes what was received: up to `out.len()` bytes.
    pub fn try_receive(&mut self, id: SocketId, out: &mut [u8]) -> usize {
        self.poll();
        let Some(socket) = self.sockets.get_mut(&id) else {
            return 0;
        };
        let len = socket.take(out);
        // As Linux: tell the sender when the space that it knows of runs low.
        if socket.is_update_due() {
            self.control(id, Op::CreditUpdate, 0);
        }
        len
    }

    /// Receives exactly `len` bytes.
    ///
    /// # Panics
    /// When they do not come in time.
    pub fn receive(&mut self, id: SocketId, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        let mut done = 0;
        while done < len {
            done += self.wait_for("data", |guest| {
                match guest.try_receive(id, &mut out[done..]) {
                    0 => None,
                    received => Some(received),
                }
            });
        }
        out
    }

    /// Receives up to the end of the stream.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn receive_to_end(&mut self, id: SocketId) -> Vec<u8> {
        let mut all = Vec::new();
        let mut chunk = vec![0; MAX_PACKET];
        loop {
            let len = self.wait_for("the end of the stream", |guest| {
                let len = guest.try_receive(id, &mut chunk);
                let is_over = guest.peer_shutdown(id) & SHUTDOWN_SEND != 0;
                (len > 0 || (is_over && guest.queued(id) == 0)).then_some(len)
            });
            if len == 0 {
                return all;
            }
            all.extend_from_slice(&chunk[..len]);
        }
    }

    /// `shutdown(2)` with `SHUTDOWN_*` flags.
    pub fn shutdown(&mut self, id: SocketId, flags: u32) {
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.shut |= flags;
            let all = socket.shut;
            self.control(id, Op::Shutdown, all);
        }
    }

    /// `shutdown(SHUT_WR)`.
    pub fn shutdown_send(&mut self, id: SocketId) {
        self.shutdown(id, SHUTDOWN_SEND);
    }

    /// `shutdown(SHUT_RD)`.
    pub fn shutdown_receive(&mut self, id: SocketId) {
        self.shutdown(id, SHUTDOWN_RECEIVE);
    }

    /// `close(2)`: shuts both directions and lingers until the host resets the connection.
    pub fn close(&mut self, id: SocketId) {
        if self.state(id) == State::Connected {
            self.shutdown(id, SHUTDOWN_BOTH);
        }
    }

    /// Waits until `id` is closed: the host has reset it.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn wait_closed(&mut self, id: SocketId) {
        self.wait_for("the reset", |guest| {
            (guest.state(id) == State::Closed).then_some(())
        });
    }

    /// Packets that belonged to no socket, such as resets for unknown ones.
    pub fn strays(&mut self) -> &mut VecDeque<Header> {
        &mut self.strays
    }

    /// Waits for the next packet that belongs to no socket.
    ///
    /// # Panics
    /// When none comes in time.
    pub fn wait_stray(&mut self) -> Header {
        self.wait_for("a stray packet", |guest| guest.strays.pop_front())
    }

    /// Event numbers that the device has sent.
    #[must_use]
    pub fn events(&self) -> &[u32] {
        &self.events
    }

    /// A header of a packet on `id`, filled in as a socket would.
    #[must_use]
    pub fn header(&self, id: SocketId, op: u16) -> Header {
        Header {
            src_cid: self.cid.into(),
            dst_cid: HOST_CID.into(),
            src_port: id.guest_port.into(),
            dst_port: id.host_port.into(),
            type_: TYPE_STREAM.into(),
            op: op.into(),
            buf_alloc: self.buffer.into(),
            ..Header::default()
        }
    }

    /// Sends any packet, whatever sockets think of it.
    ///
    /// # Panics
    /// When the queue stays full.
    pub fn send_packet(&mut self, header: &Header, payload: &[u8]) {
        self.wait_for("room in the transmit queue", |guest| {
            guest.rings.has_tx_room(&mut guest.driver).then_some(())
        });
        self.rings.send(&mut self.driver, header, payload);
    }

    /// Whether there is room to [send](Self::send_packet) without waiting.
    pub fn has_tx_room(&mut self) -> bool {
        self.rings.has_tx_room(&mut self.driver)
    }
}
