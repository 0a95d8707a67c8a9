//! New names: CREATE, MKNOD, MKDIR, SYMLINK, LINK, TMPFILE.
//!
//! # Who owns them
//! A file is made by the VMM and then given to the user and group of the guest's process. Until
//! then it has no set-id bits, so nothing privileged ever belongs to the VMM's user by accident.
//! No thread changes its own identity; there is no moment in which one does the wrong thing under a
//! borrowed one, and the VMM's supplementary groups play no part (CVE-2022-0358).
//!
//! # Which kinds
//! Regular files, directories, links, FIFOs and sockets. Of device nodes only the character device
//! 0/0, by which overlayfs marks what was deleted: it leads nowhere. Any other would be a door to
//! the host's devices, for the guest by way of another process on the host, and is refused with
//! `EPERM` whatever rights the VMM has.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Statx, Uid};
use rustix::io::Errno;

use super::Server;
use super::attr::unmapped_is_refused;
use super::fds::{open_beneath, stat_at, stat_fd};
use super::handles::{Handle, Use};
use super::nodes::Node;
use super::request::{NAMES_BYTES, Request, put, split_cstr, split_name};
use crate::fs::config::Ownership;
use crate::fs::spec::{
    CreateIn, EntryOut, InHeader, LinkIn, MkdirIn, MknodIn, OPEN_KILL_SUIDGID, OpenOut,
};
use crate::queue::ChainWriter;

const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o0010;
/// Bits that are set once the owner is right.
pub(super) const SET_ID: u32 = 0o6000;

impl Server {
    pub(super) fn create(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
    ) -> Result<(), Errno> {
        let args: CreateIn = rq.arg()?;
        let mut buffer = [0; NAMES_BYTES];
        let (name, _) = split_name(rq.rest(&mut buffer)?)?;
        let (parent, dir) = self.writable_dir(rq.header.nodeid)?;
        self.handles.check_room()?;
        let flags = self.open_flags(args.flags)?;
        let new = flags | OFlags::CREATE | OFlags::EXCL;
        let made = self.with_fds(|| open_beneath(&*dir, name, new, plain(args.mode)));
        let (entry, file) = match made {
            Ok(file) => {
                let made = Made::Open(&file, Some(name));
                self.hand_over(&rq.header, &dir, made, args.mode)?;
                let stat = stat_fd(&file)?;
                (self.entry(&parent.export, parent.id, name, &stat)?, file)
            }
            Err(Errno::EXIST) if args.flags & OFlags::EXCL.bits() == 0 => {
                // Somebody else was faster; then it is opened as OPEN would.
                let entry = self.enter(&parent, &dir, name)?;
                match self.open_existing(&entry, flags, args.open_flags) {
                    Ok(file) => (entry, file),
                    Err(errno) => {
                        self.nodes.forget(entry.nodeid, 1);
                        return Err(errno);
                    }
                }
            }
            Err(errno) => return Err(errno),
        };
        self.reply_created(entry, file, args.flags, out)
    }

    pub(super) fn tmpfile(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
    ) -> Result<(), Errno> {
        let args: CreateIn = rq.arg()?;
        let mut buffer = [0; NAMES_BYTES];
        // The name is only what the guest calls it; it never reaches the host.
        let (name, _) = split_cstr(rq.rest(&mut buffer)?)?;
        let (parent, dir) = self.writable_dir(rq.header.nodeid)?;
        self.handles.check_room()?;
        let flags = self.open_flags(args.flags)? | OFlags::TMPFILE;
        let mode = plain(args.mode);
        let file =
            self.with_fds(|| rustix::fs::openat(&*dir, c".", flags | OFlags::CLOEXEC, mode))?;
        self.hand_over(&rq.header, &dir, Made::Open(&file, None), args.mode)?;
        let stat = stat_fd(&file)?;
        let entry = self.entry(&parent.export, parent.id, name, &stat)?;
        self.reply_created(entry, file, args.flags, out)
    }

