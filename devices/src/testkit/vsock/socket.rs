//! One socket of the guest.

use std::collections::VecDeque;

use crate::vsock::spec::{HOST_CID, Header, Op, TYPE_STREAM};

/// The ports that name a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId {
    /// Port of the guest.
    pub guest_port: u32,
    /// Port of the host.
    pub host_port: u32,
}

/// What has become of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The host has not answered.
    Connecting,
    /// Data may flow.
    Connected,
    /// Refused, reset, or closed on both sides.
    Closed,
}

pub(super) struct Socket {
    pub state: State,
    pub data: VecDeque<u8>,
    pub sent: u32,
    pub shut: u32,
    pub peer_shut: u32,
    buffer: u32,
    forwarded: u32,
    told: u32,
    peer_buffer: u32,
    peer_forwarded: u32,
}

impl Socket {
    pub fn new(state: State, buffer: u32) -> Self {
        Self {
            state,
            data: VecDeque::new(),
            sent: 0,
            shut: 0,
            peer_shut: 0,
            buffer,
            forwarded: 0,
            told: 0,
            peer_buffer: 0,
            peer_forwarded: 0,
        }
    }

    pub fn credit(&self) -> u32 {
        self.peer_buffer
            .saturating_sub(self.sent.wrapping_sub(self.peer_forwarded))
    }

    pub fn take_credit(&mut self, header: &Header) {
        self.peer_buffer = header.buf_alloc.get();
        self.peer_forwarded = header.fwd_cnt.get();
    }

    pub fn take(&mut self, out: &mut [u8]) -> usize {
        let len = out.len().min(self.data.len());
        let (first, second) = self.data.as_slices();
        let from_first = len.min(first.len());
        out[..from_first].copy_from_slice(&first[..from_first]);
        out[from_first..len].copy_from_slice(&second[..len - from_first]);
        self.data.drain(..len);
        self.forwarded = self.forwarded.wrapping_add(len as u32);
        len
    }

    /// `virtio_transport_stream_do_dequeue`: under 64 KiB left, as far as the sender knows.
    pub fn is_update_due(&self) -> bool {
        let news = self.forwarded.wrapping_sub(self.told);
        news > 0 && self.buffer.saturating_sub(news) < 64 * 1024
    }

    pub fn header(&mut self, cid: u64, id: SocketId, op: Op, flags: u32, len: u32) -> Header {
        self.told = self.forwarded;
        Header {
            src_cid: cid.into(),
            dst_cid: HOST_CID.into(),
            src_port: id.guest_port.into(),
            dst_port: id.host_port.into(),
            len: len.into(),
            type_: TYPE_STREAM.into(),
            op: (op as u16).into(),
            flags: flags.into(),
            buf_alloc: self.buffer.into(),
            fwd_cnt: self.forwarded.into(),
        }
    }
}
