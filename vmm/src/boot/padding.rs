//! The huge pages of a kernel's text that hold hardly more than padding.
//!
//! Linux gives the text that is mapped in user space too, and the thunks against SRSO, a huge page of
//! their own, for that is what page tables and branch predictors want (arch/x86/kernel/vmlinux.lds.S).
//! All but three of its small pages are int3. Backed by small pages it costs the host those three, and
//! nobody zeroes 2 MiB for them.

use std::io;

use vm_memory::{Address, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::image::{Image, PIECE};
use crate::memory::{HUGE_PAGE, back_by_small_pages};

const PAGE: usize = 4096;
/// The linker's filling between functions: the instruction int3. As much as is compared at once.
const PADDING: [u8; PIECE] = [0xcc; PIECE];
/// Where more pages than these are to be kept, a huge page serves the guest better.
const FEW: usize = 16;

/// Copies `len` bytes of text at `from` of `kernel` to `to`.
///
/// Where a huge page of it is mostly padding, pages of padding are left out: there the guest finds zeros,
/// which no kernel executes either.
///
/// # Errors
/// When the file or `memory` ends before.
pub fn copy_text(
    kernel: &mut Image,
    from: u64,
    memory: &GuestMemoryMmap,
    to: GuestAddress,
    len: usize,
) -> Result<(), GuestMemoryError> {
    let mut done = 0;
    while done < len {
        let (from, to) = (from + done as u64, to.unchecked_add(done as u64));
        let into_block = to.raw_value() as usize % HUGE_PAGE;
        let piece = (HUGE_PAGE - into_block).min(len - done);
        done += piece;
        match (piece == HUGE_PAGE)
            .then(|| few_pages(kernel, from))
            .flatten()
        {
            None => kernel.copy_to(from, memory, to, piece)?,
            Some(pages) => {
                back_by_small_pages(memory, to)?;
                for page in pages {
                    let at = (page * PAGE) as u64;
                    kernel.copy_to(from + at, memory, to.unchecked_add(at), PAGE)?;
                }
            }
        }
    }
    Ok(())
}

/// Which pages of the [`HUGE_PAGE`] at `from` are no padding, if they are few.
fn few_pages(kernel: &mut Image, from: u64) -> Option<Vec<usize>> {
    let mut pages = Vec::with_capacity(FEW);
    for page in 0..HUGE_PAGE / PAGE {
        if is_padding(kernel, from + (page * PAGE) as u64).ok()? {
            continue;
        }
        if pages.len() == FEW {
            return None;
        }
        pages.push(page);
    }
    Some(pages)
}

fn is_padding(kernel: &mut Image, page: u64) -> io::Result<bool> {
    let mut bytes = [0; PIECE];
    for at in (0..PAGE).step_by(PIECE) {
        kernel.read_exact_at(page + at as u64, &mut bytes)?;
        if bytes != PADDING {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use vm_memory::Bytes;

    use super::*;
    use crate::builder::MemorySize;
    use crate::memory::GuestMemory;

    /// Where the text starts: in the middle of a huge page.
    const START: usize = 16 * HUGE_PAGE + HUGE_PAGE / 2;
    /// Half a huge page, two whole ones, and a part.
    const LEN: usize = 2 * HUGE_PAGE + HUGE_PAGE / 2 + 3 * PAGE + 5;

    /// What is copied of text that is padding but for the given pages, and how many KiB that costs.
    fn copied(pages: impl Iterator<Item = usize>) -> (Vec<u8>, Vec<u8>, usize) {
        let mut text = vec![0xcc; LEN];
        for page in pages {
            // In one half of it or the other.
            text[page * PAGE + 1 + page % 2 * PIECE] = 0x90;
        }
        let fd = rustix::fs::memfd_create("text", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(fd);
        // The text is not at the file's start.
        file.write_all(&[7; 100]).unwrap();
        file.write_all(&text).unwrap();
        let guest = GuestMemory::new(MemorySize::from_mib(64).unwrap(), None).unwrap();
        let (memory, to) = (guest.share(), GuestAddress(START as u64));
        copy_text(&mut Image::map(&file).unwrap(), 100, &memory, to, LEN).unwrap();
        let (_, bytes, host) = guest.slots().next().unwrap();
        let resident = resident_kib(host, bytes);
        let mut got = vec![0; LEN];
        memory.read_slice(&mut got, to).unwrap();
        (text, got, resident)
    }

    /// Memory behind the addresses from `start` on, by /proc/self/smaps.
    fn resident_kib(start: u64, len: u64) -> usize {
        let (mut inside, mut sum) = (false, 0);
        for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
            let range = line
                .split(' ')
                .next()
                .and_then(|range| range.split_once('-'));
            if let Some((from, _)) = range {
                let from = u64::from_str_radix(from, 16).unwrap();
                inside = (start..start + len).contains(&from);
            } else if let Some(rest) = line.strip_prefix("Rss:").filter(|_| inside) {
                sum += rest
                    .trim()
                    .trim_end_matches(" kB")
                    .parse::<usize>()
                    .unwrap();
            }
        }
        sum
    }

    #[test]
    fn a_huge_page_of_padding_costs_the_pages_that_are_none() {
        // In the first whole one FEW pages are text, in the second one none.
        let first = HUGE_PAGE / 2 / PAGE;
        let (text, got, kib) = copied((first..first + FEW).chain(0..3));
        let whole = HUGE_PAGE / 2..HUGE_PAGE / 2 + 2 * HUGE_PAGE;
        for (at, (text, got)) in text.iter().zip(&got).enumerate() {
            let page = at / PAGE;
            let is_left_out = whole.contains(&at) && !(first..first + FEW).contains(&page);
            assert_eq!(*got, if is_left_out { 0 } else { *text }, "byte {at:#x}");
        }
        // The parts before and behind may have become huge pages each.
        assert!((2 * HUGE_PAGE / 1024 + FEW * 4) >= kib, "{kib} KiB");
    }

    #[test]
    fn where_more_is_text_all_of_it_is_copied() {
        let first = HUGE_PAGE / 2 / PAGE;
        let spread = (0..=FEW).map(|page| first + page * 31);
        let (text, got, _) = copied(spread.chain((0..=FEW).map(|page| first + 512 + page)));
        assert!(text == got);
    }
}
