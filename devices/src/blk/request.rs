//! One request as bytes: what of it may be believed.

use super::config::BlkConfig;
use super::spec::{Header, ID_LEN, Range, SECTOR, Status, UNMAP, kind};
use crate::queue::{ChainReader, ChainWriter};

/// Most segments of a request, and bytes of one.
pub(super) const MAX_SEGMENTS: u32 = 254;
pub(super) const MAX_SEGMENT: u32 = 64 << 10;
/// Most bytes that a request reads or writes: all segments that it may have.
pub const MAX_DATA: u64 = MAX_SEGMENT as u64 * MAX_SEGMENTS as u64;
/// Most bytes that a request clears. The host's kernel may have to write zeros for all of them.
pub const MAX_CLEARED: u64 = 32 << 20;

/// A request that was checked: all of it is within the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Read `len` bytes from `offset` on.
    Read { offset: u64, len: usize },
    /// Write them.
    Write { offset: u64, len: usize },
    /// Have everything on the disk that was written.
    Flush,
    /// Tell the disk's name.
    Id,
    /// Forget `len` bytes from `offset` on.
    Discard { offset: u64, len: u64 },
    /// Clear them; `unmap` lets the host have their room.
    Zero { offset: u64, len: u64, unmap: bool },
}

impl Request {
    /// Checks what `header` asks for. `reader` is behind it; `room` is what can be written without the
    /// status.
    pub fn parse(
        header: Header,
        reader: &mut ChainReader<'_>,
        room: &ChainWriter<'_>,
        disk: &BlkConfig,
    ) -> Result<Self, Status> {
        let sector = header.sector.get();
        match header.kind.get() {
            kind::IN => {
                let len = room.available();
                let offset = within(disk, sector, len as u64, MAX_DATA)?;
                Ok(Self::Read { offset, len })
            }
            kind::OUT if disk.read_only => Err(Status::IoErr),
            kind::OUT => {
                let len = reader.available();
                let offset = within(disk, sector, len as u64, MAX_DATA)?;
                Ok(Self::Write { offset, len })
            }
            kind::FLUSH => Ok(Self::Flush),
            kind::GET_ID if room.available() < ID_LEN => Err(Status::IoErr),
            kind::GET_ID => Ok(Self::Id),
            kind::DISCARD | kind::WRITE_ZEROES if disk.read_only => Err(Status::IoErr),
            kind::DISCARD if disk.can_discard => {
                let (range, offset, len) = cleared(disk, reader)?;
                match range.flags.get() {
                    0 => Ok(Self::Discard { offset, len }),
                    // §5.2.6.2: not even UNMAP.
                    _ => Err(Status::Unsupported),
                }
            }
            kind::WRITE_ZEROES if disk.can_write_zeroes => {
                let (range, offset, len) = cleared(disk, reader)?;
                match range.flags.get() {
                    flags @ (0 | UNMAP) => Ok(Self::Zero {
                        offset,
                        len,
                        unmap: flags == UNMAP && disk.can_discard,
                    }),
                    _ => Err(Status::Unsupported),
                }
            }
            _ => Err(Status::Unsupported),
        }
    }
}

/// The one range that was offered for a request.
fn cleared(disk: &BlkConfig, reader: &mut ChainReader<'_>) -> Result<(Range, u64, u64), Status> {
    if reader.available() != size_of::<Range>() {
        return Err(Status::IoErr);
    }
    let range: Range = reader.read_obj().map_err(|_| Status::IoErr)?;
    let len = u64::from(range.sectors.get()) * SECTOR;
    let offset = within(disk, range.sector.get(), len, MAX_CLEARED)?;
    // Nothing is no range that the system would clear.
    if len == 0 {
        return Err(Status::IoErr);
    }
    Ok((range, offset, len))
}

/// Where `len` bytes from `sector` on start, if they are whole sectors of the disk and no more than
/// `most`.
fn within(disk: &BlkConfig, sector: u64, len: u64, most: u64) -> Result<u64, Status> {
    let end = sector.checked_add(len / SECTOR);
    let fits = end.is_some_and(|end| end <= disk.sectors);
    if !fits || !len.is_multiple_of(SECTOR) || len > most {
        return Err(Status::IoErr);
    }
    // A disk has fewer bytes than 2^64, and this is within it.
    sector.checked_mul(SECTOR).ok_or(Status::IoErr)
}
