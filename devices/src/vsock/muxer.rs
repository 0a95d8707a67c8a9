//! All connections of a guest: who they are, and whose turn it is to use the receive queue.
//!
//! ```text
//!   tx packet ──key──▶ connection ──┐ has something to deliver
//!   epoll token ─────▶ connection ──┴──▶ ready (round robin) ──▶ rx queue
//! ```
//!
//! Everything that a guest can make grow is bounded: connections by [`Limits`], resets that belong to
//! no connection by [`MAX_STRAYS`]. When those are full, the tx queue is left alone until the guest
//! takes some of them.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use super::config::{GuestCid, Limits};
use super::connection::{Connection, Next, Payload, Phase, Readiness};
use super::packet::{Key, Packet, Refusal, Stray};
use super::spec::Op;
use super::stream::Backend;

/// Most resets that wait for room in the receive queue.
pub const MAX_STRAYS: usize = 256;

/// How long the guest may take to answer a request of the host.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Ports that host programs' connections come from: far from those that anybody listens on.
pub const HOST_PORTS_FROM: u32 = 1 << 30;

/// Place of a connection in the table: what epoll's tokens carry.
pub type Slot = u32;

/// A place for a connection.
struct Place<S> {
    connection: Option<Connection<S>>,
    /// Whether the slot is in the ready queue. It outlives the connection, so that a slot is never
    /// in there twice, however often it changes hands.
    is_queued: bool,
}

pub struct Muxer<B: Backend> {
    pub backend: B,
    guest: GuestCid,
    limits: Limits,
    places: Vec<Place<B::Stream>>,
    free: Vec<Slot>,
    by_key: HashMap<Key, Slot>,
    ready: VecDeque<Slot>,
    strays: VecDeque<Stray>,
    next_host_port: u32,
    /// Connections that the guest may have been asked for and not answered.
    requested: usize,
}

/// What the receive queue is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A reset that belongs to no connection: [`Muxer::stray_delivered`] afterwards.
    Stray(Stray),
    /// Something of the connection in this slot: [`Muxer::turn_taken`] afterwards.
    Connection(Slot, Next),
}

impl<B: Backend> Muxer<B> {
    pub fn new(backend: B, guest: GuestCid, limits: Limits, next_host_port: u32) -> Self {
        Self {
            backend,
            guest,
            limits,
            places: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            ready: VecDeque::new(),
            strays: VecDeque::new(),
            next_host_port: next_host_port.max(HOST_PORTS_FROM),
            requested: 0,
        }
    }

    pub fn guest(&self) -> GuestCid {
        self.guest
    }

    /// The next port that a connection of the host gets.
    pub fn next_host_port(&self) -> u32 {
        self.next_host_port
    }

    /// Whether packets of the guest may be taken: any of them may need a reset in return.
    pub fn has_room(&self) -> bool {
        self.strays.len() < MAX_STRAYS
    }

    /// Connections in all states.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether a timer must run for [`expire`](Self::expire).
    pub fn is_waiting(&self) -> bool {
        self.requested > 0
    }

    /// Handles a packet that carries no data.
    pub fn handle(&mut self, packet: &Packet) {
        match (self.by_key.get(&packet.key), packet.op) {
            (Some(&slot), _) => self.with(slot, |connection| connection.handle(packet)),
            (None, Op::Request) => self.accept(packet),
            (None, Op::Rst) => {}
            (None, _) => self.stray(Stray::of(packet.key)),
        }
    }

