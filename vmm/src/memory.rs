//! Guest memory and where things are in it.
//!
//! ```text
//!   0          0x9fc00   1 MiB           3 GiB            4 GiB
//!   ├─ boot data ─┤ hole ├─ kernel, initrd, RAM ─┤ devices ─┤ more RAM … ┤ ├─ memory to grow by …
//! ```
//!
//! Memory is private and anonymous, aligned to 2 MiB and advised for huge pages: a boot touches a
//! few thousand scattered pages, and each is a nested page fault where memory is backed in 4 KiB
//! pieces (as a memfd is on most hosts). It is backed lazily in any case.
#![allow(
    unsafe_code,
    reason = "maps guest memory with the alignment that huge pages need"
)]

use std::ptr::NonNull;
use std::sync::Arc;

use devices::Memory;
use devices::mem::MemRegion;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use thiserror::Error;
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap, GuestRegionMmap,
    MmapRegion,
};

use crate::builder::MemorySize;

/// End of low memory: above it are devices up to 4 GiB.
pub const LOW_MEMORY_END: u64 = 3 << 30;
/// Where memory goes on.
pub const HIGH_MEMORY_START: u64 = 4 << 30;
/// Register windows of the virtio devices.
pub const DEVICES_START: u64 = 0xd000_0000;

/// What a huge page of the host is, and what guest memory is aligned to.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// Largest memory block of Linux, what it takes into and out of use at once.
const LARGEST_BLOCK: u64 = 2 << 30;
/// And the smallest, which it has if memory ends below the next.
const SMALLEST_BLOCK: u64 = 128 << 20;
const END_WITH_SMALLEST: u64 = 64 << 30;

