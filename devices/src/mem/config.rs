//! Where a memory device's region is, checked once.

use thiserror::Error;

/// Bytes of a block: what is plugged and unplugged at once. A huge page, so that giving a block back never
/// breaks one, and no smaller than what Linux can take out of use.
pub const BLOCK: u64 = 2 << 20;

/// Most bytes of a region. Its blocks are a bitmap of 64 KiB.
pub const MAX_REGION: u64 = 1 << 40;

/// A region that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidRegion {
    /// A piece that is no whole number of blocks.
    #[error("pieces of {0} bytes: they are whole blocks of {BLOCK}")]
    Piece(u64),
    /// A region that is no whole number of pieces, starts within one, or is too large.
    #[error(
        "{size} bytes from {start:#x}: a region starts and ends with a piece of {piece} bytes, and has at most {MAX_REGION}"
    )]
    Region {
        /// Guest physical address.
        start: u64,
        /// Bytes.
        size: u64,
        /// Bytes of a piece.
        piece: u64,
    },
}

/// The region that a device plugs memory into. The hypervisor provides it in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemRegion {
    start: u64,
    size: u64,
    piece: u64,
}

impl MemRegion {
    /// `size` bytes from the guest physical address `start`, in pieces of `piece` bytes.
    ///
    /// # Errors
    /// [`InvalidRegion`].
    pub fn new(start: u64, size: u64, piece: u64) -> Result<Self, InvalidRegion> {
        if piece == 0 || !piece.is_multiple_of(BLOCK) {
            return Err(InvalidRegion::Piece(piece));
        }
        let fits = start.is_multiple_of(piece)
            && size > 0
            && size.is_multiple_of(piece)
            && size <= MAX_REGION
            && start.checked_add(size).is_some();
        if !fits {
            return Err(InvalidRegion::Region { start, size, piece });
        }
        Ok(Self { start, size, piece })
    }

    /// Guest physical address.
    #[must_use]
    pub fn start(self) -> u64 {
        self.start
    }

    /// Bytes.
    #[must_use]
    pub fn size(self) -> u64 {
        self.size
    }

    /// Bytes of a piece.
    #[must_use]
    pub fn piece(self) -> u64 {
        self.piece
    }

    /// Number of pieces.
    #[must_use]
    pub fn pieces(self) -> usize {
        (self.size / self.piece) as usize
    }

    pub(super) fn blocks(self) -> usize {
        (self.size / BLOCK) as usize
    }

    pub(super) fn blocks_of_piece(self, piece: usize) -> std::ops::Range<usize> {
        let blocks = (self.piece / BLOCK) as usize;
        piece * blocks..(piece + 1) * blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_whole_pieces_of_whole_blocks() {
        const PIECE: u64 = 128 << 20;
        let region = MemRegion::new(PIECE, 2 * PIECE, PIECE).unwrap();
        assert_eq!((region.pieces(), region.blocks()), (2, 128));
        assert_eq!(region.blocks_of_piece(1), 64..128);
        for (start, size, piece) in [
            (0, PIECE, 0),
            (0, PIECE, 1 << 20),
            (0, 0, PIECE),
            (1, PIECE, PIECE),
            (0, PIECE + BLOCK, PIECE),
            (0, MAX_REGION + PIECE, PIECE),
            (u64::MAX - PIECE + 1, PIECE, PIECE),
        ] {
            assert!(
                MemRegion::new(start, size, piece).is_err(),
                "{start:#x} {size} {piece}"
            );
        }
    }
}
