//! Attributes: GETATTR and SETATTR.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Statx, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::Server;
use super::create::SET_ID;
use super::fds::stat_fd;
use super::nodes::Node;
use super::request::{Request, put};
use crate::fs::spec::{Attr, AttrOut, GETATTR_FH, GetattrIn, ROOT, SetattrIn, fattr};
use crate::queue::ChainWriter;

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o0010;
const NO_ID: u32 = u32::MAX;
/// Who files belong to whose user is not mapped (`kernel.overflowuid`, which nobody changes).
const NOBODY: u32 = 65534;

/// What the guest is told of `stat`, with ids that are hidden from this process if `hides_ids`.
pub(super) fn attr_of(stat: &Statx, hides_ids: bool) -> Attr {
    let shown = |id| {
        if hides_ids && id == NOBODY { 0 } else { id }
    };
    Attr {
        ino: stat.stx_ino,
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        atime: stat.stx_atime.tv_sec as u64,
        mtime: stat.stx_mtime.tv_sec as u64,
        ctime: stat.stx_ctime.tv_sec as u64,
        atimensec: stat.stx_atime.tv_nsec,
        mtimensec: stat.stx_mtime.tv_nsec,
        ctimensec: stat.stx_ctime.tv_nsec,
        mode: stat.stx_mode.into(),
        nlink: stat.stx_nlink,
        uid: shown(stat.stx_uid),
        gid: shown(stat.stx_gid),
        rdev: device_number(stat.stx_rdev_major, stat.stx_rdev_minor),
        blksize: stat.stx_blksize,
        flags: 0,
    }
}

/// The root: a directory that only the host changes.
pub(super) fn root_attr(exports: u32) -> Attr {
    Attr {
        ino: ROOT,
        mode: FileType::Directory.as_raw_mode() | 0o555,
        nlink: 2 + exports,
        blksize: 4096,
        ..Attr::default()
    }
}

/// A device number as Linux passes it in 32 bits.
fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

impl Server {
    pub(super) fn getattr(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
    ) -> Result<(), Errno> {
        let args: GetattrIn = rq.arg()?;
        let id = rq.header.nodeid;
        if id == ROOT {
            let reply = AttrOut {
                // Exports come and go without the guest being told.
                attr_valid: 1,
                attr: self.root_entry(),
                ..AttrOut::default()
            };
            return put(out, &reply);
        }
        let node = self.nodes.get(id)?;
        let open = if args.getattr_flags & GETATTR_FH != 0 {
            self.handles.get(args.fh, id)?.fd.clone()
        } else {
            None
        };
        let stat = match open {
            Some(fd) => stat_fd(fd)?,
            None => self.stat(&node)?,
        };
        put(out, &self.attr_out(&node, &stat))
    }

    pub(super) fn setattr(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
    ) -> Result<(), Errno> {
        let args: SetattrIn = rq.arg()?;
        let node = self.writable_node(rq.header.nodeid)?;
        let open = if args.valid & fattr::FH != 0 {
            Some(self.handles.get(args.fh, node.id)?)
        } else {
            None
        };
        let fd = match open.as_ref().and_then(|handle| handle.fd.clone()) {
            Some(fd) => fd,
            None => self.fd(&node)?,
        };
        // The owner first: changing it drops set-user-id from the mode.
        if args.valid & (fattr::UID | fattr::GID) != 0 {
            change_owner(&fd, &args)?;
        }
        if args.valid & fattr::MODE != 0 {
            self.chmod(node.kind, &fd, args.mode)?;
        }
        if args.valid & fattr::SIZE != 0 {
            let kill = args.valid & fattr::KILL_SUIDGID != 0;
            match open.as_ref().and_then(|handle| handle.writable().ok()) {
                Some((_, file)) => self.truncate(&node, file, args.size, kill)?,
                None => {
                    let file = self.open_file(&node, &fd, OFlags::WRONLY)?;
                    self.truncate(&node, &file, args.size, kill)?;
                }
            }
        }
        if args.valid & (fattr::ATIME | fattr::MTIME | fattr::ATIME_NOW | fattr::MTIME_NOW) != 0 {
            change_times(&fd, &args)?;
        }
        put(out, &self.attr_out(&node, &stat_fd(&*fd)?))
    }

