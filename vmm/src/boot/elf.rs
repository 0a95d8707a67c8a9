//! An ELF kernel: headers that are checked whole before anything is loaded, and its segments into
//! guest memory.

use std::io;

use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryError, GuestMemoryMmap};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::image::Image;
use super::{layout, padding};

const ELFCLASS64: u8 = 2;
const ELFDATA2LSB: u8 = 1;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
/// A kernel has a handful; a file that claims more is no kernel.
const MAX_SEGMENTS: u16 = 64;

/// What is wrong with an ELF kernel.
#[derive(Debug, Error)]
pub enum ElfError {
    /// The headers end before they should.
    #[error("its headers cannot be read")]
    Headers(#[source] io::Error),
    /// Not of 64 bits, or of the other byte order.
    #[error("it is no little-endian 64-bit file (ELF class {class}, data {data})")]
    Class {
        /// `EI_CLASS`; 2 is 64-bit.
        class: u8,
        /// `EI_DATA`; 1 is little-endian.
        data: u8,
    },
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
    /// A segment could not be copied, although it lies in file and memory.
    #[error("segment {index} cannot be copied into guest memory")]
    Copy {
        /// Which one.
        index: usize,
        /// What the memory objected to.
        #[source]
        source: GuestMemoryError,
    },
}

/// A kernel whose headers were checked.
#[derive(Debug)]
pub struct Checked {
    /// Address of the first instruction, as the header has it.
    pub entry: u64,
    /// Where its last segment ends in guest memory. One without bytes in the file counts as well: the
    /// kernel will use its memory.
    pub end: u64,
    segments: Vec<Segment>,
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
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
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

/// Checks that the segments of `kernel` lie in the file and in guest memory below `low_end`.
pub fn check(kernel: &mut Image, low_end: u64) -> Result<Checked, ElfError> {
    let file_len = kernel.len();
    let header: FileHeader = read(kernel, 0)?;
    let (class, data) = (header.ident[4], header.ident[5]);
    if (class, data) != (ELFCLASS64, ELFDATA2LSB) {
        return Err(ElfError::Class { class, data });
    }
    if header.machine != EM_X86_64 {
        return Err(ElfError::Machine(header.machine));
    }
    let (count, size) = (header.segment_count, header.segment_size);
    if count == 0 || count > MAX_SEGMENTS || usize::from(size) != size_of::<Segment>() {
        return Err(ElfError::Table { count, size });
    }
    let mut segments = Vec::new();
    for index in 0..count {
        let skipped = u64::from(index) * u64::from(size);
        let at = header.segments_at.saturating_add(skipped);
        let segment: Segment = read(kernel, at)?;
        if segment.kind != PT_LOAD {
            continue;
        }
        if !segment.lies_in(file_len, low_end) {
            return Err(ElfError::Segment {
                index,
                offset: segment.offset,
                file_size: segment.file_size,
                address: segment.address,
                memory_size: segment.memory_size,
            });
        }
        segments.push(segment);
    }
    let ends = segments.iter().map(|s| s.address + s.memory_size);
    // Without one, what goes behind the kernel would overwrite boot data.
    let end = ends.max().ok_or(ElfError::Nothing)?;
    Ok(Checked {
        entry: header.entry,
        end,
        segments,
    })
}

impl Checked {
    /// Copies what the segments have in the file to where they belong in `memory`, which is as new: what
    /// a segment has beyond is zero already.
    pub fn load(&self, kernel: &mut Image, memory: &GuestMemoryMmap) -> Result<(), ElfError> {
        for (index, segment) in self.segments.iter().enumerate() {
            let (from, to) = (segment.offset, GuestAddress(segment.address));
            let len = segment.file_size as usize;
            let copied = if segment.flags & (PF_X | PF_W) == PF_X {
                padding::copy_text(kernel, from, memory, to, len)
            } else {
                kernel.copy_to(from, memory, to, len)
            };
            copied.map_err(|source| ElfError::Copy { index, source })?;
        }
        Ok(())
    }
}

impl Segment {
    /// Whether its bytes are in a file of `file_len`, and its memory is between boot data and `low_end`.
    fn lies_in(&self, file_len: u64, low_end: u64) -> bool {
        let ends_by =
            |start: u64, len, limit| start.checked_add(len).is_some_and(|end| end <= limit);
        ends_by(self.offset, self.file_size, file_len)
            && ends_by(self.address, self.memory_size, low_end)
            && self.address >= layout::EXTENDED_START
            && self.file_size <= self.memory_size
    }
}

fn read<T: FromBytes + IntoBytes + FromZeros>(kernel: &mut Image, at: u64) -> Result<T, ElfError> {
    let mut value = T::new_zeroed();
    kernel
        .read_exact_at(at, value.as_mut_bytes())
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
        header.ident[4..6].copy_from_slice(&[ELFCLASS64, ELFDATA2LSB]);
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
        check(&mut Image::map(&file).unwrap(), LOW_END).map(|checked| checked.end)
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
            |h, _| h.ident[4] = 1,
            |h, _| h.ident[5] = 2,
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
