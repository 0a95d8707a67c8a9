//! An ELF kernel's headers, checked whole before anything is loaded.
//!
//! The loader checks what it needs for itself; it does not look at the machine, and a segment that
//! claims more memory than it has bytes is never written to the end.

use std::io::{self, Read, Seek, SeekFrom};

use thiserror::Error;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::image::Image;
use super::layout;

const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
/// A kernel has a handful; a file that claims more is no kernel.
const MAX_SEGMENTS: u16 = 64;

/// What is wrong with an ELF kernel.
#[derive(Debug, Error)]
pub enum ElfError {
    /// The headers end before they should.
    #[error("its headers cannot be read")]
    Headers(#[source] io::Error),
    /// Built for something else.
    #[error("it is for another machine (ELF machine {0}, x86-64 is {EM_X86_64})")]
    Machine(u16),
    /// A table of segments that no kernel has.
    #[error("it claims {count} segments of {size} bytes each")]
    Table {
        /// Number of program headers.
        count: u16,
        /// Size of each in bytes.
        size: u16,
    },
    /// Nothing would be loaded.
    #[error("it has no segment that is to be loaded")]
    Nothing,
    /// A segment outside the file or outside memory.
    #[error(
        "segment {index} ({file_size} bytes at {offset:#x} of the file, {memory_size} at {address:#x}) lies outside the file or the guest's memory"
    )]
    Segment {
        /// Which one.
        index: u16,
        /// Where it starts in the file.
        offset: u64,
        /// Bytes in the file.
        file_size: u64,
        /// Where it belongs in guest physical memory.
        address: u64,
        /// Bytes in memory.
        memory_size: u64,
    },
}

/// `Elf64_Ehdr`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct FileHeader {
    ident: [u8; 16],
    kind: u16,
    machine: u16,
    version: u32,
    entry: u64,
    segments_at: u64,
    sections_at: u64,
    flags: u32,
    header_size: u16,
    segment_size: u16,
    segment_count: u16,
    section_size: u16,
    section_count: u16,
    section_names: u16,
}

/// `Elf64_Phdr`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    virtual_address: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

/// Checks that the segments of `kernel` lie in the file and in guest memory below `low_end`, and says
/// where the last of them ends there. One without bytes in the file counts as well: the kernel will
/// use its memory.
pub fn check(kernel: &mut Image, low_end: u64) -> Result<u64, ElfError> {
    let file_len = kernel.len();
    let header: FileHeader = read(kernel, 0)?;
    if header.machine != EM_X86_64 {
        return Err(ElfError::Machine(header.machine));
    }
    let (count, size) = (header.segment_count, header.segment_size);
    if count == 0 || count > MAX_SEGMENTS || usize::from(size) != size_of::<Segment>() {
        return Err(ElfError::Table { count, size });
    }
    let mut kernel_end = 0;
    for index in 0..count {
        let skipped = u64::from(index) * u64::from(size);
        let at = header.segments_at.saturating_add(skipped);
        let segment: Segment = read(kernel, at)?;
        let in_file = segment
            .offset
            .checked_add(segment.file_size)
            .is_some_and(|e| e <= file_len);
        let end = segment.address.checked_add(segment.memory_size);
        let in_memory = segment.address >= layout::EXTENDED_START
            && segment.file_size <= segment.memory_size
            && end.is_some_and(|end| end <= low_end);
        if segment.kind != PT_LOAD {
            continue;
        }
        if !(in_file && in_memory) {
            return Err(ElfError::Segment {
                index,
                offset: segment.offset,
                file_size: segment.file_size,
                address: segment.address,
                memory_size: segment.memory_size,
            });
        }
        kernel_end = kernel_end.max(segment.address + segment.memory_size);
    }
    // What goes behind the kernel would overwrite boot data.
    if kernel_end == 0 {
        return Err(ElfError::Nothing);
    }
    Ok(kernel_end)
}

fn read<T: FromBytes + IntoBytes + FromZeros>(kernel: &mut Image, at: u64) -> Result<T, ElfError> {
    let mut value = T::new_zeroed();
    kernel
        .seek(SeekFrom::Start(at))
        .map_err(ElfError::Headers)?;
    kernel
        .read_exact(value.as_mut_bytes())
        .map_err(ElfError::Headers)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;

    const LOW_END: u64 = 256 << 20;

    fn kernel(change: impl FnOnce(&mut FileHeader, &mut Segment)) -> Result<u64, ElfError> {
        let mut header = FileHeader::new_zeroed();
        header.machine = EM_X86_64;
        header.segments_at = 64;
        header.segment_size = 56;
        header.segment_count = 1;
        let mut segment = Segment::new_zeroed();
        segment.kind = PT_LOAD;
        segment.offset = 120;
        segment.address = 16 << 20;
        segment.file_size = 100;
        segment.memory_size = 4096;
        change(&mut header, &mut segment);
        let fd = rustix::fs::memfd_create("kernel", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(fd);
        for part in [header.as_bytes(), segment.as_bytes(), &[0x90; 100]] {
            file.write_all(part).unwrap();
        }
        check(&mut Image::map(&file).unwrap(), LOW_END)
    }

    #[test]
    fn what_fits_is_accepted() {
        assert_eq!(kernel(|_, _| {}).unwrap(), (16 << 20) + 4096);
        let all = kernel(|_, segment| segment.memory_size = LOW_END - segment.address);
        assert_eq!(all.unwrap(), LOW_END);
        let empty = kernel(|_, segment| segment.file_size = 0);
        assert_eq!(empty.unwrap(), (16 << 20) + 4096);
    }

    #[test]
    fn case_22_headers_that_lie_are_refused() {
        assert!(matches!(
            kernel(|h, _| h.machine = 0xb7),
            Err(ElfError::Machine(0xb7))
        ));
        for change in [
            (|h, _| h.segment_count = 0xffff) as fn(&mut FileHeader, &mut Segment),
            |h, _| h.segment_count = 0,
            |h, _| h.segment_size = 1,
            |h, _| h.segments_at = u64::MAX,
            |h, _| h.segments_at = 200,
            |_, s| s.kind = 4,
            |_, s| s.offset = u64::MAX,
            |_, s| s.file_size = u64::MAX,
            |_, s| s.file_size = 101,
            |_, s| s.memory_size = u64::MAX,
            |_, s| s.memory_size = 1,
            |_, s| s.address = u64::MAX,
            |_, s| s.address = 0,
            |_, s| s.address = LOW_END,
        ] {
            assert!(kernel(change).is_err());
        }
    }
}
