//! One entry of a layer becomes a file.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::removal::{Meaning, is_dir, meaning, open_dir};
use super::tree::{Parts, Place, Tree, stat};
use super::{EntryError, Ownership, failed, printable};
use crate::tar::{Archive, Entry, Kind};

const BUFFER: usize = 64 << 10;
const SET_USER: u32 = 0o4000;
const SET_GROUP: u32 = 0o2000;

impl Tree {
    /// Puts an entry into the tree, or does what its name asks for.
    pub(super) fn add(
        &mut self,
        entry: &Entry,
        archive: &mut Archive<impl Read>,
    ) -> Result<(), EntryError> {
        let parts = Self::parts(&entry.path)?;
        let meant = match self.names_are_plain {
            true => Meaning::Plain,
            false => meaning(&parts)?,
        };
        match meant {
            Meaning::Plain => {}
            Meaning::Ignored => return Ok(()),
            Meaning::Opaque => return self.opaque(&parts),
            Meaning::Whiteout(deleted) => {
                let deleted = deleted.to_vec();
                return self.whiteout(&parts, &deleted);
            }
        }
        match self.place(&parts)? {
            Place::Root if entry.kind == Kind::Directory => self.root(entry),
            Place::Root => Err(EntryError::Name),
            Place::In { dir, ino, name } => {
                if entry.kind == Kind::HardLink {
                    self.hard_link(entry, &dir, ino, &name)?;
                } else {
                    self.make(entry, archive, &dir, &name)?;
                }
                self.made.insert((ino, name));
                if entry.kind == Kind::Directory {
                    self.times.push((parts, entry.mtime));
                }
                Ok(())
            }
        }
    }

