//! One request as bytes: what of it may be believed.
//!
//! Everything is copied out of guest memory once and checked as the copy. Data of WRITE is not
//! copied at all and not looked at.

use std::ffi::CStr;
use std::mem::MaybeUninit;

use rustix::io::Errno;
use vm_memory::VolatileSlice;
use zerocopy::{FromBytes, IntoBytes};

use crate::fs::spec::{InHeader, NAME_MAX, PATH_MAX};
use crate::queue::{ChainReader, ChainWriter};
use crate::transfer::{IoVecs, recycle};

/// Room for two names, or a name and a link target.
pub(super) const NAMES_BYTES: usize = NAME_MAX + 1 + PATH_MAX;
/// Room for what the host says about a directory in one go.
const DIRENTS_BYTES: usize = 32 * 1024;

/// A request whose header was checked.
pub(super) struct Request<'a> {
    pub header: InHeader,
    reader: ChainReader<'a>,
    left: usize,
}

impl<'a> Request<'a> {
    /// Takes the header off `reader`.
    ///
    /// Returns what is known of the header with the error: a reply needs its `unique`.
    pub fn new(mut reader: ChainReader<'a>) -> Result<Self, InHeader> {
        let header: InHeader = reader.read_obj().map_err(|_| InHeader::default())?;
        let left = (header.len as usize)
            .checked_sub(size_of::<InHeader>())
            .filter(|left| *left <= reader.available())
            .ok_or(header)?;
        Ok(Self {
            header,
            reader,
            left,
        })
    }

    /// The next structure of the request.
    pub fn arg<T: FromBytes + IntoBytes>(&mut self) -> Result<T, Errno> {
        self.take(size_of::<T>())?;
        self.reader.read_obj().map_err(|_| Errno::INVAL)
    }

    /// All that is left, which must fit in `buffer`.
    pub fn rest<'b>(&mut self, buffer: &'b mut [u8]) -> Result<&'b [u8], Errno> {
        let len = self.left;
        let room = buffer.get_mut(..len).ok_or(Errno::NAMETOOLONG)?;
        self.take(len)?;
        self.reader.read_exact(room).map_err(|_| Errno::INVAL)?;
        Ok(room)
    }

    /// The next `len` bytes as guest memory.
    pub fn data(&mut self, len: usize, out: &mut Vec<VolatileSlice<'a>>) -> Result<(), Errno> {
        self.take(len)?;
        self.reader.slices(len, out).map_err(|_| Errno::INVAL)
    }

    fn take(&mut self, len: usize) -> Result<(), Errno> {
        self.left = self.left.checked_sub(len).ok_or(Errno::INVAL)?;
        Ok(())
    }
}

/// Splits the NUL-terminated string off the front of `bytes`.
pub(super) fn split_cstr(bytes: &[u8]) -> Result<(&CStr, &[u8]), Errno> {
    let text = CStr::from_bytes_until_nul(bytes).map_err(|_| Errno::INVAL)?;
    let rest = bytes.get(text.count_bytes() + 1..).unwrap_or_default();
    Ok((text, rest))
}

/// Splits one name of a directory entry off the front of `bytes`: a single component that leads
/// neither elsewhere nor upwards. Nothing else ever reaches a system call as a name.
pub(super) fn split_name(bytes: &[u8]) -> Result<(&CStr, &[u8]), Errno> {
    let (name, rest) = split_cstr(bytes)?;
    match name.to_bytes() {
        b"" | b"." | b".." => Err(Errno::INVAL),
        text if text.len() > NAME_MAX => Err(Errno::NAMETOOLONG),
        text if text.contains(&b'/') => Err(Errno::INVAL),
        _ => Ok((name, rest)),
    }
}

/// What a worker keeps from request to request, so that none needs an allocation.
pub struct Scratch {
    /// What the host says about a directory. Never copied as a whole: only entries in it are.
    pub(super) dirents: Box<[MaybeUninit<u8>]>,
    /// A reply that is composed before it is written.
    pub(super) out: Vec<u8>,
    /// A name or value on its way to the host.
    pub(super) value: Vec<u8>,
    slices: Vec<VolatileSlice<'static>>,
    pub(super) vecs: IoVecs,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            dirents: Box::new_uninit_slice(DIRENTS_BYTES),
            out: Vec::new(),
            value: Vec::new(),
            slices: Vec::new(),
            vecs: IoVecs::default(),
        }
    }
}

impl Scratch {
    /// An empty list for slices of this request's memory; give it back with [`put_slices`](Self::put_slices).
    pub(super) fn take_slices<'a>(&mut self) -> Vec<VolatileSlice<'a>> {
        recycle(std::mem::take(&mut self.slices))
    }

    pub(super) fn put_slices(&mut self, slices: Vec<VolatileSlice<'_>>) {
        self.slices = recycle(slices);
    }
}

/// Writes a reply's body.
pub(super) fn put<T: IntoBytes + zerocopy::Immutable>(
    out: &mut ChainWriter<'_>,
    value: &T,
) -> Result<(), Errno> {
    out.write_obj(value).map_err(|_| Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_slices_keeps_its_allocation() {
        let mut scratch = Scratch::default();
        let mut slices = scratch.take_slices();
        slices.reserve(100);
        let (at, room) = (slices.as_ptr() as usize, slices.capacity());
        scratch.put_slices(slices);
        let again = scratch.take_slices();
        assert_eq!((again.as_ptr() as usize, again.capacity()), (at, room));
    }

    #[test]
    fn case_11_a_name_is_one_component() {
        for bad in ["", ".", "..", "/", "a/b", "/a", "a/", "../a"] {
            let bytes = [bad.as_bytes(), b"\0"].concat();
            assert_eq!(split_name(&bytes).err(), Some(Errno::INVAL), "{bad:?}");
        }
        assert_eq!(split_name(b"no end").err(), Some(Errno::INVAL));
        assert_eq!(split_name(b"").err(), Some(Errno::INVAL));
        let long = [&[b'x'; NAME_MAX + 1][..], b"\0"].concat();
        assert_eq!(split_name(&long).err(), Some(Errno::NAMETOOLONG));
        assert!(split_name(&long[1..]).is_ok());
        let (name, rest) = split_name(b"...\0rest").expect("a name");
        assert_eq!((name, rest), (c"...", &b"rest"[..]));
    }
}
