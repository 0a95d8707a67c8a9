//! Reads tar archives as layers use them: ustar, GNU and PAX.
//!
//! ```text
//!   bytes ──▶ blocks of 512 ──▶ header ─┬─ extended header, long name: kept for the next entry
//!                                       └─ entry: what it is, then its data
//! ```
//!
//! The reader is strict and bounded: nothing that an archive says makes it allocate more than
//! [`MAX_EXTENSION`] for text and [`MAX_EXTENTS`] for the map of a sparse file. It does not judge
//! names; whoever unpacks does.

mod header;
mod pax;
mod sparse;
#[cfg(test)]
mod tests;

use std::io::{self, Read};

use thiserror::Error;

use self::header::{BLOCK, Header};
use self::pax::Pax;

/// Most bytes of an extended header or a long name.
pub const MAX_EXTENSION: u64 = 1 << 20;
/// Most extents of a sparse file.
pub const MAX_EXTENTS: usize = 1 << 17;

/// An archive that cannot be read.
#[derive(Debug, Error)]
pub enum TarError {
    /// Reading failed.
    #[error("cannot be read")]
    Io(#[source] io::Error),
    /// It ends within an entry.
    #[error("is cut short")]
    Truncated,
    /// A header does not have the sum that it says.
    #[error("is damaged, or no tar archive: a header's checksum is wrong")]
    Checksum,
    /// A field is no number, or a number that is too large.
    #[error("is damaged: a header's field `{0}` is no number that it can be")]
    Number(&'static str),
    /// An extended header breaks its format.
    #[error("is damaged: an extended header cannot be read")]
    Pax,
    /// An extended header or a long name is too long.
    #[error("has an extended header of {0} bytes; at most {MAX_EXTENSION} are supported")]
    Extension(u64),
    /// The map of a sparse file makes no sense.
    #[error("has a sparse file whose map is wrong or too long")]
    Sparse,
    /// A kind of entry that no layer has.
    #[error("has an entry of the unknown kind {0:#04x}")]
    Kind(u8),
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Another name of a file.
    HardLink,
    /// A named pipe.
    Fifo,
    /// A device node of either kind.
    Device,
}

/// A piece of a sparse file that has data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it is in the file.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// One entry, without its data.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name, as it is written in the archive.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permissions with set-user-ID, set-group-ID and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Bytes of the file, holes included.
    pub size: u64,
    /// Where a link leads.
    pub link: Vec<u8>,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The pieces that have data, in order; all of it is one piece unless the file is sparse.
    pub extents: Vec<Extent>,
}

/// Reads entries one after the other.
pub struct Archive<R> {
    from: R,
    /// Bytes of the entry's data that have not been read.
    data: u64,
    /// Bytes after them up to the next block.
    padding: u64,
    /// Extended header for all entries.
    global: Pax,
    /// Bytes read so far.
    position: u64,
}

impl<R: Read> Archive<R> {
    /// Reads from `from`.
    pub fn new(from: R) -> Self {
        Self {
            from,
            data: 0,
            padding: 0,
            global: Pax::default(),
            position: 0,
        }
    }

    /// What it reads from.
    pub fn into_inner(self) -> R {
        self.from
    }

    /// Where the data of the current entry begin in the archive.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Skips what is left of an entry and reads the next; `None` at the end of the archive.
    ///
    /// # Errors
    /// [`TarError`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extended = Pax::default();
        let (mut long_path, mut long_link) = (None, None);
        loop {
            let Some(header) = self.next_header()? else {
                return Ok(None);
            };
            let size = header.size()?;
            match header.type_flag() {
                // The last of each kind counts alone, so that many of them take no more memory.
                b'x' => extended = Pax::parse(&self.extension(size)?)?,
                b'g' => self.global = Pax::parse(&self.extension(size)?)?,
                b'L' => long_path = Some(self.long_name(size)?),
                b'K' => long_link = Some(self.long_name(size)?),
                _ => {
                    let path = long_path.unwrap_or_else(|| header.path());
                    let link = long_link.unwrap_or_else(|| header.link());
                    let extended = self.global.with(&extended);
                    return self.entry(&header, &extended, path, link).map(Some);
                }
            }
        }
    }

