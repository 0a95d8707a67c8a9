//! One connection: a state machine between packets of the guest and a stream of the host.
//!
//! ```text
//!   host asks ──▶ Requested ──RESPONSE──▶ Open ◀── guest asks (RESPONSE is owed)
//!                     │                    │
//!                     │ RST, time          ├─ both sides shut, or a rule broken ─▶ Resetting ─RST sent─▶ Over
//!                     ▼                    └─ RST, data kept back ─▶ Draining ─all taken─▶ Over
//!                    Over
//! ```
//!
//! The two directions end apart from each other. What the guest has sent reaches the host program
//! before its end of file does, even if the guest has given up the connection by then; what the host
//! program has sent reaches the guest before the shutdown does.

mod to_guest;
mod to_host;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::Shutdown;
use std::time::Instant;

use super::buffers::GuestBuffers;
use super::credit::{Allowance, Overdrawn, Window};
use super::packet::{Key, Packet};
use super::spec::{Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::stream::Stream;

/// Data of the guest on its way to the host.
pub trait Payload {
    /// Bytes.
    fn len(&self) -> usize;
    /// Guest memory from byte `from` on: all of it, or as many pieces as fit.
    fn buffers(&self, from: usize) -> GuestBuffers<'_>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The guest has been asked, or is to be asked, until `deadline`.
    Requested { sent: bool, deadline: Instant },
    /// Data may flow.
    Open,
    /// Over; the guest must be told.
    Resetting,
    /// The guest's end is gone; data that it sent before is still to be taken by the host program.
    Draining,
    /// To be forgotten.
    Over,
}

/// What to put into the guest's receive queue next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Nothing,
    Control {
        op: Op,
        flags: u32,
    },
    /// Data, as much as there is, but no more than `limit` bytes; try `batch` buffers at once.
    Data {
        limit: u32,
        batch: usize,
    },
}

/// Readiness that the stream reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct Readiness {
    pub readable: bool,
    pub writable: bool,
    /// The other end has shut down or closed: read on to the end of file.
    pub ending: bool,
    /// Neither direction works any more, though there may be something left to read.
    pub hung_up: bool,
}

pub struct Connection<S> {
    key: Key,
    phase: Phase,
    stream: Option<S>,
    window: Window,
    allowance: Allowance,
    /// What the stream did not take at once. The window bounds it.
    backlog: VecDeque<u8>,
    /// Shutdown flags that the guest has sent.
    guest_shut: u32,
    /// Shutdown flags that the guest was sent.
    told: u32,
    owes_response: bool,
    owes_credit: bool,
    /// The guest was asked for credit and has given none since.
    asked: bool,
    /// The host program gives no more data, and all that it gave is delivered.
    host_eof: bool,
    /// The host program takes no more data.
    host_deaf: bool,
    readable: bool,
    ending: bool,
    hung_up: bool,
    batch: usize,
}

impl<S: Stream> Connection<S> {
    /// The host asks for a port of the guest.
    pub fn request(key: Key, stream: S, buffer: u32, deadline: Instant) -> Self {
        let phase = Phase::Requested {
            sent: false,
            deadline,
        };
        Self::new(key, phase, stream, buffer)
    }

    /// The guest asked for a port of the host and found `stream` there.
    pub fn accept(packet: &Packet, stream: S, buffer: u32) -> Self {
        let mut this = Self::new(packet.key, Phase::Open, stream, buffer);
        this.owes_response = true;
        // Nothing has been sent, so only a count of zero is right.
        if this
            .allowance
            .update(packet.buf_alloc, packet.fwd_cnt)
            .is_err()
        {
            this.reset();
        }
        this
    }

    fn new(key: Key, phase: Phase, stream: S, buffer: u32) -> Self {
        Self {
            key,
            phase,
            stream: Some(stream),
            window: Window::new(buffer),
            allowance: Allowance::default(),
            backlog: VecDeque::new(),
            guest_shut: 0,
            told: 0,
            owes_response: false,
            owes_credit: false,
            asked: false,
            host_eof: false,
            host_deaf: false,
            // Not known; a first attempt finds out.
            readable: true,
            ending: false,
            hung_up: false,
            batch: 1,
        }
    }

