//! Preparing volumes on the host, behind an open directory of the pod's own.
//!
//! ```text
//!   DIR/NAME/                     emptyDir
//!   DIR/NAME/KEY ─▶ ..data/KEY    configMap, secret, downwardAPI, projected
//!   DIR/NAME/..data ─▶ ..N        one link decides which files are seen, and is replaced at once
//!   DIR/NAME/..N/KEY
//! ```
//!
//! Everything is made below the directory by names that the manifest's checks have gone through; no link
//! is followed on the way. Only a hostPath is a path of the host, and what is found there is checked on
//! the descriptor that is handed on.

mod files;
mod host;
pub mod sub_path;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Gid, Mode, OFlags};
use thiserror::Error;

use crate::plan::{Content, VolumePlan};
use crate::pod::HostPathType;

/// Everybody may use an emptyDir, as in Kubernetes.
const EMPTY_DIR: u32 = 0o777;
/// Files that are made have the directory's group.
const SET_GROUP: u32 = 0o2000;
/// Reading and searching, for everybody.
const DIR: u32 = 0o755;

/// Why a volume cannot be prepared.
#[derive(Debug, Error)]
pub enum VolumeError {
    /// A step of making it failed.
    #[error("volume {volume}: {step}")]
    Make {
        /// Volume.
        volume: String,
        /// What was tried.
        step: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A hostPath that cannot be opened or made.
    #[error("volume {volume}: hostPath {path}: {}", host::explain(.cause))]
    Host {
        /// Volume.
        volume: String,
        /// Path.
        path: PathBuf,
        /// The system's reason, which is part of the message.
        cause: io::Error,
    },
    /// Something else is there than the type says.
    #[error(
        "volume {volume}: hostPath {path}: is {found}, and the type {wanted:?} asks for another: {remedy}"
    )]
    Type {
        /// Volume.
        volume: String,
        /// Path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
        /// What has to be there.
        wanted: HostPathType,
        /// What to do.
        remedy: &'static str,
    },
}

/// A volume that can be shared with the guest.
#[derive(Debug)]
pub enum Prepared {
    /// A file or directory of the host.
    Share {
        /// Opened to be named only (O_PATH).
        file: OwnedFd,
        /// Whether nothing in it changes.
        unchanging: bool,
    },
    /// Memory of the guest, of this size at most.
    Memory {
        /// Bytes.
        size: Option<u64>,
    },
}

/// Prepares a volume below `dir`, a directory of the pod's own. A volume that is there is kept: the pod is
/// started again then.
///
/// # Errors
/// [`VolumeError`].
pub fn prepare(dir: impl AsFd, volume: &VolumePlan) -> Result<Prepared, VolumeError> {
    let step = |step: &'static str| move |source| failed(volume, step, source);
    match &volume.content {
        Content::Memory { size } => Ok(Prepared::Memory { size: *size }),
        Content::Host { path, kind } => host::open(&volume.name, path.as_ref(), *kind),
        Content::Directory => Ok(Prepared::Share {
            file: directory(dir, volume, EMPTY_DIR).map_err(step("making its directory"))?,
            unchanging: false,
        }),
        Content::Files(planned) => {
            let own = directory(dir, volume, DIR).map_err(step("making its directory"))?;
            files::write(&own, planned, volume.group).map_err(step("writing its files"))?;
            Ok(Prepared::Share {
                file: own,
                unchanging: true,
            })
        }
    }
}

fn failed(volume: &VolumePlan, step: &str, source: io::Error) -> VolumeError {
    VolumeError::Make {
        volume: volume.name.clone(),
        step: step.to_owned(),
        source,
    }
}

/// The volume's own directory, with its mode and group.
fn directory(dir: impl AsFd, volume: &VolumePlan, mode: u32) -> io::Result<OwnedFd> {
    let name = volume.name.as_str();
    match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o700)) {
        Err(rustix::io::Errno::EXIST) | Ok(()) => {}
        Err(error) => return Err(error.into()),
    }
    let own = open_directory(&dir, name)?;
    let group = volume.group;
    if let Some(group) = group {
        rustix::fs::fchown(&own, None, Some(Gid::from_raw(group)))?;
    }
    let mode = mode | if group.is_some() { SET_GROUP } else { 0 };
    rustix::fs::fchmod(&own, Mode::from_raw_mode(mode))?;
    Ok(own)
}

/// A directory of this name itself, never what a link of the name leads to.
fn open_directory(dir: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