    pub(super) fn mknod(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
    ) -> Result<(), Errno> {
        let args: MknodIn = rq.arg()?;
        let kind = match FileType::from_raw_mode(args.mode) {
            // Linux leaves the type out for a regular file.
            FileType::Unknown if args.mode & 0o170_000 == 0 => FileType::RegularFile,
            kind @ (FileType::RegularFile | FileType::Fifo | FileType::Socket) => kind,
            FileType::CharacterDevice if args.rdev == 0 => FileType::CharacterDevice,
            _ => return Err(Errno::PERM),
        };
        self.make(rq, out, args.mode, |dir, name, mode| {
            rustix::fs::mknodat(dir, name, kind, mode, 0)
        })
    }

    pub(super) fn mkdir(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
    ) -> Result<(), Errno> {
        let args: MkdirIn = rq.arg()?;
        self.make(rq, out, args.mode, |dir, name, mode| {
            rustix::fs::mkdirat(dir, name, mode)
        })
    }

    pub(super) fn symlink(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
    ) -> Result<(), Errno> {
        let mut buffer = [0; NAMES_BYTES];
        let (name, rest) = split_name(rq.rest(&mut buffer)?)?;
        let (target, _) = split_cstr(rest)?;
        let (parent, dir) = self.writable_dir(rq.header.nodeid)?;
        rustix::fs::symlinkat(target, &*dir, name)?;
        self.reply_made(rq, out, (&parent, &dir), name, 0)
    }

    pub(super) fn link(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
    ) -> Result<(), Errno> {
        let args: LinkIn = rq.arg()?;
        let mut buffer = [0; NAMES_BYTES];
        let (name, _) = split_name(rq.rest(&mut buffer)?)?;
        let node = self.writable_node(args.oldnodeid)?;
        let (parent, dir) = self.writable_dir(rq.header.nodeid)?;
        if node.export.id != parent.export.id {
            return Err(Errno::XDEV);
        }
        let fd = self.fd(&node)?;
        let number = rustix::path::DecInt::from_fd(&*fd);
        // What is followed is the link of procfs to the open file, never one of the guest's.
        let flags = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(&self.proc_fds, number.as_c_str(), &*dir, name, flags)?;
        let stat = stat_at(&*dir, name)?;
        put(out, &self.entry(&parent.export, parent.id, name, &stat)?)
    }

    /// Makes a name with `make`, given the directory, the name and the permissions to start with.
    fn make(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
        mode: u32,
        make: impl FnOnce(&OwnedFd, &CStr, Mode) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut buffer = [0; NAMES_BYTES];
        let (name, _) = split_name(rq.rest(&mut buffer)?)?;
        let (parent, dir) = self.writable_dir(rq.header.nodeid)?;
        make(&dir, name, plain(mode))?;
        self.reply_made(rq, out, (&parent, &dir), name, mode)
    }

    fn reply_made(
        &self,
        rq: &Request<'_>,
        out: &mut ChainWriter<'_>,
        (parent, dir): (&Arc<Node>, &OwnedFd),
        name: &CStr,
        mode: u32,
    ) -> Result<(), Errno> {
        self.hand_over(&rq.header, dir, Made::Named(name), mode)?;
        put(out, &self.enter(parent, dir, name)?)
    }

    fn reply_created(
        &self,
        entry: EntryOut,
        file: OwnedFd,
        flags: u32,
        out: &mut ChainWriter<'_>,
    ) -> Result<(), Errno> {
        let node = self.nodes.get(entry.nodeid)?;
        let open_flags = super::file::reply_flags(node.export.cache);
        let handle = Handle {
            purpose: Use::of(flags),
            fd: Some(Arc::new(file)),
            node: Some(node),
            flags,
        };
        let fh = self.handles.insert(handle).inspect_err(|_| {
            self.nodes.forget(entry.nodeid, 1);
        })?;
        put(out, &entry)?;
        let reply = OpenOut {
            fh,
            open_flags,
            padding: 0,
        };
        put(out, &reply)
    }

