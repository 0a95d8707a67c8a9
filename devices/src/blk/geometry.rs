//! What a descriptor of the host is as a disk.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FallocateFlags, FileType, SeekFrom};
use serde::{Deserialize, Serialize};

use super::spec::SECTOR;

/// Size of a disk, and what can be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Geometry {
    /// Bytes.
    pub bytes: u64,
    /// Bytes of a logical block: nothing smaller is written as a whole.
    pub block_size: u32,
    /// Bytes of a physical block.
    pub physical_block_size: u32,
    /// Whether a part can be forgotten, and reads as zeros then.
    pub can_discard: bool,
    /// Whether a part can be cleared without its zeros being written.
    pub can_write_zeroes: bool,
}

impl Geometry {
    /// Asks the system about an open file or block device.
    ///
    /// # Errors
    /// When it is neither, or cannot be asked.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&file)?;
        let bytes = rustix::fs::seek(&file, SeekFrom::End(0))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let sector = SECTOR as u32;
                Ok(Self {
                    bytes,
                    block_size: sector,
                    physical_block_size: (stat.st_blksize as u32).clamp(sector, 4096),
                    can_discard: allows(&file, bytes, FallocateFlags::PUNCH_HOLE),
                    can_write_zeroes: allows(&file, bytes, FallocateFlags::ZERO_RANGE),
                })
            }
            FileType::BlockDevice => Ok(Self {
                bytes,
                block_size: rustix::fs::ioctl_blksszget(&file)?,
                physical_block_size: rustix::fs::ioctl_blkpbszget(&file)?,
                can_discard: clears_by_itself(stat.st_rdev),
                // Where the device cannot, the host's kernel writes the zeros.
                can_write_zeroes: true,
            }),
            _ => Err(io::Error::other(
                "it is neither a block device nor a regular file",
            )),
        }
    }
}

/// Whether the file system knows `operation`: tried behind the end, where it changes nothing.
fn allows(file: impl AsFd, end: u64, operation: FallocateFlags) -> bool {
    let behind = end.next_multiple_of(1 << 16);
    rustix::fs::fallocate(file, operation | FallocateFlags::KEEP_SIZE, behind, SECTOR).is_ok()
}

/// Whether the block device clears sectors without being sent zeros, which is what punching a hole takes.
fn clears_by_itself(device: u64) -> bool {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let directory = format!("/sys/dev/block/{major}:{minor}");
    // A partition has its disk's queue.
    let queues = ["queue", "../queue"].map(|queue| format!("{directory}/{queue}"));
    let limit = queues
        .iter()
        .find_map(|queue| std::fs::read_to_string(format!("{queue}/write_zeroes_max_bytes")).ok());
    limit.is_some_and(|limit| limit.trim().parse::<u64>().is_ok_and(|bytes| bytes > 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_file_is_as_long_as_it_was_and_has_room_for_nothing_more() {
        let fd = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(fd);
        file.set_len(1 << 20).unwrap();
        let geometry = Geometry::of(&file).unwrap();
        assert_eq!((geometry.bytes, geometry.block_size), (1 << 20, 512));
        // A memfd is tmpfs, which punches holes and knows no ZERO_RANGE.
        assert!(geometry.can_discard && !geometry.can_write_zeroes);
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    }

    #[test]
    fn a_file_that_cannot_be_written_cannot_be_cleared() {
        let path = std::env::temp_dir().join(format!("podvmm-geometry-{}", std::process::id()));
        std::fs::write(&path, [1; 4096]).unwrap();
        let geometry = Geometry::of(File::open(&path).unwrap()).unwrap();
        std::fs::remove_file(path).unwrap();
        assert!(!geometry.can_discard && !geometry.can_write_zeroes);
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        for path in ["/dev/null", "/"] {
            Geometry::of(File::open(path).unwrap()).unwrap_err();
        }
    }
}
