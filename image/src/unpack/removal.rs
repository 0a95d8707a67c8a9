//! Taking away what a layer deletes or replaces.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::tree::{Place, Tree, inode, stat};
use super::{EntryError, failed};

/// Begins the name of an entry that deletes another.
const WHITEOUT: &[u8] = b".wh.";
/// The entry that deletes whatever the layers below have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Begins names by which aufs kept its own books.
const AUFS: &[u8] = b".wh..wh.";

/// What a name means by the rules of layers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    Plain,
    /// Deletes this name.
    Whiteout(&'a [u8]),
    /// Deletes everything in the directory.
    Opaque,
    /// Means nothing.
    Ignored,
}

/// What an entry of this name means.
pub(super) fn meaning(parts: &[Vec<u8>]) -> Result<Meaning<'_>, EntryError> {
    let Some((name, parents)) = parts.split_last() else {
        return Ok(Meaning::Plain);
    };
    if parents.iter().any(|part| part.starts_with(AUFS)) {
        return Ok(Meaning::Ignored);
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Meaning::Plain),
        Some(_) if name == OPAQUE => Ok(Meaning::Opaque),
        Some(_) if name.starts_with(AUFS) => Ok(Meaning::Ignored),
        // Not a name: the directory itself, or the one above.
        Some(b"" | b"." | b"..") => Err(EntryError::Name),
        Some(deleted) => Ok(Meaning::Whiteout(deleted)),
    }
}

impl Tree {
    /// Deletes a name of the layers below.
    pub(super) fn whiteout(&mut self, parts: &[Vec<u8>], deleted: &[u8]) -> Result<(), EntryError> {
        if let Some(Place::In { dir, .. }) = self.find(parts)? {
            self.remove_lower(&dir, deleted)?;
        }
        Ok(())
    }

    /// Deletes everything of the layers below in a directory.
    pub(super) fn opaque(&mut self, parts: &[Vec<u8>]) -> Result<(), EntryError> {
        if let Some(Place::In { dir, .. }) = self.find(parts)? {
            for name in names(&dir)? {
                self.remove_lower(&dir, &name)?;
            }
        }
        Ok(())
    }

    /// Deletes what this layer has not made, and directories in which nothing is left.
    fn remove_lower(&mut self, dir: &OwnedFd, name: &[u8]) -> Result<(), EntryError> {
        self.forget_last();
        let Some(stat) = stat(dir, name)? else {
            return Ok(());
        };
        let own = self.made.contains(&(inode(dir.as_fd())?, name.to_vec()));
        if !is_dir(&stat) {
            return if own { Ok(()) } else { unlink(dir, name) };
        }
        let below = open_dir(dir, name)?;
        for child in names(&below)? {
            self.remove_lower(&below, &child)?;
        }
        if own {
            return Ok(());
        }
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOTEMPTY) => Ok(()),
            Err(errno) => Err(failed("what it deletes cannot be removed")(errno)),
        }
    }

    /// Removes whatever is at a name, because something else comes in its place.
    pub(super) fn remove(&mut self, dir: &OwnedFd, name: &[u8]) -> Result<(), EntryError> {
        self.forget_last();
        let Some(stat) = stat(dir, name)? else {
            return Ok(());
        };
        self.made.remove(&(inode(dir.as_fd())?, name.to_vec()));
        if !is_dir(&stat) {
            return unlink(dir, name);
        }
        let below = open_dir(dir, name)?;
        for child in names(&below)? {
            self.remove(&below, &child)?;
        }
        rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
            .map_err(failed("what it replaces cannot be removed"))
    }
}

pub(super) fn is_dir(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_dir()
}

fn unlink(dir: &OwnedFd, name: &[u8]) -> Result<(), EntryError> {
    rustix::fs::unlinkat(dir, name, AtFlags::empty())
        .map_err(failed("what was at its place cannot be removed"))
}

pub(super) fn open_dir(dir: &OwnedFd, name: &[u8]) -> Result<OwnedFd, EntryError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(failed("cannot be opened"))
}

fn names(dir: &OwnedFd) -> Result<Vec<Vec<u8>>, EntryError> {
    let failed = || failed("its directory cannot be listed");
    let mut names = Vec::new();
    // One that was opened as a place cannot be read.
    let dir = open_dir(dir, b".")?;
    for entry in Dir::new(dir).map_err(failed())? {
        let name = entry.map_err(failed())?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_delete_are_known() {
        let of = |path: &str| {
            let parts = Tree::parts(path.as_bytes()).unwrap();
            meaning(&parts).map(|meaning| format!("{meaning:?}"))
        };
        assert_eq!(of("a/b").unwrap(), "Plain");
        assert_eq!(of("").unwrap(), "Plain");
        assert_eq!(of("a/.wh..wh..opq").unwrap(), "Opaque");
        assert_eq!(of("a/.wh..wh.plnk").unwrap(), "Ignored");
        assert_eq!(of(".wh..wh.plnk/1.2").unwrap(), "Ignored");
        assert!(of("a/.wh.b").unwrap().starts_with("Whiteout"));
        for path in ["a/.wh.", "a/.wh..", ".wh..."] {
            assert!(of(path).is_err(), "{path}");
        }
    }
}
