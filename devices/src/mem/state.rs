//! The device's state as plain data: what is plugged. How much the host wants to be is the host's to say
//! again, and so is providing memory where something is plugged.

use thiserror::Error;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::blocks::Blocks;
use super::config::BLOCK;
use super::region::Region;
use crate::device::{DeviceKind, DeviceState};

/// Version of [`MemStateV1`].
pub const VERSION: u16 = 1;

/// A saved state that this device cannot go on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidMemState {
    /// Of another device, version or size.
    #[error("it is not one of a memory device, or of an unknown version")]
    Layout,
    /// Of a region that is elsewhere, or of another size.
    #[error("its region is another one")]
    Region,
    /// Memory is plugged that is not usable, or that the host has not provided.
    #[error("memory is plugged where there is none")]
    Blocks,
}

/// The state of a memory device, format 1; a bit for each block follows, the lowest bit of a byte first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemStateV1 {
    /// Bytes of a block.
    pub block_size: U64,
    /// Where the region starts.
    pub addr: U64,
    /// Its bytes.
    pub region_size: U64,
    /// Up to where the driver believes that blocks can be plugged.
    pub usable_region_size: U64,
}

pub(super) fn save(region: &Region) -> DeviceState {
    let header = MemStateV1 {
        block_size: BLOCK.into(),
        addr: region.layout().start().into(),
        region_size: region.layout().size().into(),
        usable_region_size: region.usable().into(),
    };
    let mut payload = header.as_bytes().to_vec();
    payload.extend(region.blocks().to_bytes());
    DeviceState {
        kind: DeviceKind::Mem,
        version: VERSION,
        payload,
    }
}

pub(super) fn restore(region: &mut Region, state: &DeviceState) -> Result<(), InvalidMemState> {
    if state.kind != DeviceKind::Mem || state.version != VERSION {
        return Err(InvalidMemState::Layout);
    }
    let (header, bits) =
        MemStateV1::read_from_prefix(&state.payload).map_err(|_| InvalidMemState::Layout)?;
    let layout = region.layout();
    if header.block_size != BLOCK
        || header.addr != layout.start()
        || header.region_size != layout.size()
    {
        return Err(InvalidMemState::Region);
    }
    let blocks = Blocks::from_bytes(bits, layout.blocks()).ok_or(InvalidMemState::Layout)?;
    if region.restore(blocks, header.usable_region_size.get()) {
        Ok(())
    } else {
        Err(InvalidMemState::Blocks)
    }
}
