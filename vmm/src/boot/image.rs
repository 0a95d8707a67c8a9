//! A kernel or initramfs file, mapped instead of read.
//!
//! Reading costs a walk over the page cache and a copy by the kernel, page by page; copying out of a
//! mapping costs the copy alone (docs/performance.md has the figures). The mapping is gone before
//! the guest runs. A file that somebody truncates in between ends the process with SIGBUS, as it
//! would end any program that executes it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use vm_memory::bitmap::BitmapSlice;
use vm_memory::volatile_memory::Error as VolatileMemoryError;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryError, GuestMemoryMmap, MmapRegion, ReadVolatile,
    VolatileMemory, VolatileSlice,
};

/// Copies are made in pieces for which the C library uses vector registers; beyond, it starts a
/// string instruction, which is no faster and counts one instruction for each byte.
pub const PIECE: usize = 2048;

/// A mapped file with a position.
pub struct Image {
    mapping: Option<MmapRegion>,
    position: u64,
}

impl Image {
    /// Maps `file` as it is now. An empty file is an image without bytes.
    ///
    /// # Errors
    /// When the file cannot be measured or mapped, as a pipe cannot.
    pub fn map(file: &File) -> io::Result<Self> {
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let mapping = if len == 0 {
            None
        } else {
            let from = FileOffset::new(file.try_clone()?, 0);
            let (prot, flags) = (libc::PROT_READ, libc::MAP_PRIVATE);
            Some(MmapRegion::build(Some(from), len, prot, flags).map_err(io::Error::other)?)
        };
        Ok(Self {
            mapping,
            position: 0,
        })
    }

    /// Bytes in the file.
    pub fn len(&self) -> u64 {
        self.mapping
            .as_ref()
            .map_or(0, |mapping| mapping.size() as u64)
    }

    /// Copies `len` bytes at `offset` to guest memory.
    ///
    /// # Errors
    /// When the file has fewer, or they do not fit there.
    pub fn copy_to(
        &mut self,
        offset: u64,
        memory: &GuestMemoryMmap,
        to: GuestAddress,
        len: usize,
    ) -> Result<(), GuestMemoryError> {
        self.position = offset;
        memory.read_exact_volatile_from(to, self, len)
    }

    /// Reads the bytes at `offset`.
    ///
    /// # Errors
    /// When the file has fewer.
    pub fn read_exact_at(&mut self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.position = offset;
        self.read_exact(out)
    }

    /// Up to `max` bytes from the position on, consumed.
    fn take(&mut self, max: usize) -> Option<VolatileSlice<'_>> {
        let len = self.len().saturating_sub(self.position).min(max as u64) as usize;
        let at = self.position as usize;
        self.position += len as u64;
        self.mapping.as_ref()?.get_slice(at, len).ok()
    }
}

impl Read for Image {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Some(slice) = self.take(out.len()) else {
            return Ok(0);
        };
        Ok(slice.copy_to(out))
    }
}

impl Seek for Image {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.len().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "seek before the start");
        self.position = position.ok_or_else(invalid)?;
        Ok(self.position)
    }
}

impl ReadVolatile for Image {
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        out: &mut VolatileSlice<'_, B>,
    ) -> Result<usize, VolatileMemoryError> {
        let Some(slice) = self.take(out.len()) else {
            return Ok(0);
        };
        let mut done = 0;
        while done < slice.len() {
            let piece = PIECE.min(slice.len() - done);
            slice
                .subslice(done, piece)?
                .copy_to_volatile_slice(out.subslice(done, piece)?);
            done += piece;
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn image(bytes: &[u8]) -> Image {
        let fd = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(fd);
        file.write_all(bytes).unwrap();
        Image::map(&file).unwrap()
    }

    #[test]
    fn reads_what_the_file_holds_and_ends_where_it_ends() {
        let bytes: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        let mut image = image(&bytes);
        let mut out = Vec::new();
        image.read_to_end(&mut out).unwrap();
        assert_eq!(out, bytes);
        image.seek(SeekFrom::End(-5)).unwrap();
        let mut memory = vec![0; 9];
        let mut slice = VolatileSlice::from(memory.as_mut_slice());
        assert_eq!(image.read_volatile(&mut slice).unwrap(), 5);
        assert_eq!(memory[..5], bytes[9_995..]);
    }

    #[test]
    fn no_position_reaches_outside() {
        let mut image = image(b"abc");
        image.seek(SeekFrom::Start(u64::MAX)).unwrap();
        assert_eq!(image.read(&mut [0; 4]).unwrap(), 0);
        assert!(image.seek(SeekFrom::Current(i64::MIN)).is_ok());
        image.rewind().unwrap();
        assert!(image.seek(SeekFrom::Current(-1)).is_err());
    }

    #[test]
    fn an_empty_file_has_no_bytes() {
        let mut image = image(b"");
        assert_eq!((image.len(), image.read(&mut [0; 4]).unwrap()), (0, 0));
    }
}