    fn open_existing(
        &self,
        entry: &EntryOut,
        flags: OFlags,
        open_flags: u32,
    ) -> Result<OwnedFd, Errno> {
        let node = self.nodes.get(entry.nodeid)?;
        let fd = self.fd(&node)?;
        let file = self.open_file(&node, &fd, flags)?;
        if flags.contains(OFlags::TRUNC) && open_flags & OPEN_KILL_SUIDGID != 0 {
            self.drop_privileges(node.kind, &file)?;
        }
        Ok(file)
    }

    /// Gives what was made in `dir` to the caller and sets the bits of `mode` that had to wait.
    fn hand_over(
        &self,
        caller: &InHeader,
        dir: &OwnedFd,
        made: Made<'_>,
        mode: u32,
    ) -> Result<(), Errno> {
        let stat = match made {
            Made::Open(file, _) => stat_fd(file)?,
            Made::Named(name) => stat_at(dir, name)?,
        };
        let mut set_id = mode & SET_ID;
        let mut gid = caller.gid;
        if stat.stx_gid != caller.gid {
            let above = stat_fd(dir)?;
            if u32::from(above.stx_mode) & S_ISGID != 0 {
                // The directory gives its group to what is in it. A stranger to that group does
                // not get set-group-id for it.
                gid = stat.stx_gid;
                let is_dir = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
                if !is_dir && caller.uid != 0 && mode & S_IXGRP != 0 {
                    set_id &= !S_ISGID;
                }
            }
        }
        if self.config.ownership == Ownership::Requested
            && (stat.stx_uid != caller.uid || stat.stx_gid != gid)
        {
            match give(dir, made, caller.uid, gid) {
                Ok(()) => {}
                // Not privileged: the file stays the VMM's own, as documented, and must not give
                // its rights to whoever runs it.
                Err(Errno::PERM) => set_id = 0,
                Err(errno) => {
                    take_back(dir, made, &stat);
                    return Err(errno);
                }
            }
        }
        if set_id == 0 {
            return Ok(());
        }
        let mode = u32::from(stat.stx_mode) & 0o7777 | set_id;
        match made {
            Made::Open(file, _) => self.chmod(FileType::RegularFile, file, mode),
            Made::Named(name) => {
                let fd = open_beneath(dir, name, OFlags::PATH, Mode::empty())?;
                let kind = FileType::from_raw_mode(stat_fd(&fd)?.stx_mode.into());
                self.chmod(kind, &fd, mode)
            }
        }
    }
}

/// Something new.
#[derive(Clone, Copy)]
enum Made<'a> {
    /// Opened as it was made; without a name if it is a temporary file.
    Open(&'a OwnedFd, Option<&'a CStr>),
    /// Made by name only.
    Named(&'a CStr),
}

fn give(dir: &OwnedFd, made: Made<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
    if uid == u32::MAX || gid == u32::MAX {
        return Err(Errno::INVAL);
    }
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    let given = match made {
        Made::Open(file, _) => rustix::fs::fchown(file, uid, gid),
        Made::Named(name) => {
            rustix::fs::chownat(dir.as_fd(), name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        }
    };
    given.map_err(unmapped_is_refused)
}

/// Removes what could not be given to its owner, so that the failed request leaves nothing.
fn take_back(dir: &OwnedFd, made: Made<'_>, stat: &Statx) {
    let (Made::Named(name) | Made::Open(_, Some(name))) = made else {
        return;
    };
    let is_dir = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
    let flags = if is_dir {
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    };
    // If it is gone already, all the better.
    let _ = rustix::fs::unlinkat(dir, name, flags);
}

/// The permissions to make something with: without set-id bits.
fn plain(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777 & !SET_ID)
}
