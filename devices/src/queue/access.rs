//! Cursors over the bytes of a chain.
//!
//! Bytes are copied out before they are looked at: the driver can change its memory at any time.

use thiserror::Error;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Segment;

/// A chain has fewer bytes than the request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("descriptor chain has {available} bytes left where {needed} are needed")]
pub struct ShortChain {
    /// Bytes needed.
    pub needed: usize,
    /// Bytes left.
    pub available: usize,
}

/// Position in a list of segments.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    memory: &'a GuestMemoryMmap,
    segments: &'a [Segment],
    /// Bytes of the first segment that are consumed.
    offset: u32,
    left: usize,
}

impl<'a> Cursor<'a> {
    fn new(memory: &'a GuestMemoryMmap, segments: &'a [Segment]) -> Self {
        let left = segments.iter().map(|segment| segment.len as usize).sum();
        Self {
            memory,
            segments,
            offset: 0,
            left,
        }
    }

    /// Up to `max` contiguous bytes, consumed. `None` at the end. `max` is at most `left`.
    fn next_slice(&mut self, max: usize) -> Option<VolatileSlice<'a>> {
        if max == 0 {
            return None;
        }
        let (first, rest) = self.segments.split_first()?;
        let len = ((first.len - self.offset) as usize).min(max);
        let addr = vm_memory::GuestAddress(first.addr.0 + u64::from(self.offset));
        // The range was checked when the chain was popped; memory is never taken away from an
        // active device, so this finds it again. It may end early at a border between regions.
        let slice = self.memory.get_slices(addr, len).next()?.ok()?;
        let len = slice.len();
        self.left -= len;
        if self.offset as usize + len == first.len as usize {
            self.segments = rest;
            self.offset = 0;
        } else {
            self.offset += len as u32;
        }
        Some(slice)
    }

    fn check(&self, needed: usize) -> Result<(), ShortChain> {
        if needed > self.left {
            return Err(ShortChain {
                needed,
                available: self.left,
            });
        }
        Ok(())
    }

    fn skip(&mut self, len: usize) -> Result<(), ShortChain> {
        self.check(len)?;
        let mut left = len;
        while let Some((first, rest)) = self.segments.split_first() {
            let here = (first.len - self.offset) as usize;
            if left < here {
                self.offset += left as u32;
                break;
            }
            left -= here;
            self.segments = rest;
            self.offset = 0;
        }
        self.left -= len;
        Ok(())
    }

    fn slices(&mut self, len: usize, out: &mut Vec<VolatileSlice<'a>>) -> Result<(), ShortChain> {
        self.check(len)?;
        let mut left = len;
        while left > 0 {
            let Some(slice) = self.next_slice(left) else {
                return Err(ShortChain {
                    needed: left,
                    available: 0,
                });
            };
            left -= slice.len();
            out.push(slice);
        }
        Ok(())
    }
}

/// Reads the device-readable bytes of a chain in order.
#[derive(Clone)]
pub struct ChainReader<'a>(Cursor<'a>);

impl<'a> ChainReader<'a> {
    pub(super) fn new(memory: &'a GuestMemoryMmap, segments: &'a [Segment]) -> Self {
        Self(Cursor::new(memory, segments))
    }

    /// Bytes that are left.
    #[must_use]
    pub fn available(&self) -> usize {
        self.0.left
    }

    /// Copies exactly `out.len()` bytes out of guest memory.
    ///
    /// # Errors
    /// [`ShortChain`] when fewer are left; nothing is consumed then.
    pub fn read_exact(&mut self, out: &mut [u8]) -> Result<(), ShortChain> {
        self.0.check(out.len())?;
        let mut done = 0;
        while done < out.len() {
            let Some(slice) = self.0.next_slice(out.len() - done) else {
                break;
            };
            slice.copy_to(&mut out[done..]);
            done += slice.len();
        }
        Ok(())
    }

