//! A tree of files whose names come from strangers.
//!
//! Directories are found by `openat2` with the tree's root as the root of the lookup: an absolute
//! link or `..` in one leads to that root and no further. Everything else is done with a single name
//! in a directory that is open, and follows no link.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{EntryError, MAX_DEPTH, Ownership, UnpackError, failed};

const MAX_PATH: usize = 4095;
const MAX_COMPONENT: usize = 255;
/// As many symbolic links as the kernel follows.
const MAX_LINKS: usize = 40;
/// The kernel asks to try again when something was renamed meanwhile, which nobody does here.
const ATTEMPTS: usize = 8;

/// The parts of a name.
pub(super) type Parts = Vec<Vec<u8>>;

/// Where an entry goes: a directory and a name in it, or the root.
pub(super) enum Place {
    Root,
    In {
        dir: Rc<OwnedFd>,
        ino: u64,
        name: Vec<u8>,
    },
}

/// The tree.
pub(super) struct Tree {
    pub(super) root: OwnedFd,
    pub(super) ownership: Ownership,
    /// What the current layer has made: the directory's inode and the name. A layer deletes what is
    /// below it, never its own.
    pub(super) made: HashSet<(u64, Vec<u8>)>,
    /// Times of directories, which change again as files are put into them.
    pub(super) times: Vec<(Parts, (i64, u32))>,
    /// No name deletes anything.
    pub(super) names_are_plain: bool,
    pub(super) devices: u64,
    pub(super) attributes: u64,
    /// The directory that was used last: entries come directory by directory.
    last: Option<(Parts, Rc<OwnedFd>, u64)>,
}

impl Tree {
    pub(super) fn new(root: OwnedFd, ownership: Ownership) -> Self {
        Self {
            root,
            ownership,
            made: HashSet::new(),
            times: Vec::new(),
            names_are_plain: false,
            devices: 0,
            attributes: 0,
            last: None,
        }
    }

    /// Device nodes and extended attributes that were left out.
    pub(super) fn left_out(&self) -> (u64, u64) {
        (self.devices, self.attributes)
    }

