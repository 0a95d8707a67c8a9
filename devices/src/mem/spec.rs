//! Wire structures and numbers of the memory device, virtio-v1.2 §5.15.

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE`: the driver does not even read what is unplugged.
pub const F_UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;

/// [`Request::kind`].
pub const REQ_PLUG: u16 = 0;
/// [`Request::kind`].
pub const REQ_UNPLUG: u16 = 1;
/// [`Request::kind`].
pub const REQ_UNPLUG_ALL: u16 = 2;
/// [`Request::kind`].
pub const REQ_STATE: u16 = 3;

/// [`Response::kind`]: done.
pub const RESP_ACK: u16 = 0;
/// [`Response::kind`]: not now; the driver looks at the configuration again.
pub const RESP_NACK: u16 = 1;
/// [`Response::kind`]: not now; the driver tries again later.
pub const RESP_BUSY: u16 = 2;
/// [`Response::kind`]: never.
pub const RESP_ERROR: u16 = 3;

/// [`Response::state`]: all blocks are plugged.
pub const STATE_PLUGGED: u16 = 0;
/// [`Response::state`]: none is.
pub const STATE_UNPLUGGED: u16 = 1;
/// [`Response::state`]: some are.
pub const STATE_MIXED: u16 = 2;

/// `struct virtio_mem_config` (§5.15.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Config {
    /// Bytes of a block, and what addresses are multiples of.
    pub block_size: U64,
    /// Unused without ACPI.
    pub node_id: U16,
    /// Unused.
    pub padding: [u8; 6],
    /// Where the region starts.
    pub addr: U64,
    /// Its bytes.
    pub region_size: U64,
    /// Up to where blocks may be plugged now.
    pub usable_region_size: U64,
    /// How many bytes are plugged.
    pub plugged_size: U64,
    /// How many the host wants to be.
    pub requested_size: U64,
}

/// `struct virtio_mem_req` (§5.15.6): the types differ in nothing but that `UNPLUG_ALL` has no blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Request {
    /// One of `REQ_…`.
    pub kind: U16,
    /// Unused.
    pub padding: [U16; 3],
    /// Where the blocks start.
    pub addr: U64,
    /// How many there are.
    pub blocks: U16,
    /// Unused.
    pub padding_after: [U16; 3],
}

/// `struct virtio_mem_resp` (§5.15.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Response {
    /// One of `RESP_…`.
    pub kind: U16,
    /// Unused.
    pub padding: [U16; 3],
    /// One of `STATE_…`, in answer to `REQ_STATE`.
    pub state: U16,
}