    /// Sets the permissions of what `fd` stands for.
    pub(super) fn chmod(&self, kind: FileType, fd: &OwnedFd, mode: u32) -> Result<(), Errno> {
        if kind == FileType::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        let number = rustix::path::DecInt::from_fd(fd);
        let mut mode = mode & 0o7777;
        if kind != FileType::Directory && !self.gives_files_away {
            // The file is the VMM's own then, and must not give its rights to whoever runs it.
            mode &= !SET_ID;
        }
        let mode = Mode::from_raw_mode(mode);
        rustix::fs::chmodat(&self.proc_fds, number.as_c_str(), mode, AtFlags::empty())
    }

    fn truncate(
        &self,
        node: &Arc<Node>,
        file: &OwnedFd,
        size: u64,
        kill: bool,
    ) -> Result<(), Errno> {
        if i64::try_from(size).is_err() {
            return Err(Errno::INVAL);
        }
        rustix::fs::ftruncate(file, size)?;
        if kill {
            self.drop_privileges(node.kind, file)
        } else {
            Ok(())
        }
    }

    /// Takes set-user-id away, and set-group-id if the group may execute: what Linux does when
    /// somebody without CAP_FSETID changes a file. The VMM may have that capability; its guest's
    /// process has not (`HANDLE_KILLPRIV_V2`).
    pub(super) fn drop_privileges(&self, kind: FileType, file: &OwnedFd) -> Result<(), Errno> {
        let mode = u32::from(stat_fd(file)?.stx_mode);
        let mut kept = mode & !S_ISUID;
        if mode & S_IXGRP != 0 {
            kept &= !S_ISGID;
        }
        if kept == mode {
            return Ok(());
        }
        self.chmod(kind, file, kept)
    }

    fn attr_out(&self, node: &Node, stat: &Statx) -> AttrOut {
        AttrOut {
            attr_valid: node.export.cache.timeout().as_secs(),
            attr: attr_of(stat, self.config.hides_ids),
            ..AttrOut::default()
        }
    }
}

fn change_owner(fd: &OwnedFd, args: &SetattrIn) -> Result<(), Errno> {
    let pick = |flag, id| (args.valid & flag != 0 && id != NO_ID).then_some(id);
    let uid = pick(fattr::UID, args.uid).map(Uid::from_raw);
    let gid = pick(fattr::GID, args.gid).map(Gid::from_raw);
    rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH).map_err(unmapped_is_refused)
}

/// A user whom this process's user namespace does not know is one to whom it may not give files.
pub(super) fn unmapped_is_refused(errno: Errno) -> Errno {
    match errno {
        Errno::INVAL => Errno::PERM,
        other => other,
    }
}

fn change_times(fd: &OwnedFd, args: &SetattrIn) -> Result<(), Errno> {
    let pick = |set, now, seconds: u64, nanoseconds: u32| {
        let tv_nsec = if args.valid & now != 0 {
            rustix::fs::UTIME_NOW
        } else if args.valid & set != 0 {
            // The system refuses what is no nanosecond, but it must not be taken for a special value.
            if nanoseconds >= 1_000_000_000 {
                return Err(Errno::INVAL);
            }
            nanoseconds.into()
        } else {
            rustix::fs::UTIME_OMIT
        };
        Ok(Timespec {
            tv_sec: seconds as i64,
            tv_nsec,
        })
    };
    let times = Timestamps {
        last_access: pick(fattr::ATIME, fattr::ATIME_NOW, args.atime, args.atimensec)?,
        last_modification: pick(fattr::MTIME, fattr::MTIME_NOW, args.mtime, args.mtimensec)?,
    };
    rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH)
}
