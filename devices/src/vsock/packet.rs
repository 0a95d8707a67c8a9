//! What a packet of the guest means, decided on one copy of its header.
//!
//! The header is copied out of guest memory once and never looked at again: a driver that changes
//! it afterwards changes nothing (virtio-v1.2 §5.10.6.4 puts the rest of the rules).

use super::config::GuestCid;
use super::spec::{HEADER_SIZE, HOST_CID, Header, Op, TYPE_STREAM};

/// The ports that name a connection; the context identifiers are always the guest's and the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub guest_port: u32,
    pub host_port: u32,
}

/// A packet that belongs to a stream between this guest and this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub key: Key,
    pub op: Op,
    /// Bytes of payload; there are as many in the chain.
    pub len: u32,
    pub flags: u32,
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
}

/// A packet that is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not from this guest, or itself a reset: no answer.
    Ignore,
    /// Answered with a reset, as if nobody listened.
    Reset(Stray),
    /// It names a stream but breaks the rules: that stream is reset.
    Broken(Key),
}

/// Where a reset goes that belongs to no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Whom the guest had addressed.
    pub cid: u64,
    pub type_: u16,
    pub key: Key,
}

impl Stray {
    /// The stray that answers a packet for `key` on an ordinary stream.
    pub fn of(key: Key) -> Self {
        Self {
            cid: HOST_CID,
            type_: TYPE_STREAM,
            key,
        }
    }

    /// The reset itself.
    pub fn header(&self, guest: GuestCid) -> Header {
        Header {
            src_cid: self.cid.into(),
            dst_cid: guest.get().into(),
            src_port: self.key.host_port.into(),
            dst_port: self.key.guest_port.into(),
            type_: self.type_.into(),
            op: (Op::Rst as u16).into(),
            ..Header::default()
        }
    }
}

/// Checks `header` of a packet of the guest in a chain of `readable` bytes.
pub fn check(header: &Header, readable: usize, guest: GuestCid) -> Result<Packet, Refusal> {
    let op = Op::new(header.op.get());
    if header.src_cid.get() != guest.get() {
        return Err(Refusal::Ignore);
    }
    let key = Key {
        guest_port: header.src_port.get(),
        host_port: header.dst_port.get(),
    };
    if header.dst_cid.get() != HOST_CID || header.type_.get() != TYPE_STREAM {
        if op == Some(Op::Rst) {
            return Err(Refusal::Ignore);
        }
        return Err(Refusal::Reset(Stray {
            cid: header.dst_cid.get(),
            type_: header.type_.get(),
            key,
        }));
    }
    let Some(op) = op else {
        return Err(Refusal::Broken(key));
    };
    let len = header.len.get();
    // Only data has a payload; a length elsewhere is meaningless and is not followed.
    if op == Op::Rw && len as usize > readable.saturating_sub(HEADER_SIZE) {
        return Err(Refusal::Broken(key));
    }
    Ok(Packet {
        key,
        op,
        len,
        flags: header.flags.get(),
        buf_alloc: header.buf_alloc.get(),
        fwd_cnt: header.fwd_cnt.get(),
    })
}
