//! The wire format of virtio-v1.2 §5.2.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Feature bits, §5.2.3.
pub mod feature {
    /// Largest segment is in `size_max`.
    pub const SIZE_MAX: u64 = 1 << 1;
    /// Most segments are in `seg_max`.
    pub const SEG_MAX: u64 = 1 << 2;
    /// The disk cannot be written.
    pub const RO: u64 = 1 << 5;
    /// Block size is in `blk_size`.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// There is a cache that FLUSH empties.
    pub const FLUSH: u64 = 1 << 9;
    /// Physical blocks are described in `topology`.
    pub const TOPOLOGY: u64 = 1 << 10;
    /// DISCARD is understood.
    pub const DISCARD: u64 = 1 << 13;
    /// WRITE_ZEROES is understood.
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// Bytes of what `sector` and `capacity` count, whatever the block size.
pub const SECTOR: u64 = 512;

/// Request types, §5.2.6.
pub mod kind {
    /// Read.
    pub const IN: u32 = 0;
    /// Write.
    pub const OUT: u32 = 1;
    /// Empty the cache.
    pub const FLUSH: u32 = 4;
    /// Tell the disk's name.
    pub const GET_ID: u32 = 8;
    /// Forget sectors.
    pub const DISCARD: u32 = 11;
    /// Make sectors read as zeros.
    pub const WRITE_ZEROES: u32 = 13;
}

/// Bytes of a disk's name, §5.2.6.
pub const ID_LEN: usize = 20;

/// Let WRITE_ZEROES give the sectors' room back.
pub const UNMAP: u32 = 1;

/// How a request ended: its last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Not done.
    IoErr = 1,
    /// Not understood.
    Unsupported = 2,
}

/// The front of every request.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// One of [`kind`].
    pub kind: U32,
    /// Nothing.
    pub reserved: U32,
    /// Where reading or writing starts.
    pub sector: U64,
}

/// What DISCARD and WRITE_ZEROES are to clear.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Range {
    /// First sector.
    pub sector: U64,
    /// How many.
    pub sectors: U32,
    /// [`UNMAP`] or nothing.
    pub flags: U32,
}

/// The configuration space, §5.2.4.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ConfigSpace {
    /// Sectors.
    pub capacity: U64,
    /// Most bytes of a segment.
    pub size_max: U32,
    /// Most segments of a request.
    pub seg_max: U32,
    /// Cylinders, heads, sectors: not offered.
    pub geometry: [u8; 4],
    /// Logical block size in bytes.
    pub blk_size: U32,
    /// Logical blocks of a physical one, as a power of two.
    pub physical_block_exp: u8,
    /// First aligned logical block.
    pub alignment_offset: u8,
    /// Least that is worth writing, in logical blocks.
    pub min_io_size: U16,
    /// Best to write, in logical blocks.
    pub opt_io_size: U32,
    /// Not offered.
    pub writeback: u8,
    /// Nothing.
    pub unused: u8,
    /// Not offered.
    pub num_queues: U16,
    /// Most sectors of a DISCARD.
    pub max_discard_sectors: U32,
    /// Most ranges of one.
    pub max_discard_seg: U32,
    /// Sectors that it is aligned to.
    pub discard_sector_alignment: U32,
    /// Most sectors of a WRITE_ZEROES.
    pub max_write_zeroes_sectors: U32,
    /// Most ranges of one.
    pub max_write_zeroes_seg: U32,
    /// Whether it may give room back.
    pub write_zeroes_may_unmap: u8,
    /// Nothing.
    pub unused1: [u8; 3],
}
