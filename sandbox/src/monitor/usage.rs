//! How much disk a directory takes that a guest writes to, while it does.
//!
//! What is there may change at any time, and is what a hostile guest makes it: so each directory is opened
//! by a single name from the one above it, no link is followed and no file opened, and depth and number are
//! bounded. What is moved about meanwhile may be missed, or counted twice.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// What `st_blocks` counts in.
const BLOCK: u64 = 512;
/// What it takes to look into a directory.
const LOOK: Mode = Mode::RUSR.union(Mode::XUSR);
/// After how many names it is asked whether anybody still wants to know.
const ASK_AFTER: u64 = 1024;

/// How far a directory is looked through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// More bytes than this need not be counted.
    pub bytes: u64,
    /// Directories in each other; each takes a descriptor.
    pub depth: usize,
    /// Names in all of them.
    pub names: u64,
}

/// Why a directory's usage is not known.
#[derive(Debug)]
pub(super) enum Unmeasured {
    /// Its directories are in each other more often.
    TooDeep(usize),
    /// There are more names.
    TooMany(u64),
    /// Nobody wants to know any more.
    Stopped,
    /// The system refused.
    Io(io::Error),
}

impl From<Errno> for Unmeasured {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// Bytes that are allocated for `top` and everything in it, or more than `bounds` allow. A file with several
/// names counts once: all of them are in here, for a guest has no other place on the same disk to link from.
pub(super) fn measure(
    top: &OwnedFd,
    bounds: Bounds,
    is_wanted: impl Fn() -> bool,
) -> Result<u64, Unmeasured> {
    let stat = rustix::fs::fstat(top)?;
    let mut bytes = allocated(&stat);
    let mut names = 0;
    let mut levels = vec![Level::open(top, c".", &stat)?];
    loop {
        let depth = levels.len();
        let Some(level) = levels.last_mut() else {
            break;
        };
        let Some(entry) = level.entries.read().transpose()? else {
            levels.pop();
            continue;
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        names += 1;
        if names > bounds.names {
            return Err(Unmeasured::TooMany(bounds.names));
        }
        if names % ASK_AFTER == 0 && !is_wanted() {
            return Err(Unmeasured::Stopped);
        }
        let dir = level.entries.fd()?;
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        bytes = bytes.saturating_add(allocated(&stat));
        if bytes > bounds.bytes {
            break;
        }
        if !is_directory(&stat) {
            continue;
        }
        if depth == bounds.depth {
            return Err(Unmeasured::TooDeep(bounds.depth));
        }
        let below = match Level::open(dir, name, &stat) {
            // It has become something else.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            other => other?,
        };
        levels.push(below);
    }
    Ok(bytes)
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// What one name adds: of a file with several, its share.
fn allocated(stat: &Stat) -> u64 {
    let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
    let bytes = blocks.saturating_mul(BLOCK);
    match is_directory(stat) {
        true => bytes,
        false => bytes.div_ceil(stat.st_nlink.max(1)),
    }
}

/// A directory that is being read.
struct Level {
    entries: Dir,
    _lent: Option<Lent>,
}

impl Level {
    fn open(dir: impl AsFd, name: &std::ffi::CStr, stat: &Stat) -> rustix::io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let is_root = rustix::process::geteuid().is_root();
        if is_root || Mode::from_raw_mode(stat.st_mode).contains(LOOK) {
            let opened = rustix::fs::openat(dir, name, flags | OFlags::RDONLY, Mode::empty())?;
            return Ok(Self {
                entries: Dir::new(opened)?,
                _lent: None,
            });
        }
        let named = rustix::fs::openat(dir, name, flags | OFlags::PATH, Mode::empty())?;
        let lent = Lent::take(named)?;
        let opened = rustix::fs::openat(&lent.dir, c".", flags | OFlags::RDONLY, Mode::empty())?;
        Ok(Self {
            entries: Dir::new(opened)?,
            _lent: Some(lent),
        })
    }
}

/// The right to look into a directory that denies it to its owner; given back when dropped.
struct Lent {
    dir: OwnedFd,
    mode: Mode,
}

impl Lent {
    fn take(dir: OwnedFd) -> rustix::io::Result<Self> {
        let mode = Mode::from_raw_mode(rustix::fs::fstat(&dir)?.st_mode);
        let lent = Self { dir, mode };
        lent.set(mode | LOOK)?;
        Ok(lent)
    }

    /// By the descriptor's own name, which leads to nothing else whatever happens to the directory's.
    fn set(&self, mode: Mode) -> rustix::io::Result<()> {
        rustix::fs::chmod(format!("/proc/self/fd/{}", self.dir.as_raw_fd()), mode)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Err(error) = self.set(self.mode) {
            log::debug!("a directory's mode cannot be given back: {error}");
        }
    }
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
