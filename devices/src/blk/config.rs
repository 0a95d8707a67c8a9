//! What a block device is made of.

use thiserror::Error;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::geometry::Geometry;
use super::request::{MAX_CLEARED, MAX_SEGMENT, MAX_SEGMENTS};
use super::spec::{ConfigSpace, ID_LEN, SECTOR, feature};
use crate::rate::RateLimit;

/// Largest block of a disk: a page, for Linux takes no more everywhere.
const MAX_BLOCK: u32 = 4096;
/// Largest physical block: [`ConfigSpace::physical_block_exp`] gets no larger in practice.
const MAX_PHYSICAL_BLOCK: u32 = 1 << 20;

/// A block device, not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlkSettings {
    /// The disk.
    pub geometry: Geometry,
    /// Whether it cannot be changed.
    pub read_only: bool,
    /// What it tells of itself: at most 20 printable ASCII characters.
    pub id: String,
    /// How fast it may be used.
    pub limit: RateLimit,
}

/// Settings that no block device can have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidBlkConfig {
    /// There is not one block.
    #[error("a disk of {0} bytes: it has less than one block")]
    Empty(u64),
    /// Blocks that cannot be.
    #[error(
        "a disk with blocks of {logical} bytes, physical ones of {physical}: both are powers of two, the first from 512 to {MAX_BLOCK}, the second no smaller"
    )]
    Blocks {
        /// Of the logical ones.
        logical: u32,
        /// Of the physical ones.
        physical: u32,
    },
    /// A name that it cannot tell.
    #[error("a disk called {0:?}: its name has at most {ID_LEN} printable ASCII characters")]
    Id(String),
}

/// A block device that can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlkConfig {
    /// In sectors, a whole number of blocks.
    pub(super) sectors: u64,
    pub(super) block_size: u32,
    pub(super) physical_block_size: u32,
    pub(super) read_only: bool,
    pub(super) can_discard: bool,
    pub(super) can_write_zeroes: bool,
    pub(super) id: [u8; ID_LEN],
    pub(super) limit: RateLimit,
}

impl TryFrom<BlkSettings> for BlkConfig {
    type Error = InvalidBlkConfig;

    fn try_from(settings: BlkSettings) -> Result<Self, InvalidBlkConfig> {
        let BlkSettings {
            geometry,
            read_only,
            id: name,
            limit,
        } = settings;
        let (logical, physical) = (geometry.block_size, geometry.physical_block_size);
        let powers = logical.is_power_of_two() && physical.is_power_of_two();
        let in_range = (SECTOR as u32..=MAX_BLOCK).contains(&logical)
            && (logical..=MAX_PHYSICAL_BLOCK).contains(&physical);
        if !powers || !in_range {
            return Err(InvalidBlkConfig::Blocks { logical, physical });
        }
        let blocks = geometry.bytes / u64::from(logical);
        if blocks == 0 {
            return Err(InvalidBlkConfig::Empty(geometry.bytes));
        }
        let mut id = [0; ID_LEN];
        let printable = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        match id.get_mut(..name.len()) {
            Some(front) if name.bytes().all(printable) => front.copy_from_slice(name.as_bytes()),
            _ => return Err(InvalidBlkConfig::Id(name)),
        }
        Ok(Self {
            sectors: blocks * (u64::from(logical) / SECTOR),
            block_size: logical,
            physical_block_size: physical,
            read_only,
            can_discard: geometry.can_discard && !read_only,
            can_write_zeroes: geometry.can_write_zeroes && !read_only,
            id,
            limit,
        })
    }
}

impl BlkConfig {
    pub(super) fn features(&self) -> u64 {
        let mut features = feature::SIZE_MAX
            | feature::SEG_MAX
            | feature::BLK_SIZE
            | feature::TOPOLOGY
            | feature::FLUSH;
        for (is_offered, bit) in [
            (self.read_only, feature::RO),
            (self.can_discard, feature::DISCARD),
            (self.can_write_zeroes, feature::WRITE_ZEROES),
        ] {
            if is_offered {
                features |= bit;
            }
        }
        features
    }

    pub(super) fn space(&self) -> Vec<u8> {
        let most = (MAX_CLEARED / SECTOR) as u32;
        let per_block = self.block_size / SECTOR as u32;
        let mut space = ConfigSpace {
            capacity: U64::new(self.sectors),
            size_max: U32::new(MAX_SEGMENT),
            seg_max: U32::new(MAX_SEGMENTS),
            blk_size: U32::new(self.block_size),
            physical_block_exp: (self.physical_block_size / self.block_size).ilog2() as u8,
            ..ConfigSpace::default()
        };
        if self.can_discard {
            space.max_discard_sectors = U32::new(most);
            space.max_discard_seg = U32::new(1);
            space.discard_sector_alignment = U32::new(per_block);
        }
        if self.can_write_zeroes {
            space.max_write_zeroes_sectors = U32::new(most);
            space.max_write_zeroes_seg = U32::new(1);
            space.write_zeroes_may_unmap = self.can_discard.into();
        }
        space.as_bytes().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> BlkSettings {
        BlkSettings {
            geometry: Geometry {
                bytes: 1 << 20,
                block_size: 512,
                physical_block_size: 4096,
                can_discard: true,
                can_write_zeroes: true,
            },
            read_only: false,
            id: "disk-1".into(),
            limit: RateLimit::default(),
        }
    }

    #[test]
    fn a_part_of_a_block_is_not_offered() {
        let mut with = settings();
        with.geometry.bytes = 3 * 4096 - 1;
        with.geometry.block_size = 4096;
        let config = BlkConfig::try_from(with.clone()).unwrap();
        assert_eq!(config.sectors, 16);
        with.geometry.bytes = 4095;
        assert_eq!(
            BlkConfig::try_from(with),
            Err(InvalidBlkConfig::Empty(4095))
        );
    }

    #[test]
    fn blocks_are_powers_of_two_that_linux_can_have() {
        for (logical, physical) in [
            (0, 0),
            (256, 4096),
            (8192, 8192),
            (513, 4096),
            (4096, 512),
            (512, 1 << 21),
            (512, 1000),
        ] {
            let mut with = settings();
            with.geometry.block_size = logical;
            with.geometry.physical_block_size = physical;
            let refused = BlkConfig::try_from(with).unwrap_err();
            assert_eq!(refused, InvalidBlkConfig::Blocks { logical, physical });
        }
    }

    #[test]
    fn a_name_is_twenty_printable_characters() {
        for wrong in ["123456789012345678901", "a\n", "ä"] {
            let mut with = settings();
            with.id = wrong.into();
            let refused = BlkConfig::try_from(with).unwrap_err();
            assert_eq!(refused, InvalidBlkConfig::Id(wrong.into()));
        }
    }

    #[test]
    fn what_cannot_be_changed_offers_no_change() {
        let mut with = settings();
        with.read_only = true;
        let config = BlkConfig::try_from(with).unwrap();
        let features = config.features();
        assert_ne!(features & feature::RO, 0);
        assert_eq!(features & (feature::DISCARD | feature::WRITE_ZEROES), 0);
    }
}
