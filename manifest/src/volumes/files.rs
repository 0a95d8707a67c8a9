//! Files that appear at once, or are replaced at once.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags};
use rustix::io::Errno;

use super::{DIR, open_directory};
use crate::plan::PlannedFile;

/// The link that decides.
const DATA: &str = "..data";
/// Its next value, before it is renamed over the old one.
const NEXT: &str = "..data_next";
/// More versions than a volume ever has side by side.
const MAX_VERSIONS: u32 = 10_000;

/// Writes `files` as a new version of the volume, then makes it the one that is seen.
pub fn write(volume: &OwnedFd, files: &[PlannedFile], group: Option<u32>) -> io::Result<()> {
    let (name, version) = new_version(volume)?;
    for file in files {
        write_file(&version, file, group)?;
    }
    let link = |target: &str, at: &str| -> io::Result<()> {
        match rustix::fs::symlinkat(target, volume, at) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    };
    let _ = rustix::fs::unlinkat(volume, NEXT, AtFlags::empty());
    rustix::fs::symlinkat(&name, volume, NEXT)?;
    rustix::fs::renameat(volume, NEXT, volume, DATA)?;
    // What the volume shows: the first part of each path, through the link.
    let parts = files.iter().filter_map(|file| file.path.split('/').next());
    for part in parts.collect::<BTreeSet<_>>() {
        link(&format!("{DATA}/{part}"), part)?;
    }
    Ok(())
}

/// A directory for a version, by the first number that is free.
fn new_version(volume: &OwnedFd) -> io::Result<(String, OwnedFd)> {
    for number in 1..MAX_VERSIONS {
        let name = format!("..{number}");
        match rustix::fs::mkdirat(volume, &name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {
                let version = open_directory(volume, &name)?;
                rustix::fs::fchmod(&version, Mode::from_raw_mode(DIR))?;
                return Ok((name, version));
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other("it has too many versions"))
}

fn write_file(version: &OwnedFd, file: &PlannedFile, group: Option<u32>) -> io::Result<()> {
    let mut dir = version.as_fd().try_clone_to_owned()?;
    let (parents, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    for part in parents.split('/').filter(|part| !part.is_empty()) {
        match rustix::fs::mkdirat(&dir, part, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        dir = open_directory(&dir, part)?;
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(DIR))?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(0o600))?;
    let mut made = File::from(made);
    made.write_all(&file.data)?;
    let mut mode = file.mode;
    if let Some(group) = group {
        rustix::fs::fchown(&made, None, Some(Gid::from_raw(group)))?;
        // The group may read what the owner may.
        mode |= (mode & 0o400) >> 3;
    }
    rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
    Ok(())
}
