//! The zero page and the command line.

use linux_loader::bootparam::{boot_e820_entry, boot_params};
use thiserror::Error;
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap};

use super::{Loaded, layout};
use crate::builder::MemorySize;
use crate::memory::ranges;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
/// Any boot loader that has no number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
const KERNEL_ALIGNMENT: u32 = 0x100_0000;

/// `boot_params` lacks the trait that says it is plain data.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct ZeroPage(boot_params);

#[allow(
    unsafe_code,
    reason = "the zero page is plain data, but its crate does not say so to ours"
)]
// SAFETY: `boot_params` is a packed C structure of integers and arrays of them.
unsafe impl ByteValued for ZeroPage {}

/// Why the boot parameters could not be written.
#[derive(Debug, Error)]
pub enum ParamsError {
    /// The command line does not fit.
    #[error("kernel command line of {0} bytes is longer than {max}", max = layout::CMDLINE_MAX - 1)]
    CommandLine(usize),
    /// Guest memory does not reach far enough.
    #[error("boot parameters do not fit in guest memory")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// Writes zero page and command line for a kernel that was `loaded`.
///
/// # Errors
/// [`ParamsError`] when the command line is too long.
pub fn write(
    memory: &GuestMemoryMmap,
    size: MemorySize,
    loaded: &Loaded,
    cmdline: &str,
) -> Result<(), ParamsError> {
    if cmdline.len() >= layout::CMDLINE_MAX {
        return Err(ParamsError::CommandLine(cmdline.len()));
    }
    memory.write_slice(cmdline.as_bytes(), GuestAddress(layout::CMDLINE))?;
    memory.write_slice(&[0], GuestAddress(layout::CMDLINE + cmdline.len() as u64))?;

    let mut params = boot_params {
        hdr: loaded.setup_header.unwrap_or_default(),
        ..Default::default()
    };
    let header = &mut params.hdr;
    header.boot_flag = BOOT_FLAG;
    header.header = HEADER_MAGIC;
    header.type_of_loader = LOADER_UNDEFINED;
    if header.kernel_alignment == 0 {
        header.kernel_alignment = KERNEL_ALIGNMENT;
    }
    header.cmd_line_ptr = layout::CMDLINE as u32;
    header.cmdline_size = cmdline.len() as u32;
    if let Some((at, len)) = loaded.initrd {
        header.ramdisk_image = at;
        header.ramdisk_size = len;
    }
    let map = memory_map(size);
    params.e820_entries = map.len() as u8;
    params.e820_table[..map.len()].copy_from_slice(&map);
    memory.write_obj(ZeroPage(params), GuestAddress(layout::ZERO_PAGE))?;
    Ok(())
}

fn memory_map(size: MemorySize) -> Vec<boot_e820_entry> {
    let entry = |addr, end: u64, kind| boot_e820_entry {
        addr,
        size: end - addr,
        r#type: kind,
    };
    let mut map = vec![
        entry(0, layout::BASE_END, E820_RAM),
        entry(layout::BASE_END, layout::EXTENDED_START, E820_RESERVED),
    ];
    for (start, len) in ranges(size) {
        map.push(entry(
            start.max(layout::EXTENDED_START),
            start + len,
            E820_RAM,
        ));
    }
    map
}