/// Why guest memory could not be made.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The kernel refused the mapping.
    #[error("cannot map {bytes} bytes of guest memory")]
    Map {
        /// Bytes asked for.
        bytes: usize,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

/// Guest memory with the mappings that back it.
#[derive(Debug)]
pub struct GuestMemory {
    memory: Option<Memory>,
    mappings: Vec<Mapping>,
    /// Where memory to grow by starts, if there is any: it is the guest's only piece by piece.
    growable: Option<u64>,
}

/// One mapping of this process.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is an address range of the process, not of a thread.
unsafe impl Send for Mapping {}

/// Guest physical ranges (start, length) for `size` bytes of memory.
#[must_use]
pub fn ranges(size: MemorySize) -> Vec<(u64, u64)> {
    let low = size.bytes().min(LOW_MEMORY_END);
    let high = size.bytes() - low;
    let mut ranges = vec![(0, low)];
    if high > 0 {
        ranges.push((HIGH_MEMORY_START, high));
    }
    ranges
}

/// Where a guest of `size` bytes can grow up to `max` bytes, if it can. The last piece may reach beyond that.
#[must_use]
pub fn growable(size: MemorySize, max: MemorySize) -> Option<MemRegion> {
    let end = ranges(size).last().map_or(0, |(start, len)| start + len);
    let piece = if end < END_WITH_SMALLEST {
        SMALLEST_BLOCK
    } else {
        LARGEST_BLOCK
    };
    let more = max.bytes().checked_sub(size.bytes())?;
    let start = end.max(HIGH_MEMORY_START).next_multiple_of(LARGEST_BLOCK);
    MemRegion::new(start, more.next_multiple_of(piece), piece).ok()
}

/// Has the huge page at `start` backed by small ones, as far as it is touched at all.
///
/// Advice: a kernel that does not take it backs the whole.
///
/// # Errors
/// When no huge page of `memory` starts at `start`.
pub(crate) fn back_by_small_pages(
    memory: &GuestMemoryMmap,
    start: GuestAddress,
) -> Result<(), GuestMemoryError> {
    let slice = memory.get_slice(start, HUGE_PAGE)?;
    let host = slice.ptr_guard_mut();
    if host.as_ptr().align_offset(HUGE_PAGE) != 0 {
        return Err(GuestMemoryError::InvalidGuestAddress(start));
    }
    // SAFETY: the range is a part of guest memory, and the advice changes nothing of its contents.
    let _ =
        unsafe { rustix::mm::madvise(host.as_ptr().cast(), HUGE_PAGE, Advice::LinuxNoHugepage) };
    Ok(())
}

impl GuestMemory {
    /// Reserves `size` bytes, and those of `growable`; nothing is backed before the guest touches it.
    ///
    /// # Errors
    /// [`MemoryError::Map`] when the process may not have that much address space.
    pub fn new(size: MemorySize, growable: Option<MemRegion>) -> Result<Self, MemoryError> {
        let mut mappings = Vec::new();
        let mut regions = Vec::new();
        let more = growable.map(|region| (region.start(), region.size()));
        for (start, len) in ranges(size).into_iter().chain(more) {
            let len = len as usize;
            let mapping = Mapping::anonymous(len)?;
            let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
            // SAFETY: the range is mapped as described and `GuestMemory` unmaps it only when it
            // holds the last handle on the region.
            let region = unsafe { MmapRegion::build_raw(mapping.start.as_ptr(), len, prot, flags) }
                .map_err(|error| MemoryError::Map {
                    bytes: len,
                    source: std::io::Error::other(error),
                })?;
            mappings.push(mapping);
            let region = GuestRegionMmap::new(region, GuestAddress(start)).ok_or_else(|| {
                let source = std::io::Error::other("the range wraps around");
                MemoryError::Map { bytes: len, source }
            })?;
            regions.push(region);
        }
        let memory = GuestMemoryMmap::from_regions(regions).map_err(|error| MemoryError::Map {
            bytes: 0,
            source: std::io::Error::other(error),
        })?;
        Ok(Self {
            memory: Some(Arc::new(memory)),
            mappings,
            growable: growable.map(MemRegion::start),
        })
    }

    /// The memory as devices see it.
    #[must_use]
    pub fn share(&self) -> Memory {
        // Present until `drop`.
        self.memory
            .as_ref()
            .map_or_else(|| Arc::new(GuestMemoryMmap::new()), Arc::clone)
    }

    /// (guest physical start, bytes, host address) of each region that the guest has from the start, for
    /// KVM.
    pub fn slots(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        let growable = self.growable;
        self.regions()
            .filter(move |(start, ..)| Some(*start) != growable)
    }

    /// Host address of the memory to grow by.
    #[must_use]
    pub fn growable(&self) -> Option<u64> {
        let growable = self.growable?;
        let mut regions = self.regions();
        regions.find_map(|(start, _, host)| (start == growable).then_some(host))
    }

    fn regions(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        use vm_memory::{Address, GuestMemoryRegion};
        self.memory.iter().flat_map(|memory| {
            memory.iter().map(|region| {
                let host = region.as_ptr() as u64;
                (region.start_addr().raw_value(), region.len(), host)
            })
        })
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // Unmapping under somebody who still holds a handle would be unsound; leaking is not.
        if self
            .memory
            .take()
            .is_some_and(|memory| Arc::try_unwrap(memory).is_err())
        {
            self.mappings.drain(..).for_each(std::mem::forget);
        }
    }
}

impl Mapping {
    /// `len` bytes of private memory, aligned to and advised for huge pages.
    fn anonymous(len: usize) -> Result<Self, MemoryError> {
        let failed = |source: rustix::io::Errno| MemoryError::Map {
            bytes: len,
            source: source.into(),
        };
        let reserved = len
            .checked_add(HUGE_PAGE)
            .ok_or_else(|| failed(rustix::io::Errno::NOMEM))?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice overlaps nothing.
        let base =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), reserved, prot, flags) }
                .map_err(failed)?
                .cast::<u8>();
        let before = base.align_offset(HUGE_PAGE);
        let start = base.wrapping_add(before);
        let after = reserved - before - len;
        if before > 0 {
            // SAFETY: the head of the mapping just made, used by nobody.
            let _ = unsafe { rustix::mm::munmap(base.cast(), before) };
        }
        if after > 0 {
            // SAFETY: the tail of the mapping just made, used by nobody.
            let _ = unsafe { rustix::mm::munmap(start.wrapping_add(len).cast(), after) };
        }
        // Advice only: a host without huge pages runs with more faults. Guest memory does not
        // belong into a core dump either.
        for advice in [Advice::LinuxHugepage, Advice::LinuxDontDump] {
            // SAFETY: the range is ours and neither advice changes its contents.
            let _ = unsafe { rustix::mm::madvise(start.cast(), len, advice) };
        }
        NonNull::new(start)
            .map(|start| Self { start, len })
            .ok_or_else(|| failed(rustix::io::Errno::NOMEM))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `anonymous`; `GuestMemory` made sure that no handle on it
        // is left.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_above_three_gib_goes_on_at_four() {
        let size = MemorySize::from_bytes(5 << 30).unwrap();
        assert_eq!(ranges(size), [(0, 3 << 30), (4 << 30, 2 << 30)]);
        let size = MemorySize::from_bytes(3 << 30).unwrap();
        assert_eq!(ranges(size), [(0, 3 << 30)]);
    }

    #[test]
    fn mappings_are_aligned_to_huge_pages() {
        let memory = GuestMemory::new(MemorySize::from_mib(65).unwrap(), None).unwrap();
        for (_, _, host) in memory.slots() {
            assert_eq!(host % HUGE_PAGE as u64, 0);
        }
    }

    #[test]
    fn a_guest_grows_above_all_that_it_has() {
        let gib = |gib: u64| MemorySize::from_bytes(gib << 30).unwrap();
        let mib = |mib| MemorySize::from_mib(mib).unwrap();
        const MIB: u64 = 1 << 20;
        for (size, max, expected) in [
            (gib(2), gib(2), None),
            (gib(2), gib(1), None),
            (
                mib(2048),
                mib(2048 + 1),
                Some((4 << 30, 128 * MIB, 128 * MIB)),
            ),
            (
                mib(2048),
                mib(2048 + 129),
                Some((4 << 30, 256 * MIB, 128 * MIB)),
            ),
            (gib(2), gib(8), Some((4 << 30, 6 << 30, 128 * MIB))),
            (gib(5), gib(6), Some((6 << 30, 1 << 30, 128 * MIB))),
            (gib(62), gib(70), Some((64 << 30, 8 << 30, 128 * MIB))),
            (gib(63), gib(70), Some((64 << 30, 8 << 30, 2048 * MIB))),
            (gib(63), gib(1024), Some((64 << 30, 962 << 30, 2048 * MIB))),
        ] {
            let region = growable(size, max);
            let region = region.map(|r| (r.start(), r.size(), r.piece()));
            assert_eq!(region, expected, "{size:?} {max:?}");
        }
    }

    #[test]
    fn memory_to_grow_by_is_mapped_and_not_the_guests_yet() {
        let (size, max) = (MemorySize::from_mib(64), MemorySize::from_mib(320));
        let (size, max) = (size.unwrap(), max.unwrap());
        let memory = GuestMemory::new(size, growable(size, max)).unwrap();
        assert_eq!(memory.slots().count(), 1);
        let host = memory.growable().unwrap();
        assert_eq!(host % HUGE_PAGE as u64, 0);
        assert!(memory.slots().all(|(.., first)| first != host));
    }
}