    /// Sets the times of the layer's directories.
    pub(super) fn end_layer(&mut self) -> Result<(), UnpackError> {
        self.made.clear();
        self.forget_last();
        for (parts, time) in std::mem::take(&mut self.times) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            // Something else may have come in its place since.
            let Ok(dir) = self.open(&parts, flags, ResolveFlags::NO_SYMLINKS) else {
                continue;
            };
            rustix::fs::futimens(&dir, &super::entry::timestamps(time))
                .map_err(|errno| UnpackError::Target(errno.into()))?;
        }
        Ok(())
    }

    /// Directories may be others than before: links have been made, or something was removed.
    pub(super) fn forget_last(&mut self) {
        self.last = None;
    }

    /// The parts of a name in an archive, which is below the root however it begins.
    pub(super) fn parts(path: &[u8]) -> Result<Parts, EntryError> {
        if path.len() > MAX_PATH || path.contains(&0) {
            return Err(EntryError::Name);
        }
        let mut parts = Parts::new();
        for part in path.split(|&byte| byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err(EntryError::Outside),
                part if part.len() > MAX_COMPONENT => return Err(EntryError::Name),
                part => parts.push(part.to_vec()),
            }
        }
        if parts.len() > MAX_DEPTH {
            return Err(EntryError::Depth);
        }
        Ok(parts)
    }

    /// Where an entry of this name goes; missing directories are made.
    pub(super) fn place(&mut self, parts: &[Vec<u8>]) -> Result<Place, EntryError> {
        let Some((name, parents)) = parts.split_last() else {
            return Ok(Place::Root);
        };
        if let Some((known, dir, ino)) = &self.last
            && known == parents
        {
            return Ok(Place::In {
                dir: Rc::clone(dir),
                ino: *ino,
                name: name.clone(),
            });
        }
        let dir = Rc::new(self.ensure(parents, MAX_LINKS)?);
        let ino = inode(dir.as_fd())?;
        self.last = Some((parents.to_vec(), Rc::clone(&dir), ino));
        Ok(Place::In {
            dir,
            ino,
            name: name.clone(),
        })
    }

    /// The same for what must be there; `None` if it is not.
    pub(super) fn find(&self, parts: &[Vec<u8>]) -> Result<Option<Place>, EntryError> {
        let Some((name, parents)) = parts.split_last() else {
            return Ok(Some(Place::Root));
        };
        match self.directory(parents) {
            Ok(dir) => Ok(Some(Place::In {
                ino: inode(dir.as_fd())?,
                dir: Rc::new(dir),
                name: name.clone(),
            })),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(failed("its directory cannot be opened")(errno)),
        }
    }

    /// Opens a directory, and makes what is missing of it, also where a link leads.
    fn ensure(&self, parts: &[Vec<u8>], links: usize) -> Result<OwnedFd, EntryError> {
        match self.directory(parts) {
            Ok(dir) => return self.not_too_deep(dir, parts),
            Err(Errno::NOENT) if !parts.is_empty() => {}
            Err(errno) => return Err(failed("its directory cannot be opened")(errno)),
        }
        let (name, parents) = parts.split_last().ok_or(EntryError::Name)?;
        let parent = self.ensure(parents, links)?;
        let depth = self.depth(parent.as_fd())?;
        if depth >= MAX_DEPTH {
            return Err(EntryError::Depth);
        }
        let mode = Mode::from(0o755);
        match rustix::fs::mkdirat(&parent, name.as_slice(), mode) {
            // Whatever this process takes away from modes, its users' containers need.
            Ok(()) => rustix::fs::chmodat(&parent, name.as_slice(), mode, AtFlags::empty())
                .map_err(failed("its directory cannot be made"))?,
            // A link that leads nowhere yet.
            Err(Errno::EXIST) => {
                let links = links
                    .checked_sub(1)
                    .ok_or_else(|| failed("its directory")(Errno::LOOP))?;
                let target = rustix::fs::readlinkat(&parent, name.as_slice(), Vec::new())
                    .map_err(failed("its directory cannot be opened"))?;
                return self.ensure(&followed(parents, target.as_bytes()), links);
            }
            Err(errno) => return Err(failed("its directory cannot be made")(errno)),
        }
        self.directory(parts)
            .map_err(failed("its directory cannot be opened"))
    }

    fn directory(&self, parts: &[Vec<u8>]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.open(parts, flags, ResolveFlags::empty())
    }

    pub(super) fn open(
        &self,
        parts: &[Vec<u8>],
        flags: OFlags,
        resolve: ResolveFlags,
    ) -> Result<OwnedFd, Errno> {
        let joined = parts.join(&b'/');
        let path = if joined.is_empty() {
            b".".to_vec()
        } else {
            joined
        };
        let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 1..ATTEMPTS {
            match rustix::fs::openat2(&self.root, path.as_slice(), flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Links may lead from one deep directory to another.
    fn not_too_deep(&self, dir: OwnedFd, parts: &[Vec<u8>]) -> Result<OwnedFd, EntryError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let plain = self.open(parts, flags, ResolveFlags::NO_SYMLINKS).is_ok();
        // Without links on the way it is as deep as its name is long.
        if !plain && self.depth(dir.as_fd())? >= MAX_DEPTH {
            return Err(EntryError::Depth);
        }
        Ok(dir)
    }

    /// Levels from the root to a directory.
    fn depth(&self, dir: BorrowedFd<'_>) -> Result<usize, EntryError> {
        let root = inode(self.root.as_fd())?;
        let mut depth = 0;
        let mut current = None::<OwnedFd>;
        loop {
            let here = current.as_ref().map_or(dir, AsFd::as_fd);
            if inode(here)? == root || depth > MAX_DEPTH {
                return Ok(depth);
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let above = rustix::fs::openat(here, "..", flags, Mode::empty());
            current = Some(above.map_err(failed("its directory cannot be opened"))?);
            depth += 1;
        }
    }
}

/// What is at a name, without following it.
pub(super) fn stat(dir: &OwnedFd, name: &[u8]) -> Result<Option<rustix::fs::Stat>, EntryError> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed("cannot be looked at")(errno)),
    }
}

/// The tree is on one file system, where inodes tell directories apart.
pub(super) fn inode(file: BorrowedFd<'_>) -> Result<u64, EntryError> {
    let stat = rustix::fs::fstat(file).map_err(failed("its directory cannot be looked at"))?;
    Ok(stat.st_ino)
}

/// Where a link in a directory leads, by its text alone; what is opened is looked up anew.
fn followed(parents: &[Vec<u8>], target: &[u8]) -> Parts {
    let mut parts = if target.starts_with(b"/") {
        Parts::new()
    } else {
        parents.to_vec()
    };
    for part in target.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part.to_vec()),
        }
    }
    parts
}
