//! A container's root file system, made of what a container engine says to mount.
//!
//! It is mounted nowhere: the descriptor is all there is of it, and the mount goes with its last
//! one. So nothing is left on the host, whoever dies first.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, open_tree,
};
use thiserror::Error;

use crate::config::{Share, ShareError};

/// What Share errors call the path.
const PARAMETER: &str = "rootfs";

/// One mount that makes up a root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Type of the file system, or `bind`.
    pub kind: String,
    /// Device, directory or word.
    pub source: String,
    /// Options as mount(8) takes them.
    pub options: Vec<String>,
}

/// A root file system that cannot be made.
#[derive(Debug, Error)]
pub enum RootfsError {
    /// More than one mount on top of each other.
    #[error("rootfs: {0} mounts are asked for; one is supported")]
    Stacked(usize),
    /// A source that is no absolute path.
    #[error("rootfs: {0:?} is no absolute path")]
    Relative(String),
    /// The kernel refused.
    #[error("rootfs: {operation} of {kind} {source_name}: {error}")]
    Mount {
        /// What was done.
        operation: String,
        /// Type of the file system.
        kind: String,
        /// What was to be mounted.
        source_name: String,
        /// The system's reason, which is part of the message.
        error: io::Error,
    },
    /// The directory cannot be shared.
    #[error(transparent)]
    Share(#[from] ShareError),
}

/// Makes the root file system and gives it as the share `name`. Without mounts it is the directory
/// `dir`.
///
/// # Errors
/// [`RootfsError`].
pub fn share(name: &str, dir: &Path, mounts: &[Mount]) -> Result<Share, RootfsError> {
    match mounts {
        [] => {
            let share = Share::open(PARAMETER, name, dir, false)?;
            directory(share, dir.to_owned())
        }
        [mount] => {
            let read_only = mount.options.iter().any(|option| option == "ro");
            let (file, is_detached, path) = if mount.kind == "bind"
                || mount
                    .options
                    .iter()
                    .any(|option| option == "rbind" || option == "bind")
            {
                bind(mount)?
            } else {
                (detached(mount)?, true, PathBuf::from(&mount.source))
            };
            let mut share = Share::of_file(PARAMETER, name, file, &path, read_only)?;
            share.detached = is_detached;
            directory(share, path)
        }
        more => Err(RootfsError::Stacked(more.len())),
    }
}

fn directory(share: Share, path: PathBuf) -> Result<Share, RootfsError> {
    if share.is_dir {
        Ok(share)
    } else {
        let parameter = PARAMETER;
        Err(ShareError::NotADirectory { parameter, path }.into())
    }
}

fn bind(mount: &Mount) -> Result<(OwnedFd, bool, PathBuf), RootfsError> {
    let path = PathBuf::from(&mount.source);
    if !path.is_absolute() {
        return Err(RootfsError::Relative(mount.source.clone()));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(&path, flags, Mode::empty()).map_err(failed("open", mount))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    // Without the privilege to copy the mount, what is mounted there is what is shared.
    Ok(match open_tree(&dir, c"", flags) {
        Ok(copy) => (copy, true, path),
        Err(_) => (dir, false, path),
    })
}

fn detached(mount: &Mount) -> Result<OwnedFd, RootfsError> {
    let kind = mount.kind.as_str();
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("fsopen", mount))?;
    fsconfig_set_string(&context, "source", mount.source.as_str())
        .map_err(failed("option source", mount))?;
    let mut attributes = MountAttrFlags::empty();
    for option in &mount.options {
        match option.as_str() {
            "rw" | "defaults" | "" => {}
            "ro" => attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY,
            "nosuid" => attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID,
            "nodev" => attributes |= MountAttrFlags::MOUNT_ATTR_NODEV,
            "noexec" => attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC,
            "noatime" => attributes |= MountAttrFlags::MOUNT_ATTR_NOATIME,
            "relatime" => attributes |= MountAttrFlags::MOUNT_ATTR_RELATIME,
            other => match other.split_once('=') {
                Some((key, value)) => fsconfig_set_string(&context, key, value),
                None => fsconfig_set_flag(&context, other),
            }
            .map_err(failed(&format!("option {other}"), mount))?,
        }
    }
    fsconfig_create(&context).map_err(failed("mount", mount))?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed("mount", mount))
}

fn failed(operation: &str, mount: &Mount) -> impl FnOnce(rustix::io::Errno) -> RootfsError {
    let (operation, kind) = (operation.to_owned(), mount.kind.clone());
    let source_name = mount.source.clone();
    move |errno| RootfsError::Mount {
        operation,
        kind,
        source_name,
        error: errno.into(),
    }
}
