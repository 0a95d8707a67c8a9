//! Where files of a container go on this machine.

use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use agent_protocol::archive::CONTENT;
use anyhow::{Context, bail};
use image::unpack::{Limits, Ownership, Unpacker};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// A directory is opened as what it is, never by way of a link.
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The directory that is copied to, and the name that the copy gets in it.
#[derive(Debug)]
pub struct Place {
    dir: OwnedFd,
    shown: PathBuf,
    /// What the archive calls it.
    from: PathBuf,
    /// None for the content of a directory, which goes into `dir`.
    name: Option<CString>,
    wants_directory: bool,
}

/// Files in a hidden directory beside their place. They go with it if they are not settled.
pub struct Staged {
    place: Place,
    hidden: CString,
    stage: OwnedFd,
}

impl Place {
    /// Where cp puts something of the name `from` when it is told `to`.
    pub fn find(to: &Path, from: &Path) -> anyhow::Result<Self> {
        let wants_directory = to.as_os_str().as_bytes().ends_with(b"/");
        let is_directory = std::fs::metadata(to).is_ok_and(|metadata| metadata.is_dir());
        let (dir, name) = if is_directory {
            let name = Some(from).filter(|from| *from != Path::new(CONTENT));
            (to.to_owned(), name)
        } else {
            let parent = to.parent().filter(|parent| *parent != Path::new(""));
            let name = to.file_name().context("it has no name")?;
            let parent = parent.unwrap_or(Path::new("."));
            (parent.to_owned(), Some(Path::new(name)))
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&dir, flags, Mode::empty());
        Ok(Self {
            dir: opened.with_context(|| dir.display().to_string())?,
            shown: to.to_owned(),
            from: from.to_owned(),
            name: name.map(c_string).transpose()?,
            wants_directory,
        })
    }

    /// Unpacks an archive beside the place.
    pub fn unpack(self, archive: impl Read) -> anyhow::Result<Staged> {
        let mut bytes = [0; 8];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        let hidden = CString::new(format!(".podvmm-cp-{:016x}", u64::from_ne_bytes(bytes)))?;
        let shown = self.shown.display().to_string();
        rustix::fs::mkdirat(&self.dir, &hidden, Mode::RWXU).with_context(|| shown.clone())?;
        let stage = rustix::fs::openat(&self.dir, &hidden, DIRECTORY, Mode::empty());
        let staged = Staged {
            stage: stage.with_context(|| shown.clone())?,
            hidden,
            place: self,
        };
        let dir = staged.stage.try_clone()?;
        let mut unpacker = Unpacker::new(dir, Ownership::Taken, Limits::default());
        unpacker.files(archive)?;
        let left_out = unpacker.summary().devices;
        if left_out > 0 {
            eprintln!("podvmm: {left_out} device nodes were left out");
        }
        Ok(staged)
    }
}

impl Staged {
    /// Renames everything to where it belongs.
    pub fn settle(&self) -> anyhow::Result<()> {
        let place = &self.place;
        let shown = place.shown.display();
        let Some(name) = &place.name else {
            return merge(self.stage.as_fd(), place.dir.as_fd(), &place.shown);
        };
        let from = c_string(&place.from)?;
        if place.from == Path::new(CONTENT) {
            // The hidden directory is what was copied. It has the mode of the original by now.
            return match kind(place.dir.as_fd(), name)? {
                None => {
                    let stage = &self.hidden;
                    rustix::fs::renameat(&place.dir, stage, &place.dir, name)
                        .with_context(|| shown.to_string())
                }
                Some(_) => bail!("{shown}: is no directory"),
            };
        }
        let found = kind(self.stage.as_fd(), &from)?;
        let Some(found) = found else {
            bail!(
                "the container sent something else than {}",
                place.from.display()
            );
        };
        if place.wants_directory && found != FileType::Directory && !shown_is_directory(place) {
            bail!("{shown}: there is no such directory");
        }
        let target = (place.dir.as_fd(), name.as_c_str());
        move_one((self.stage.as_fd(), &from), target, found, &place.shown)
    }
}

fn shown_is_directory(place: &Place) -> bool {
    std::fs::metadata(&place.shown).is_ok_and(|metadata| metadata.is_dir())
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = remove(self.place.dir.as_fd(), &self.hidden) {
            let name = self.hidden.to_string_lossy();
            log::warn!("{name} beside {}: {error}", self.place.shown.display());
        }
    }
}

fn c_string(path: &Path) -> anyhow::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).with_context(|| path.display().to_string())
}

/// What is at a name, without following it.
fn kind(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<Option<FileType>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Moves all that is in one directory into another.
fn merge(from: BorrowedFd<'_>, to: BorrowedFd<'_>, shown: &Path) -> anyhow::Result<()> {
    for name in names(from)? {
        let Some(found) = kind(from, &name)? else {
            continue;
        };
        let shown = shown.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        move_one((from, &name), (to, &name), found, &shown)?;
    }
    Ok(())
}

/// Moves one thing. What is there is replaced, and a directory is added to.
fn move_one(
    from: (BorrowedFd<'_>, &CStr),
    to: (BorrowedFd<'_>, &CStr),
    found: FileType,
    shown: &Path,
) -> anyhow::Result<()> {
    let is_directory = found == FileType::Directory;
    match kind(to.0, to.1)? {
        Some(FileType::Directory) if is_directory => {
            let open = |(dir, name)| rustix::fs::openat(dir, name, DIRECTORY, Mode::empty());
            let (from, to) = (open(from)?, open(to)?);
            merge(from.as_fd(), to.as_fd(), shown)
        }
        Some(FileType::Directory) => bail!("{}: is a directory", shown.display()),
        Some(_) if is_directory => bail!("{}: is no directory", shown.display()),
        Some(_) | None => rustix::fs::renameat(from.0, from.1, to.0, to.1)
            .with_context(|| shown.display().to_string()),
    }
}

fn names(dir: BorrowedFd<'_>) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes a tree; what is not there is gone already.
fn remove(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        Err(Errno::NOENT) => return Ok(()),
        other => return other,
    }
    let below = rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())?;
    for name in names(below.as_fd())? {
        remove(below.as_fd(), &name)?;
    }
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}

#[cfg(test)]
#[path = "place_tests.rs"]
mod tests;