    /// The root directory itself.
    fn root(&mut self, entry: &Entry) -> Result<(), EntryError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = self.open(&Parts::new(), flags, ResolveFlags::empty());
        let root = root.map_err(failed("the root cannot be opened"))?;
        self.times.push((Parts::new(), entry.mtime));
        self.finish(entry, root.as_fd())
    }

    fn make(
        &mut self,
        entry: &Entry,
        archive: &mut Archive<impl Read>,
        dir: &OwnedFd,
        name: &[u8],
    ) -> Result<(), EntryError> {
        let present = stat(dir, name)?;
        let stays = entry.kind == Kind::Directory && present.as_ref().is_some_and(is_dir);
        if present.is_some() && !stays {
            self.remove(dir, name)?;
        }
        match entry.kind {
            Kind::File => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let mode = Mode::from(0o600);
                let file = rustix::fs::openat(dir, name, flags | OFlags::CLOEXEC, mode)
                    .map_err(failed("the file cannot be made"))?;
                write_data(entry, archive, &file)?;
                self.finish(entry, file.as_fd())?;
                rustix::fs::futimens(&file, &timestamps(entry.mtime))
                    .map_err(failed("its time cannot be set"))
            }
            Kind::Directory => {
                if !stays {
                    rustix::fs::mkdirat(dir, name, Mode::from(0o700))
                        .map_err(failed("the directory cannot be made"))?;
                }
                self.finish(entry, open_dir(dir, name)?.as_fd())
            }
            Kind::Symlink => self.symlink(entry, dir, name),
            Kind::Fifo => {
                let mode = Mode::from(0o600);
                rustix::fs::mknodat(dir, name, FileType::Fifo, mode, 0)
                    .map_err(failed("the named pipe cannot be made"))?;
                // Not waiting for a writer, this opens it and nothing else.
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let pipe = rustix::fs::openat(dir, name, flags, Mode::empty())
                    .map_err(failed("the named pipe cannot be opened"))?;
                self.finish(entry, pipe.as_fd())
            }
            Kind::Device => {
                self.devices += 1;
                Ok(())
            }
            // `hard_link` makes those.
            Kind::HardLink => Ok(()),
        }
    }

    fn symlink(&mut self, entry: &Entry, dir: &OwnedFd, name: &[u8]) -> Result<(), EntryError> {
        // What it leads to is for the container to find out, in its own root.
        rustix::fs::symlinkat(entry.link.as_slice(), dir, name)
            .map_err(failed("the symbolic link cannot be made"))?;
        self.forget_last();
        if let Some((uid, gid)) = self.owner(entry)? {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(dir, name, Some(uid), Some(gid), flags)
                .map_err(failed("cannot be given to its owner"))?;
        }
        let time = timestamps(entry.mtime);
        rustix::fs::utimensat(dir, name, &time, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("its time cannot be set"))
    }

    /// Another name for a file that is there.
    fn hard_link(
        &mut self,
        entry: &Entry,
        dir: &OwnedFd,
        ino: u64,
        name: &[u8],
    ) -> Result<(), EntryError> {
        let missing = || EntryError::LinkTarget {
            target: printable(&entry.link),
        };
        let Some(Place::In {
            dir: from,
            ino: from_ino,
            name: target,
        }) = self.find(&Self::parts(&entry.link)?)?
        else {
            return Err(missing());
        };
        if (from_ino, &target[..]) == (ino, name) {
            // A link to itself says nothing.
            return stat(dir, name)?.map(|_| ()).ok_or_else(missing);
        }
        let found = stat(&from, &target)?.ok_or_else(missing)?;
        if is_dir(&found) {
            return Err(missing());
        }
        if stat(dir, name)?.is_some() {
            self.remove(dir, name)?;
        }
        match rustix::fs::linkat(&*from, target.as_slice(), dir, name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Err(missing()),
            Err(errno) => return Err(failed("the hard link cannot be made")(errno)),
        }
        Ok(())
    }

    /// Owner, attributes and permissions, in the order in which none undoes another.
    fn finish(&mut self, entry: &Entry, file: BorrowedFd<'_>) -> Result<(), EntryError> {
        if let Some((uid, gid)) = self.owner(entry)? {
            rustix::fs::fchown(file, Some(uid), Some(gid))
                .map_err(failed("cannot be given to its owner"))?;
        }
        for (name, value) in &entry.xattrs {
            if self.ownership == Ownership::Taken || !wanted(name) {
                self.attributes += 1;
                continue;
            }
            match rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) => {}
                // The file system has none, or this user may not.
                Err(Errno::NOTSUP | Errno::PERM) => self.attributes += 1,
                Err(errno) => return Err(failed("an extended attribute cannot be set")(errno)),
            }
        }
        rustix::fs::fchmod(file, Mode::from(self.mode(entry)))
            .map_err(failed("its permissions cannot be set"))
    }

    fn owner(&self, entry: &Entry) -> Result<Option<(Uid, Gid)>, EntryError> {
        // The highest number means "as it is" to the kernel.
        let number = |id: u64| {
            let number = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
            number.ok_or(EntryError::Owner(id))
        };
        let (uid, gid) = (number(entry.uid)?, number(entry.gid)?);
        Ok(match self.ownership {
            Ownership::Kept => Some((Uid::from_raw(uid), Gid::from_raw(gid))),
            Ownership::Squashed | Ownership::Taken => None,
        })
    }

    fn mode(&self, entry: &Entry) -> u32 {
        if self.ownership == Ownership::Kept {
            return entry.mode;
        }
        let mut mode = entry.mode
            | if entry.kind == Kind::Directory {
                0o700
            } else {
                0o600
            };
        if self.ownership == Ownership::Taken {
            return mode & !(SET_USER | SET_GROUP);
        }
        if entry.uid != 0 {
            mode &= !SET_USER;
        }
        if entry.gid != 0 && entry.kind != Kind::Directory {
            mode &= !SET_GROUP;
        }
        mode
    }
}

/// Attributes that mean something to the container and nothing to the host.
fn wanted(name: &[u8]) -> bool {
    let user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
    (user || name == b"security.capability") && !name.contains(&0)
}

fn write_data(
    entry: &Entry,
    archive: &mut Archive<impl Read>,
    file: &OwnedFd,
) -> Result<(), EntryError> {
    let mut buffer = vec![0; BUFFER.min(usize::try_from(entry.size).unwrap_or(BUFFER))];
    for extent in &entry.extents {
        let (mut offset, mut left) = (extent.offset, extent.length);
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(BUFFER).min(buffer.len());
            let length = archive.read_data(&mut buffer[..most])?;
            if length == 0 {
                return Err(crate::tar::TarError::Truncated.into());
            }
            let data = &buffer[..length];
            // Zeros need not be written: what is not there reads as zeros.
            if data.iter().any(|&byte| byte != 0) {
                write_at(file, data, offset)?;
            }
            offset += length as u64;
            left -= length as u64;
        }
    }
    if entry.size > 0 {
        rustix::fs::ftruncate(file, entry.size).map_err(failed("the file cannot be written"))?;
    }
    Ok(())
}

fn write_at(file: &OwnedFd, mut data: &[u8], mut offset: u64) -> Result<(), EntryError> {
    while !data.is_empty() {
        match rustix::io::pwrite(file, data, offset) {
            Ok(0) => return Err(failed("the file cannot be written")(Errno::IO)),
            Ok(length) => {
                data = &data[length..];
                offset += length as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("the file cannot be written")(errno)),
        }
    }
    Ok(())
}

pub(super) fn timestamps((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