    pub fn key(&self) -> Key {
        self.key
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn set_deadline(&mut self, to: Instant) {
        if let Phase::Requested { deadline, .. } = &mut self.phase {
            *deadline = to;
        }
    }

    /// Handles a packet that carries no data.
    pub fn handle(&mut self, packet: &Packet) {
        if packet.op == Op::Rst {
            return self.guest_is_gone();
        }
        if !self.is_live() {
            return;
        }
        if self.take_credit(packet).is_err() {
            return self.reset();
        }
        match (packet.op, self.phase) {
            (Op::Response, Phase::Requested { sent: true, .. }) => self.open(),
            (Op::Shutdown, Phase::Open) => self.shut_by_guest(packet.flags & SHUTDOWN_BOTH),
            (Op::CreditUpdate, Phase::Open) => {}
            (Op::CreditRequest, Phase::Open) => self.owes_credit = true,
            _ => self.reset(),
        }
    }

    /// Checks the header of a data packet and books its bytes; `true` if they are to be
    /// [sent](Self::send) on.
    pub fn admit(&mut self, packet: &Packet) -> bool {
        if !self.is_live() {
            return false;
        }
        let is_allowed = self.phase == Phase::Open
            && self.guest_shut & SHUTDOWN_SEND == 0
            && self.take_credit(packet).is_ok()
            && self.window.receive(packet.len).is_ok();
        if !is_allowed {
            self.reset();
        }
        is_allowed
    }

    /// Ends the connection from this side, abruptly.
    pub fn reset(&mut self) {
        self.phase = match self.phase {
            // The guest has never heard of it.
            Phase::Requested { sent: false, .. } | Phase::Draining | Phase::Over => Phase::Over,
            _ => Phase::Resetting,
        };
        self.stream = None;
        self.backlog = VecDeque::new();
    }

    fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Requested { .. } | Phase::Open)
    }

    fn take_credit(&mut self, packet: &Packet) -> Result<(), Overdrawn> {
        self.allowance.update(packet.buf_alloc, packet.fwd_cnt)?;
        if self.allowance.free() > 0 {
            self.asked = false;
        }
        Ok(())
    }

    fn open(&mut self) {
        let line = format!("OK {}\n", self.key.host_port);
        let sent = self
            .stream
            .as_mut()
            .map(|stream| stream.send_bytes(&[IoSlice::new(line.as_bytes())]));
        // A fresh socket has room for a line; a caller that is gone already has not.
        if matches!(sent, Some(Ok(sent)) if sent == line.len()) {
            self.phase = Phase::Open;
        } else {
            self.reset();
        }
    }

    fn shut_by_guest(&mut self, flags: u32) {
        let news = flags & !self.guest_shut;
        self.guest_shut |= flags;
        if news & SHUTDOWN_RECEIVE != 0 {
            // Host programs that write get EPIPE; what they wrote before is not wanted any more.
            self.host_eof = true;
            if let Some(stream) = &mut self.stream {
                stream.shutdown(Shutdown::Read);
            }
        }
        if news & SHUTDOWN_SEND != 0 && self.backlog.is_empty() {
            self.end_sending();
        }
        self.settle();
    }

    fn guest_is_gone(&mut self) {
        let has_data = !self.backlog.is_empty() && self.phase == Phase::Open;
        if has_data {
            self.phase = Phase::Draining;
            if let Some(stream) = &mut self.stream {
                stream.shutdown(Shutdown::Read);
            }
        } else {
            self.phase = Phase::Over;
            self.stream = None;
        }
    }

    /// Moves on where a shutdown and an empty backlog allow it.
    fn settle(&mut self) {
        if !self.backlog.is_empty() {
            return;
        }
        match self.phase {
            Phase::Draining => {
                self.phase = Phase::Over;
                self.stream = None;
            }
            // §5.10.6.5: both directions are over and everything is delivered: confirm.
            Phase::Open if self.guest_shut == SHUTDOWN_BOTH => self.reset(),
            _ => {}
        }
    }
}