    /// Copies one wire structure out of guest memory.
    ///
    /// # Errors
    /// [`ShortChain`] when it does not fit in what is left.
    pub fn read_obj<T: FromBytes + IntoBytes>(&mut self) -> Result<T, ShortChain> {
        let mut value = T::new_zeroed();
        self.read_exact(value.as_mut_bytes())?;
        Ok(value)
    }

    /// Passes over the next `len` bytes.
    ///
    /// # Errors
    /// [`ShortChain`] when fewer are left; nothing is consumed then.
    pub fn skip(&mut self, len: usize) -> Result<(), ShortChain> {
        self.0.skip(len)
    }

    /// Takes up to `max` contiguous bytes as a slice of guest memory; `None` at the end.
    ///
    /// For callers that collect slices without an allocation.
    pub fn next_slice(&mut self, max: usize) -> Option<VolatileSlice<'a>> {
        self.0.next_slice(max.min(self.0.left))
    }

    /// Takes the next `len` bytes as slices of guest memory, for system calls that read from them.
    ///
    /// # Errors
    /// [`ShortChain`] when fewer are left.
    pub fn slices(
        &mut self,
        len: usize,
        out: &mut Vec<VolatileSlice<'a>>,
    ) -> Result<(), ShortChain> {
        self.0.slices(len, out)
    }
}

/// Writes the device-writable bytes of a chain in order.
#[derive(Clone)]
pub struct ChainWriter<'a> {
    cursor: Cursor<'a>,
    total: usize,
}

impl<'a> ChainWriter<'a> {
    pub(super) fn new(memory: &'a GuestMemoryMmap, segments: &'a [Segment]) -> Self {
        let cursor = Cursor::new(memory, segments);
        Self {
            total: cursor.left,
            cursor,
        }
    }

    /// Bytes that can still be written.
    #[must_use]
    pub fn available(&self) -> usize {
        self.cursor.left
    }

    /// Bytes written or skipped so far: what goes into the used ring.
    #[must_use]
    pub fn written(&self) -> usize {
        self.total - self.cursor.left
    }

    /// Copies `data` into guest memory.
    ///
    /// # Errors
    /// [`ShortChain`] when it does not fit; nothing is written then.
    pub fn write_all(&mut self, data: &[u8]) -> Result<(), ShortChain> {
        self.cursor.check(data.len())?;
        let mut done = 0;
        while done < data.len() {
            let Some(slice) = self.cursor.next_slice(data.len() - done) else {
                break;
            };
            slice.copy_from(&data[done..]);
            done += slice.len();
        }
        Ok(())
    }

    /// Copies one wire structure into guest memory.
    ///
    /// # Errors
    /// [`ShortChain`] when it does not fit.
    pub fn write_obj<T: IntoBytes + Immutable>(&mut self, value: &T) -> Result<(), ShortChain> {
        self.write_all(value.as_bytes())
    }

    /// Splits off the next `len` bytes as a writer of their own; `self` goes on behind them.
    ///
    /// A reply's header is written last, when its length is known, yet stands first.
    ///
    /// # Errors
    /// [`ShortChain`] when fewer are left.
    pub fn split(&mut self, len: usize) -> Result<ChainWriter<'a>, ShortChain> {
        self.cursor.check(len)?;
        let mut first = self.cursor;
        first.left = len;
        self.cursor.skip(len)?;
        self.total -= len;
        Ok(ChainWriter {
            cursor: first,
            total: len,
        })
    }

    /// Takes up to `max` contiguous bytes as a slice of guest memory; `None` at the end.
    ///
    /// For callers that collect slices without an allocation.
    pub fn next_slice(&mut self, max: usize) -> Option<VolatileSlice<'a>> {
        self.cursor.next_slice(max.min(self.cursor.left))
    }

    /// Takes the next `len` bytes as slices of guest memory, for system calls that write to them.
    ///
    /// # Errors
    /// [`ShortChain`] when fewer are left.
    pub fn slices(
        &mut self,
        len: usize,
        out: &mut Vec<VolatileSlice<'a>>,
    ) -> Result<(), ShortChain> {
        self.cursor.slices(len, out)
    }
}
