//! Gives pages of guest memory back to the host.
#![allow(
    unsafe_code,
    reason = "takes the contents of guest memory away, which no safe interface can say"
)]

use std::io;

use rustix::mm::{Advice, madvise};
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

use crate::Memory;

/// The host's pages.
const PAGE: usize = 4096;

/// Gives ranges of guest memory back, and says it once if the host refuses: a guest can ask for it as often
/// as it likes.
#[derive(Debug, Default)]
pub(crate) struct Discarder {
    refused: bool,
}

impl Discarder {
    /// Gives the whole pages of a range back. At a border between regions it comes in pieces; what is no
    /// guest memory is left out.
    pub fn discard(&mut self, memory: &Memory, start: GuestAddress, len: usize) {
        for piece in memory.get_slices(start, len).flatten() {
            if let Err(error) = discard(&piece)
                && !std::mem::replace(&mut self.refused, true)
            {
                log::warn!("memory that the guest does without stays with the pod: {error}");
            }
        }
    }
}

/// Gives the whole pages in `slice` back. They read as zeros from now on, to the guest and to this
/// process, until somebody writes to them.
///
/// Guest memory is private and anonymous, so this frees them at once: also where the guest has them
/// mapped, because KVM is told.
fn discard(slice: &VolatileSlice<'_>) -> io::Result<()> {
    let guard = slice.ptr_guard_mut();
    let start = guard.as_ptr();
    // `madvise` would round the end up, to a page that nobody has spoken of.
    let before = start.align_offset(PAGE);
    let Some(whole) = slice.len().checked_sub(before) else {
        return Ok(());
    };
    let len = whole - whole % PAGE;
    if len == 0 {
        return Ok(());
    }
    // SAFETY: the range lies within the slice, which is guest memory and stays mapped while it is
    // borrowed. Its contents change, as they may at any time: the guest can write to them, nobody
    // holds references to them, and all accesses are volatile or the system's.
    unsafe {
        madvise(
            start.wrapping_add(before).cast(),
            len,
            Advice::LinuxDontNeed,
        )
    }?;
    Ok(())
}
