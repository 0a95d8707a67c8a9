//! Kernel and initramfs into guest memory.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::panic::resume_unwind;

use linux_loader::bootparam::setup_header;
use linux_loader::loader::{self, KernelLoader, bzimage::BzImage};
use thiserror::Error;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::elf::ElfError;
use super::image::Image;
use super::layout;

const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
/// Offset of the 64-bit entry point in a bzImage's protected-mode part (Linux boot protocol).
const BZIMAGE_ENTRY_64: u64 = 0x200;
/// `XLF_KERNEL_64`: the image has that entry point.
const XLF_KERNEL_64: u16 = 1;
const PAGE: u64 = 4096;
const LOADER_STACK: usize = 128 * 1024;

/// Why a kernel or an initramfs could not be loaded.
#[derive(Debug, Error)]
pub enum KernelError {
    /// There is no thread for it.
    #[error("no thread to load the kernel with")]
    Thread(#[source] std::io::Error),
    /// Reading the file failed.
    #[error("the kernel cannot be read")]
    Read(#[source] std::io::Error),
    /// Neither format.
    #[error("the kernel is neither an ELF vmlinux nor a bzImage (it starts with {0:02x?})")]
    Format([u8; 4]),
    /// An ELF file whose headers cannot be those of a kernel for this machine.
    #[error("the kernel is damaged, truncated, or does not fit in {memory} MiB of memory")]
    Elf {
        /// Size of low guest memory in MiB.
        memory: u64,
        /// What is wrong.
        #[source]
        source: ElfError,
    },
    /// Linux-loader refused it.
    #[error("the kernel is damaged, truncated, or does not fit in {memory} MiB of memory")]
    Load {
        /// Size of low guest memory in MiB.
        memory: u64,
        /// What the loader objected to.
        #[source]
        source: loader::Error,
    },
    /// A bzImage that cannot be entered in 64-bit mode.
    #[error("the kernel is a bzImage that has no 64-bit entry point")]
    No64BitEntry,
    /// The entry point is not in the loaded kernel.
    #[error("the kernel's entry point {entry:#x} lies outside guest memory")]
    Entry {
        /// Where it would start.
        entry: u64,
    },
    /// Reading the initramfs failed.
    #[error("the initramfs cannot be read")]
    ReadInitrd(#[source] std::io::Error),
    /// The initramfs has no bytes.
    #[error("the initramfs is empty")]
    EmptyInitrd,
    /// The initramfs does not fit.
    #[error("the initramfs' {bytes} bytes do not fit behind the kernel, which ends at {end:#x}")]
    InitrdFit {
        /// Size of the file.
        bytes: u64,
        /// End of the kernel.
        end: u64,
    },
    /// Copying the initramfs failed.
    #[error("the initramfs cannot be copied into guest memory")]
    CopyInitrd(#[source] vm_memory::GuestMemoryError),
}

impl KernelError {
    /// Whether the initramfs is at fault, and not the kernel.
    #[must_use]
    pub fn is_initrd(&self) -> bool {
        matches!(
            self,
            Self::ReadInitrd(_) | Self::EmptyInitrd | Self::InitrdFit { .. } | Self::CopyInitrd(_)
        )
    }
}

/// Where things were put.
#[derive(Debug)]
pub struct Loaded {
    /// First instruction.
    pub entry: GuestAddress,
    /// Address and length of the initramfs.
    pub initrd: Option<(u32, u32)>,
    /// A bzImage's own header.
    pub setup_header: Option<setup_header>,
}

/// Loads as [`load`] does on a thread of its own, and does `work` meanwhile.
///
/// # Errors
/// Those of `work`, and [`KernelError`].
pub fn load_while<T, E: From<KernelError>>(
    memory: &GuestMemoryMmap,
    kernel: &File,
    initrd: Option<&File>,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<(T, Loaded), E> {
    std::thread::scope(|scope| {
        let loading = std::thread::Builder::new()
            .name("loader".into())
            .stack_size(LOADER_STACK)
            .spawn_scoped(scope, move || load(memory, kernel, initrd))
            .map_err(KernelError::Thread)?;
        let done = work();
        let loaded = loading.join().unwrap_or_else(|panic| resume_unwind(panic));
        Ok((done?, loaded?))
    })
}

/// Loads `kernel`, and `initrd` right behind it, so that both share huge pages.
///
/// # Errors
/// [`KernelError`] names the file and what is wrong with it.
pub fn load(
    memory: &GuestMemoryMmap,
    kernel: &File,
    initrd: Option<&File>,
) -> Result<Loaded, KernelError> {
    let kernel = &mut Image::map(kernel).map_err(KernelError::Read)?;
    let low_end = memory
        .find_region(GuestAddress(0))
        .map_or(0, |region| region.last_addr().raw_value() + 1);
    let mut magic = [0; 4];
    let got = kernel.read(&mut magic).map_err(KernelError::Read)?;
    let failed = |source| KernelError::Load {
        memory: low_end >> 20,
        source,
    };
    let elf_failed = |source| KernelError::Elf {
        memory: low_end >> 20,
        source,
    };
    let (entry, end, setup_header) = if got == 4 && magic == ELF_MAGIC {
        let elf = super::elf::check(kernel, low_end).map_err(elf_failed)?;
        elf.load(kernel, memory).map_err(elf_failed)?;
        (GuestAddress(elf.entry), elf.end, None)
    } else if is_bzimage(kernel).map_err(KernelError::Read)? {
        let start = Some(GuestAddress(layout::EXTENDED_START));
        let result = BzImage::load(memory, None, kernel, start).map_err(failed)?;
        let header = result.setup_header.unwrap_or_default();
        if header.xloadflags & XLF_KERNEL_64 == 0 {
            return Err(KernelError::No64BitEntry);
        }
        let at = result.kernel_load.raw_value();
        // It unpacks itself in place, and says how far.
        let unpacked = header.pref_address.max(at);
        let unpacked = unpacked.saturating_add(header.init_size.into());
        let end = result.kernel_end.max(unpacked);
        (
            GuestAddress(at + BZIMAGE_ENTRY_64),
            end,
            result.setup_header,
        )
    } else {
        return Err(KernelError::Format(magic));
    };
    if !(layout::EXTENDED_START..low_end).contains(&entry.raw_value()) {
        return Err(KernelError::Entry {
            entry: entry.raw_value(),
        });
    }
    let initrd = initrd
        .map(|file| load_initrd(memory, file, end, low_end))
        .transpose()?;
    Ok(Loaded {
        entry,
        initrd,
        setup_header,
    })
}

/// Whether the boot sector's magic numbers are there (Linux boot protocol, offsets 0x1fe, 0x202).
fn is_bzimage(kernel: &mut Image) -> std::io::Result<bool> {
    kernel.seek(SeekFrom::Start(0x1fe))?;
    let mut bytes = [0; 8];
    let mut got = 0;
    while got < bytes.len() {
        match kernel.read(&mut bytes[got..])? {
            0 => return Ok(false),
            n => got += n,
        }
    }
    Ok(bytes[..2] == [0x55, 0xaa] && bytes[4..8] == *b"HdrS")
}

fn load_initrd(
    memory: &GuestMemoryMmap,
    file: &File,
    kernel_end: u64,
    low_end: u64,
) -> Result<(u32, u32), KernelError> {
    let mut image = Image::map(file).map_err(KernelError::ReadInitrd)?;
    let bytes = image.len();
    if bytes == 0 {
        return Err(KernelError::EmptyInitrd);
    }
    let misfit = KernelError::InitrdFit {
        bytes,
        end: kernel_end,
    };
    let Some(start) = kernel_end.checked_next_multiple_of(PAGE) else {
        return Err(misfit);
    };
    if start.checked_add(bytes).is_none_or(|end| end > low_end) {
        return Err(misfit);
    }
    let (Ok(at), Ok(len)) = (u32::try_from(start), u32::try_from(bytes)) else {
        return Err(misfit);
    };
    image
        .copy_to(0, memory, GuestAddress(start), len as usize)
        .map_err(KernelError::CopyInitrd)?;
    Ok((at, len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LOW_END: u64 = 64 << 20;

    fn file(bytes: &[u8]) -> File {
        let fd = rustix::fs::memfd_create("kernel", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(fd);
        file.write_all(bytes).unwrap();
        file
    }

    fn load_with_initrd(kernel: &[u8]) -> Result<Loaded, KernelError> {
        let ranges = [(GuestAddress(0), LOW_END as usize)];
        let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
        load(&memory, &file(kernel), Some(&file(&[0x55; 100])))
    }

    /// A bzImage of no instructions that says where it unpacks itself to.
    fn bzimage(pref_address: u64, init_size: u32) -> Vec<u8> {
        let mut kernel = vec![0; 0x1000];
        let mut put = |at: usize, bytes: &[u8]| kernel[at..][..bytes.len()].copy_from_slice(bytes);
        put(0x1f1, &[1]);
        put(0x1fe, &[0x55, 0xaa]);
        put(0x202, b"HdrS\x0f\x02");
        put(0x211, &[1]);
        put(0x214, &0x10_0000u32.to_le_bytes());
        put(0x236, &XLF_KERNEL_64.to_le_bytes());
        put(0x258, &pref_address.to_le_bytes());
        put(0x260, &init_size.to_le_bytes());
        kernel
    }

    #[test]
    fn an_initramfs_lies_behind_what_the_kernel_unpacks() {
        let loaded = load_with_initrd(&bzimage(16 << 20, 5000)).unwrap();
        assert_eq!(loaded.initrd, Some(((16 << 20) + 8192, 100)));
    }

    #[test]
    fn case_22_a_kernel_that_unpacks_itself_beyond_memory_is_refused() {
        for (to, len) in [
            (u64::MAX, 1),
            (u64::MAX - 4095, u32::MAX),
            (LOW_END, 0),
            (0, u32::MAX),
        ] {
            let error = load_with_initrd(&bzimage(to, len)).unwrap_err();
            assert!(matches!(error, KernelError::InitrdFit { .. }), "{error:?}");
        }
    }

    #[test]
    fn an_initramfs_lies_behind_memory_that_a_kernel_has_no_bytes_for() {
        let mut kernel = vec![0; 64 + 2 * 56 + 16];
        let mut put = |at: usize, bytes: &[u8]| kernel[at..][..bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7fELF\x02\x01\x01");
        put(18, &[62]);
        put(24, &0x10_0000u64.to_le_bytes());
        put(32, &[64]);
        put(54, &[56, 0, 2]);
        for (at, address, bytes, memory) in
            [(64, 1u64 << 20, 16u64, 16u64), (120, 2 << 20, 0, 1 << 20)]
        {
            put(at, &1u32.to_le_bytes());
            put(at + 8, &176u64.to_le_bytes());
            put(at + 24, &address.to_le_bytes());
            put(at + 32, &bytes.to_le_bytes());
            put(at + 40, &memory.to_le_bytes());
        }
        let loaded = load_with_initrd(&kernel).unwrap();
        assert_eq!(loaded.initrd, Some((3 << 20, 100)));
    }
}
