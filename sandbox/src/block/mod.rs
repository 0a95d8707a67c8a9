//! Block volumes: block devices and disk images of the host as disks of the guest.
//!
//! ```text
//!   path, number ──BlockVolume::open──▶ descriptor, geometry ──Pod::add_block──▶ VMM: a disk in a slot
//!                                                                               agent: its driver, numbers
//! ```
//!
//! A disk has one cache in the guest. Two containers that name the same device on the same terms get the
//! same disk, so that they see each other's writes; one that may only read gets a disk of its own, for
//! it is on the host that it is kept from writing.

mod open;
mod table;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use devices::blk::Geometry;
use serde_json::{Value, json};
use thiserror::Error;

pub(crate) use open::reopen;
pub(crate) use table::Table;

/// Why a guest does not get a disk.
#[derive(Debug, Error)]
pub enum BlockError {
    /// It could not be opened.
    #[error("{parameter} {path}: {}", open::explain(.cause, *.writing))]
    Open {
        /// Which parameter named it.
        parameter: String,
        /// The path, or what stands for it.
        path: PathBuf,
        /// Whether it was to be written.
        writing: bool,
        /// The system's reason, which is part of the message.
        cause: io::Error,
    },
    /// A character device.
    #[error(
        "{parameter} {path}: is a character device of the host, which guests do not have; only block devices and disk images can be given"
    )]
    Character {
        /// Which parameter named it.
        parameter: String,
        /// The path.
        path: PathBuf,
    },
    /// A directory or the like.
    #[error(
        "{parameter} {path}: is neither a block device nor a regular file; share a directory as a volume instead"
    )]
    NoDisk {
        /// Which parameter named it.
        parameter: String,
        /// The path.
        path: PathBuf,
    },
    /// There is nothing in it.
    #[error("{parameter} {path}: has {bytes} bytes, and a disk has 512 at least")]
    Empty {
        /// Which parameter named it.
        parameter: String,
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// All slots are taken.
    #[error(
        "{volume}: the pod has room for {slots} block volumes at a time, and all are in use; give it fewer, or put some into another pod"
    )]
    TooMany {
        /// The one too many.
        volume: String,
        /// How many there can be.
        slots: u8,
    },
    /// The VMM would not take it.
    #[error("{volume}: {message}")]
    Vmm {
        /// Which.
        volume: String,
        /// Its reason.
        message: String,
    },
    /// The guest would not take it, or let go of it.
    #[error("{volume}: the guest's agent refused {call}")]
    Agent {
        /// Which.
        volume: String,
        /// Which call.
        call: &'static str,
        /// Its reason.
        source: ttrpc::Error,
    },
}

/// A block device or disk image of the host, held open.
#[derive(Debug)]
pub struct BlockVolume {
    /// What errors call it.
    pub(crate) name: String,
    /// Open for what it is for.
    pub(crate) file: File,
    /// Where a disk image is, for a mount of its own that it can be opened from.
    pub(crate) place: Option<OwnedFd>,
    pub(crate) geometry: Geometry,
    /// Whether it cannot be written.
    pub read_only: bool,
    /// Permissions and owner of its node or file.
    pub(crate) permissions: Permissions,
    identity: Identity,
}

/// Who may open a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permissions {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl BlockVolume {
    /// The node of this disk in a container, as an entry of `linux.devices`: whoever may open it on the
    /// host may do so there.
    #[must_use]
    pub fn node(&self, path: &str, block: &GuestBlock) -> Value {
        let Permissions { mode, uid, gid } = self.permissions;
        json!({
            "path": path,
            "type": "b",
            "major": block.major,
            "minor": block.minor,
            "fileMode": mode,
            "uid": uid,
            "gid": gid,
        })
    }
}

/// Which disk it is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identity {
    /// A block device's number.
    Device(u64),
    /// A file's file system and number.
    File(u64, u64),
}

/// A disk that the guest has been given.
#[derive(Debug, PartialEq, Eq)]
pub struct GuestBlock {
    /// Its numbers in the guest.
    pub major: u32,
    /// Likewise.
    pub minor: u32,
    address: u64,
}

impl GuestBlock {
    pub(crate) fn new(major: u32, minor: u32, address: u64) -> Self {
        Self {
            major,
            minor,
            address,
        }
    }
}
