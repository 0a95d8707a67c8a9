//! The direction from the host program to the guest.

use std::io::ErrorKind;

use super::{Connection, Next, Phase};
use crate::vsock::buffers::GuestBuffers;
use crate::vsock::config::GuestCid;
use crate::vsock::rx::MAX_BATCH;
use crate::vsock::spec::{
    HOST_CID, Header, Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM,
};
use crate::vsock::stream::Stream;

impl<S: Stream> Connection<S> {
    /// What the guest should get next.
    pub fn next(&self) -> Next {
        let control = |op| Next::Control { op, flags: 0 };
        match self.phase {
            Phase::Resetting => return control(Op::Rst),
            Phase::Requested { sent: false, .. } => return control(Op::Request),
            Phase::Open => {}
            _ => return Next::Nothing,
        }
        if self.owes_response {
            return control(Op::Response);
        }
        let shut = self.shut_by_host();
        if shut & !self.told != 0 {
            return Next::Control {
                op: Op::Shutdown,
                flags: shut,
            };
        }
        if self.readable && !self.host_eof {
            match self.allowance.free() {
                0 if !self.asked => return control(Op::CreditRequest),
                0 => {}
                limit => {
                    return Next::Data {
                        limit,
                        batch: self.batch,
                    };
                }
            }
        }
        let is_guest_sending = self.guest_shut & SHUTDOWN_SEND == 0;
        if self.owes_credit || (is_guest_sending && self.window.is_update_due()) {
            return control(Op::CreditUpdate);
        }
        Next::Nothing
    }

    /// The header of a packet to the guest. It tells the credit, so the packet must be sent.
    pub fn header(&mut self, guest: GuestCid, op: Op, flags: u32, len: u32) -> Header {
        self.owes_credit = false;
        let (buf_alloc, fwd_cnt) = self.window.tell();
        Header {
            src_cid: HOST_CID.into(),
            dst_cid: guest.get().into(),
            src_port: self.key.host_port.into(),
            dst_port: self.key.guest_port.into(),
            len: len.into(),
            type_: TYPE_STREAM.into(),
            op: (op as u16).into(),
            flags: flags.into(),
            buf_alloc: buf_alloc.into(),
            fwd_cnt: fwd_cnt.into(),
        }
    }

    /// The guest was given the packet that [`next`](Self::next) asked for.
    pub fn delivered(&mut self, op: Op, flags: u32) {
        match (op, &mut self.phase) {
            (Op::Rst, phase) => *phase = Phase::Over,
            (Op::Request, Phase::Requested { sent, .. }) => *sent = true,
            (Op::Response, _) => self.owes_response = false,
            (Op::CreditRequest, _) => self.asked = true,
            (Op::Shutdown, _) => {
                self.told |= flags;
                if self.told == SHUTDOWN_BOTH {
                    // Nothing can come or go: only the guest's answer is awaited.
                    self.stream = None;
                    self.host_is_deaf();
                }
            }
            _ => {}
        }
    }

    /// Receives from the stream into guest memory: the number of bytes, none if there is nothing
    /// now.
    pub fn receive(&mut self, room: &GuestBuffers<'_>) -> usize {
        let Some(stream) = &mut self.stream else {
            self.readable = false;
            return 0;
        };
        match stream.receive(room) {
            Ok(0) => self.host_has_ended(),
            Ok(len) => {
                self.allowance.send(len as u32);
                // A stream that gave less than it could is empty; an event comes when it is not.
                if len < room.len() {
                    self.readable = self.ending;
                }
                if len == room.len() {
                    self.batch = (self.batch * 2).min(MAX_BATCH);
                } else if len < room.len() / 4 {
                    self.batch = (self.batch / 2).max(1);
                }
                return len;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(_) => self.host_has_ended(),
        }
        0
    }

    fn host_has_ended(&mut self) {
        self.readable = false;
        self.host_eof = true;
        if self.hung_up {
            self.host_is_deaf();
        }
    }

    /// What the guest should know of the host program's shutdowns.
    fn shut_by_host(&self) -> u32 {
        let is_sending_done =
            self.host_deaf || (self.guest_shut & SHUTDOWN_SEND != 0 && self.backlog.is_empty());
        let mut flags = 0;
        // A guest that does not receive need not be told that nothing comes.
        if self.host_eof && (is_sending_done || self.guest_shut & SHUTDOWN_RECEIVE == 0) {
            flags |= SHUTDOWN_SEND;
        }
        // A guest that has stopped sending learns that nobody listens only when that ends it all.
        if self.host_deaf || (self.host_eof && is_sending_done) {
            flags |= SHUTDOWN_RECEIVE;
        }
        flags
    }
}
