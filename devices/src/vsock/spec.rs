//! Wire structures and numbers of the socket device, virtio-v1.2 §5.10.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The host's context identifier.
pub const HOST_CID: u64 = 2;
/// `VIRTIO_VSOCK_TYPE_STREAM`, the only socket type here.
pub const TYPE_STREAM: u16 = 1;
/// Feature bit `VIRTIO_VSOCK_F_STREAM` (§5.10.3).
pub const F_STREAM: u64 = 1 << 0;
/// `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`: the sender of the packet takes no more data.
pub const SHUTDOWN_RECEIVE: u32 = 1 << 0;
/// `VIRTIO_VSOCK_SHUTDOWN_F_SEND`: the sender of the packet gives no more data.
pub const SHUTDOWN_SEND: u32 = 1 << 1;
/// Both directions.
pub const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;
/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`: all connections are lost, the CID may be another (§5.10.6.7).
pub const EVENT_TRANSPORT_RESET: u32 = 0;
/// Size of [`Header`] in bytes.
pub const HEADER_SIZE: usize = size_of::<Header>();

/// `struct virtio_vsock_hdr` (§5.10.6): the first bytes of every packet on rx and tx.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Header {
    /// Sender's context identifier.
    pub src_cid: U64,
    /// Receiver's context identifier.
    pub dst_cid: U64,
    /// Sender's port.
    pub src_port: U32,
    /// Receiver's port.
    pub dst_port: U32,
    /// Bytes of payload behind the header.
    pub len: U32,
    /// Socket type, [`TYPE_STREAM`].
    pub type_: U16,
    /// What the packet is for, an [`Op`].
    pub op: U16,
    /// `SHUTDOWN_*` for a shutdown, else zero.
    pub flags: U32,
    /// Size of the sender's receive buffer in bytes.
    pub buf_alloc: U32,
    /// Bytes that the sender has taken out of its receive buffer so far, wrapping.
    pub fwd_cnt: U32,
}

/// `struct virtio_vsock_event` (§5.10.6.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event {
    /// [`EVENT_TRANSPORT_RESET`].
    pub id: U32,
}

/// What a packet is for (§5.10.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Asks for a connection.
    Request = 1,
    /// Accepts one.
    Response = 2,
    /// Refuses or ends one.
    Rst = 3,
    /// Announces that one or both directions are over.
    Shutdown = 4,
    /// Carries data.
    Rw = 5,
    /// Tells the credit.
    CreditUpdate = 6,
    /// Asks for [`Op::CreditUpdate`].
    CreditRequest = 7,
}

impl Op {
    /// The operation with number `value`, if there is one.
    #[must_use]
    pub fn new(value: u16) -> Option<Self> {
        Some(match value {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Rst,
            4 => Self::Shutdown,
            5 => Self::Rw,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

const _: () = assert!(HEADER_SIZE == 44);