    /// Reads data of the entry; 0 at its end. Of a sparse file these are the extents' data.
    ///
    /// # Errors
    /// [`TarError::Truncated`] when the archive ends before the data do.
    pub fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let most = usize::try_from(self.data).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let length = self.read_some(&mut buffer[..most])?;
        if length == 0 {
            return Err(TarError::Truncated);
        }
        self.data -= length as u64;
        Ok(length)
    }

    fn entry(
        &mut self,
        header: &Header,
        extended: &Pax,
        path: Vec<u8>,
        link: Vec<u8>,
    ) -> Result<Entry, TarError> {
        let flag = header.type_flag();
        let path = extended.get("path").map_or(path, <[u8]>::to_vec);
        let kind = match flag {
            // Before there were directories, a name with a slash at its end was one.
            0 if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(TarError::Kind(other)),
        };
        let stored = match (kind, extended.number("size")?) {
            (Kind::File, Some(size)) => size,
            (Kind::File, None) => header.size()?,
            // The other kinds have no data, whatever they say.
            _ => 0,
        };
        self.begin_data(stored)?;
        let mut entry = Entry {
            path,
            kind,
            mode: header.mode()?,
            uid: extended.number("uid")?.map_or_else(|| header.uid(), Ok)?,
            gid: extended.number("gid")?.map_or_else(|| header.gid(), Ok)?,
            mtime: match extended.mtime()? {
                Some(time) => time,
                None => (header.mtime()?, 0),
            },
            size: stored,
            link: extended.get("linkpath").map_or(link, <[u8]>::to_vec),
            xattrs: extended.xattrs(),
            extents: Vec::new(),
        };
        if kind == Kind::File {
            self.read_map(&mut entry, header, extended)?;
        }
        Ok(entry)
    }

    fn begin_data(&mut self, size: u64) -> Result<(), TarError> {
        let rounded = size.checked_next_multiple_of(BLOCK as u64);
        let rounded = rounded.ok_or(TarError::Number("size"))?;
        self.data = size;
        self.padding = rounded - size;
        Ok(())
    }

    fn next_header(&mut self) -> Result<Option<Header>, TarError> {
        self.skip_rest()?;
        let Some(block) = self.block_or_end()? else {
            return Ok(None);
        };
        if let Some(header) = Header::parse(block)? {
            return Ok(Some(header));
        }
        // Two blocks of zeros are the end, and so is one before the end of the file.
        match self.block_or_end()? {
            Some(block) if block.iter().any(|&byte| byte != 0) => Err(TarError::Checksum),
            _ => Ok(None),
        }
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        let mut left = self.data + self.padding;
        let mut buffer = [0; 16 << 10];
        while left > 0 {
            let most = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let length = self.read_some(&mut buffer[..most])?;
            if length == 0 {
                return Err(TarError::Truncated);
            }
            left -= length as u64;
        }
        (self.data, self.padding) = (0, 0);
        Ok(())
    }

    /// The data of an extended header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION {
            return Err(TarError::Extension(size));
        }
        self.begin_data(size)?;
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match self.read_data(&mut buffer)? {
                0 => return Ok(bytes),
                length => bytes.extend_from_slice(&buffer[..length]),
            }
        }
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let mut name = self.extension(size)?;
        if let Some(end) = name.iter().position(|&byte| byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn block(&mut self) -> Result<[u8; BLOCK], TarError> {
        self.block_or_end()?.ok_or(TarError::Truncated)
    }

    fn block_or_end(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.read_some(&mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(TarError::Truncated),
                length => filled += length,
            }
        }
        Ok(Some(block))
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        loop {
            match self.from.read(buffer) {
                Ok(length) => {
                    self.position += length as u64;
                    return Ok(length);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(TarError::Truncated);
                }
                Err(error) => return Err(TarError::Io(error)),
            }
        }
    }
}