    /// Handles a packet that was refused by its header alone.
    pub fn refuse(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::Ignore => {}
            Refusal::Reset(stray) => self.stray(stray),
            Refusal::Broken(key) => match self.by_key.get(&key) {
                Some(&slot) => self.with(slot, Connection::reset),
                None => self.stray(Stray::of(key)),
            },
        }
    }

    /// Checks a data packet: the slot of its connection if its data is to be [sent](Self::send).
    pub fn admit(&mut self, packet: &Packet) -> Option<Slot> {
        let Some(&slot) = self.by_key.get(&packet.key) else {
            self.stray(Stray::of(packet.key));
            return None;
        };
        let mut is_admitted = false;
        self.with(slot, |connection| is_admitted = connection.admit(packet));
        is_admitted.then_some(slot)
    }

    /// Whether the connection in `slot` goes by `key`.
    pub fn is_of(&self, slot: Slot, key: Key) -> bool {
        self.connection(slot).is_some_and(|c| c.key() == key)
    }

    /// Passes admitted data on to the host.
    pub fn send(&mut self, slot: Slot, data: &impl Payload) {
        self.with(slot, |connection| connection.send(data));
    }

    /// Takes over what the stream of `slot` reports.
    pub fn report(&mut self, slot: Slot, readiness: Readiness) {
        self.with(slot, |connection| connection.ready(readiness));
    }

    /// Asks the guest for its port `guest_port` on behalf of the stream that `open` makes for a
    /// slot.
    pub fn request(
        &mut self,
        guest_port: u32,
        now: Instant,
        open: impl FnOnce(&mut B, Slot) -> io::Result<B::Stream>,
    ) -> io::Result<()> {
        let host_port = self.allocate_port(guest_port);
        let key = Key {
            guest_port,
            host_port,
        };
        let slot = self.allocate().ok_or(io::ErrorKind::QuotaExceeded)?;
        match open(&mut self.backend, slot) {
            Ok(stream) => {
                let deadline = now + REQUEST_TIMEOUT;
                self.requested += 1;
                self.insert(
                    slot,
                    Connection::request(key, stream, self.limits.buffer, deadline),
                );
                Ok(())
            }
            Err(error) => {
                self.free.push(slot);
                Err(error)
            }
        }
    }

    /// Gives up requests that the guest has not answered by `now`.
    pub fn expire(&mut self, now: Instant) {
        for slot in 0..self.places.len() as Slot {
            let phase = self.connection(slot).map(Connection::phase);
            if matches!(phase, Some(Phase::Requested { deadline, .. }) if deadline <= now) {
                self.with(slot, Connection::reset);
            }
        }
    }

    /// Ends all connections at once, without a word to the guest.
    pub fn clear(&mut self) {
        for (slot, place) in (0..).zip(&mut self.places) {
            if place.connection.take().is_some() {
                self.free.push(slot);
            }
        }
        self.by_key.clear();
        self.strays.clear();
        self.requested = 0;
    }

    /// Starts the guest's time for answers again: it did not run for a while.
    pub fn restart_timers(&mut self, now: Instant) {
        let connections = self.places.iter_mut().filter_map(|p| p.connection.as_mut());
        for connection in connections {
            connection.set_deadline(now + REQUEST_TIMEOUT);
        }
    }

    /// Whose turn it is. The same again until it is taken.
    pub fn turn(&mut self) -> Option<Turn> {
        if let Some(stray) = self.strays.front() {
            return Some(Turn::Stray(*stray));
        }
        while let Some(&slot) = self.ready.front() {
            match self.connection(slot).map(|connection| connection.next()) {
                Some(next) if next != Next::Nothing => return Some(Turn::Connection(slot, next)),
                _ => self.turn_taken(slot),
            }
        }
        None
    }

    /// The reset that [`turn`](Self::turn) gave is on its way.
    pub fn stray_delivered(&mut self) {
        self.strays.pop_front();
    }

    /// The connection had its turn, whatever it made of it; it goes to the end if there is more.
    pub fn turn_taken(&mut self, slot: Slot) {
        self.ready.pop_front();
        if let Some(place) = self.places.get_mut(slot as usize) {
            place.is_queued = false;
        }
        self.settle(slot);
    }

    /// The connection in `slot`, to take its turn with.
    pub fn connection_mut(&mut self, slot: Slot) -> Option<&mut Connection<B::Stream>> {
        self.places.get_mut(slot as usize)?.connection.as_mut()
    }

    /// Turns that are waited for.
    #[cfg(test)]
    pub fn queued_turns(&self) -> usize {
        self.ready.len()
    }

    fn connection(&self, slot: Slot) -> Option<&Connection<B::Stream>> {
        self.places.get(slot as usize)?.connection.as_ref()
    }

    fn accept(&mut self, packet: &Packet) {
        let Some(slot) = self.allocate() else {
            return self.stray(Stray::of(packet.key));
        };
        match self
            .backend
            .connect(packet.key.host_port, connection_token(slot))
        {
            Ok(stream) => self.insert(slot, Connection::accept(packet, stream, self.limits.buffer)),
            Err(error) => {
                log::debug!("vsock: port {}: {error}", packet.key.host_port);
                self.free.push(slot);
                self.stray(Stray::of(packet.key));
            }
        }
    }

    fn allocate(&mut self) -> Option<Slot> {
        if self.len() >= usize::from(self.limits.connections) {
            return None;
        }
        Some(self.free.pop().unwrap_or_else(|| {
            self.places.push(Place {
                connection: None,
                is_queued: false,
            });
            self.places.len() as Slot - 1
        }))
    }

    fn allocate_port(&mut self, guest_port: u32) -> u32 {
        loop {
            let host_port = self.next_host_port;
            self.next_host_port = if host_port >= u32::MAX - 1 {
                HOST_PORTS_FROM
            } else {
                host_port + 1
            };
            let key = Key {
                guest_port,
                host_port,
            };
            // There are fewer connections than ports, so this ends.
            if !self.by_key.contains_key(&key) {
                return host_port;
            }
        }
    }

    fn insert(&mut self, slot: Slot, connection: Connection<B::Stream>) {
        self.by_key.insert(connection.key(), slot);
        if let Some(place) = self.places.get_mut(slot as usize) {
            place.connection = Some(connection);
        }
        self.settle(slot);
    }

    /// Lets `act` change a connection and draws the conclusions.
    fn with(&mut self, slot: Slot, act: impl FnOnce(&mut Connection<B::Stream>)) {
        let Some(connection) = self.connection_mut(slot) else {
            return;
        };
        let was_requested = matches!(connection.phase(), Phase::Requested { .. });
        act(connection);
        let is_requested = matches!(connection.phase(), Phase::Requested { .. });
        if was_requested && !is_requested {
            self.requested -= 1;
        }
        self.settle(slot);
    }

    /// Queues, hides or forgets a connection after a change.
    fn settle(&mut self, slot: Slot) {
        let Some(place) = self.places.get_mut(slot as usize) else {
            return;
        };
        let Some(connection) = &place.connection else {
            return;
        };
        let key = connection.key();
        match connection.phase() {
            Phase::Over => {
                place.connection = None;
                self.free.push(slot);
                self.unmap(key, slot);
            }
            // The guest may use the ports again while the host program takes the rest.
            Phase::Draining => self.unmap(key, slot),
            _ if !place.is_queued && connection.next() != Next::Nothing => {
                place.is_queued = true;
                self.ready.push_back(slot);
            }
            _ => {}
        }
    }

    fn unmap(&mut self, key: Key, slot: Slot) {
        if self.by_key.get(&key) == Some(&slot) {
            self.by_key.remove(&key);
        }
    }

    fn stray(&mut self, stray: Stray) {
        debug_assert!(
            self.has_room(),
            "the tx queue is left alone when it is full"
        );
        if self.has_room() {
            self.strays.push_back(stray);
        }
    }
}

/// The token under which epoll reports the stream of a connection.
pub fn connection_token(slot: Slot) -> u64 {
    super::worker::CONNECTION | u64::from(slot)
}
