//! mount_setattr(2).
#![allow(unsafe_code)] // a raw system call

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::mount::{MountAttrFlags, MountPropagationFlags};

/// `struct mount_attr` of linux/mount.h, first published size.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A change of a mount's attributes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    /// Attributes to set. An access time mode replaces the one that there is.
    pub(crate) set: MountAttrFlags,
    /// Attributes to clear.
    pub(crate) clear: MountAttrFlags,
    /// New propagation; empty leaves it.
    pub(crate) propagation: MountPropagationFlags,
}

/// Changes the mount that `mount` is the root of, and those below it if `recursive`.
pub(crate) fn set_attributes(mount: impl AsFd, change: Change, recursive: bool) -> io::Result<()> {
    let atime = MountAttrFlags::MOUNT_ATTR__ATIME;
    // NOATIME, STRICTATIME and RELATIME (which is 0) are values of one field.
    let clears_atime = change.set.intersects(atime) || change.clear.intersects(atime);
    let clear = if clears_atime {
        change.clear | atime
    } else {
        change.clear
    };
    let attributes = MountAttr {
        attr_set: change.set.bits().into(),
        attr_clr: clear.bits().into(),
        propagation: change.propagation.bits().into(),
        userns_fd: 0,
    };
    let recurse = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: mount_setattr reads a NUL-terminated path and `size` bytes of attributes; the path is a
    // literal, the structure is live and has that size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recurse,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    super::check_long(result).map(drop)
}
