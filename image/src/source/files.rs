//! The files of a directory or of an archive, by name.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::SourceError;
use crate::compression::{Compression, decompress};
use crate::path::normal;
use crate::tar::{Archive, Kind};

/// Most files of an archive.
const MAX_MEMBERS: usize = 100_000;
/// Links from one member to another that are followed.
const MAX_LINKS: usize = 4;

/// Files that can be read in any order.
pub(super) enum Files {
    Directory(OwnedFd),
    Archive {
        file: File,
        members: HashMap<String, Member>,
    },
}

/// Where a file is in an archive.
pub(super) enum Member {
    Data { offset: u64, size: u64 },
    Link(String),
}

impl Files {
    /// Opens a directory or an archive. One that is compressed is unpacked to a file in `scratch`
    /// that has no name, of at most `limit` bytes.
    pub(super) fn open(path: &Path, scratch: &Path, limit: u64) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty())?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode);
        if kind.is_dir() {
            return Ok(Self::Directory(opened));
        }
        if !kind.is_file() {
            let text = "it is neither a directory nor a regular file";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let mut file = File::from(opened);
        let mut start = [0; 8];
        let length = file.read_at(&mut start, 0)?;
        if Compression::of(&start[..length]) != Compression::None {
            file = decompressed(file, scratch, limit)?;
        }
        let members = members(&mut file)?;
        Ok(Self::Archive { file, members })
    }

    /// Whether there is a file of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        matches!(self.get(name), Ok(Some(_)))
    }

    /// Opens a file and tells its size; `None` if there is none.
    pub(super) fn get(&self, name: &str) -> io::Result<Option<(Box<dyn Read + '_>, u64)>> {
        match self {
            Self::Directory(dir) => open_below(dir, name),
            Self::Archive { file, members } => {
                let mut name = name.to_owned();
                for _ in 0..MAX_LINKS {
                    match members.get(&name) {
                        None => return Ok(None),
                        Some(Member::Link(target)) => name.clone_from(target),
                        Some(&Member::Data { offset, size }) => {
                            let reader = Part {
                                file,
                                offset,
                                left: size,
                            };
                            return Ok(Some((Box::new(reader), size)));
                        }
                    }
                }
                Ok(None)
            }
        }
    }
}

fn open_below(dir: &OwnedFd, name: &str) -> io::Result<Option<(Box<dyn Read>, u64)>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let opened = match rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve) {
        Ok(opened) => opened,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let stat = rustix::fs::fstat(&opened)?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Ok(None);
    }
    let size = u64::try_from(stat.st_size).unwrap_or_default();
    Ok(Some((Box::new(File::from(opened)), size)))
}

/// Decompresses into a file that goes with its descriptor.
fn decompressed(file: File, scratch: &Path, limit: u64) -> io::Result<File> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = scratch.join(format!("archive-{}-{count}", std::process::id()));
    let mut options = File::options();
    let mut plain = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    let mut bounded = decompress(file)?.take(limit.saturating_add(1));
    if io::copy(&mut bounded, &mut plain)? > limit {
        let text = format!("it has more than {limit} bytes when it is decompressed");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    plain.rewind()?;
    Ok(plain)
}

fn members(file: &mut File) -> io::Result<HashMap<String, Member>> {
    let mut archive = Archive::new(BufReader::with_capacity(128 << 10, file));
    let mut members = HashMap::new();
    while let Some(entry) = archive.next_entry().map_err(SourceError::damaged)? {
        let Ok(path) = String::from_utf8(entry.path) else {
            continue;
        };
        let path = normal(&path);
        let member = match entry.kind {
            // A sparse file is in pieces; no tool writes images like that.
            Kind::File if entry.extents.iter().map(|e| e.length).sum::<u64>() == entry.size => {
                Member::Data {
                    offset: archive.position(),
                    size: entry.size,
                }
            }
            Kind::Symlink | Kind::HardLink => {
                let link = String::from_utf8_lossy(&entry.link).into_owned();
                let from = match (entry.kind, path.rsplit_once('/')) {
                    (Kind::Symlink, Some((dir, _))) if !link.starts_with('/') => dir,
                    _ => "",
                };
                Member::Link(normal(&format!("{from}/{link}")))
            }
            _ => continue,
        };
        members.insert(path, member);
        if members.len() > MAX_MEMBERS {
            let text = format!("it has more than {MAX_MEMBERS} files");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
    }
    Ok(members)
}

/// A part of a file, read without moving the file's position.
struct Part<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let length = self.file.read_at(&mut buffer[..most], self.offset)?;
        self.offset += length as u64;
        self.left -= length as u64;
        Ok(length)
    }
}
