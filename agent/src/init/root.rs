//! Paths inside a container's root, followed as the container would follow them.
//!
//! Links, including absolute ones and "..", are resolved by the kernel with the container's root as the
//! top (openat2, RESOLVE_IN_ROOT), so an image cannot name anything outside of itself.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use super::error::{InitError, Step};

/// Most links that lead to the next one, as the kernel has it for a whole path.
const MAX_LINKS: usize = 40;

/// What a mount needs to be put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// The root of a container that is being made.
#[derive(Debug)]
pub(super) struct Root(OwnedFd);

impl Root {
    /// Takes a descriptor of the directory.
    pub(super) fn new(directory: OwnedFd) -> Self {
        Self(directory)
    }

    /// Opens `path` with `flags`.
    pub(super) fn open(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(
            &self.0,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        )
    }

    /// Opens `path` as a place for a mount, without following any link.
    ///
    /// An image could otherwise have its /proc be a link and get the real one somewhere else.
    pub(super) fn open_plain(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve)
    }

    /// Opens the place of a mount and makes it, with its parents, if it is not there.
    pub(super) fn place(&self, path: &str, kind: Kind) -> Result<OwnedFd, InitError> {
        let mut wanted = path.to_owned();
        for _ in 0..MAX_LINKS {
            match self.open(&wanted, OFlags::PATH) {
                Err(Errno::NOENT) => {}
                result => return result.step(|| format!("open {wanted}")),
            }
            let (parent, name) = self.make_parents(&wanted)?;
            let made = match kind {
                Kind::Directory => rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)),
                Kind::File => {
                    let mode = Mode::from_raw_mode(0o644);
                    rustix::fs::mknodat(&parent, name, FileType::RegularFile, mode, 0)
                }
            };
            // A link that leads nowhere, as an image's /etc/resolv.conf may be: what it names is made.
            if made == Err(Errno::EXIST) {
                let target = rustix::fs::readlinkat(&parent, name, Vec::new());
                let target = target.step(|| format!("read link {wanted}"))?;
                let target = target.to_string_lossy();
                wanted = match target.strip_prefix('/') {
                    Some(_) => target.into_owned(),
                    None => format!(
                        "{}/{target}",
                        wanted.rsplit_once('/').map_or("", |(up, _)| up)
                    ),
                };
                continue;
            }
            made.step(|| format!("make {wanted}"))?;
        }
        Err(InitError::new(format!("open {path}"), "too many links"))
    }

    /// Makes a link unless there is something of its name.
    pub(super) fn link(&self, path: &str, target: &str) -> Result<(), InitError> {
        let (parent, name) = self.make_parents(path)?;
        match rustix::fs::symlinkat(target, &parent, name) {
            Err(Errno::EXIST) => Ok(()),
            result => result.step(|| format!("link {path}")),
        }
    }

    /// Makes the directories above `path`; gives the last of them, and the last name.
    fn make_parents<'a>(&self, path: &'a str) -> Result<(OwnedFd, &'a str), InitError> {
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut directory = self.open("/", OFlags::PATH).step(|| "open the root")?;
        let mut reached = String::new();
        for part in parents.split('/').filter(|part| !part.is_empty()) {
            reached.push('/');
            reached.push_str(part);
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let opened = match self.open(&reached, flags) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&directory, part, Mode::from_raw_mode(0o755))
                        .step(|| format!("make {reached}"))?;
                    self.open(&reached, flags)
                }
                opened => opened,
            };
            directory = opened.step(|| format!("open {reached}"))?;
        }
        Ok((directory, name))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A mount of what `source` refers to, attached nowhere yet.
pub(super) fn clone_mount(source: impl AsFd, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let depth = if recursive {
        OpenTreeFlags::AT_RECURSIVE
    } else {
        OpenTreeFlags::empty()
    };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(source, "", flags | depth)
}

/// Attaches `mount` on top of `target`.
pub(super) fn attach(mount: impl AsFd, target: impl AsFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags)
}

/// Whether `file` is a directory.
pub(super) fn kind_of(file: impl AsFd) -> rustix::io::Result<Kind> {
    let stat = rustix::fs::fstat(file)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        _ => Kind::File,
    })
}
