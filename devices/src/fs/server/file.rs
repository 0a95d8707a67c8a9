//! Open files: OPEN, READ, WRITE and what else is done with them.
//!
//! READ and WRITE move data between the file and guest memory in one system call and copy nothing.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FileType, OFlags, SeekFrom};
use rustix::io::Errno;

use super::Server;
use super::handles::{Handle, Use};
use super::nodes::Node;
use super::request::{Request, Scratch, put};
use crate::fs::export::CachePolicy;
use crate::fs::spec::{
    CopyFileRangeIn, FSYNC_FDATASYNC, FallocateIn, FsyncIn, LseekIn, LseekOut, OPEN_KILL_SUIDGID,
    OpenIn, OpenOut, ROOT, ReadIn, ReleaseIn, WRITE_KILL_SUIDGID, WriteIn, WriteOut, fopen,
};
use crate::queue::ChainWriter;
use crate::transfer::{self, Write};

/// Most bytes that one COPY_FILE_RANGE moves: a worker is not lent out for longer than that.
const MAX_COPY: u64 = 64 << 20;
/// What of the guest's `O_*` reaches the host. `O_APPEND` goes with each WRITE instead, since it can
/// change while the file is open; `O_DIRECT` is about the guest's cache, not the host's.
const PASSED_FLAGS: OFlags = OFlags::RWMODE
    .union(OFlags::TRUNC)
    .union(OFlags::DSYNC)
    .union(OFlags::SYNC);
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

impl Use {
    /// Use of a file that was opened with the guest's `flags`.
    pub fn of(flags: u32) -> Self {
        let mode = OFlags::from_bits_retain(flags) & OFlags::RWMODE;
        Self::File {
            read: mode != OFlags::WRONLY,
            write: mode != OFlags::RDONLY,
        }
    }
}

/// What the guest is told to do with its cache when a file is opened.
pub(super) fn reply_flags(cache: CachePolicy) -> u32 {
    match cache {
        CachePolicy::Never => fopen::DIRECT_IO,
        CachePolicy::Auto => 0,
        CachePolicy::Always => fopen::KEEP_CACHE,
    }
}

impl Server {
    /// What of the guest's flags the host is asked for.
    pub(super) fn open_flags(&self, flags: u32) -> Result<OFlags, Errno> {
        let flags = OFlags::from_bits_retain(flags) & PASSED_FLAGS;
        if flags & OFlags::RWMODE == OFlags::RWMODE {
            return Err(Errno::INVAL);
        }
        Ok(flags)
    }

    /// Opens the regular file `node`, of which `fd` is a descriptor, within its export's terms.
    pub(super) fn open_file(
        &self,
        node: &Node,
        fd: &OwnedFd,
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        match node.kind {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            FileType::Symlink => return Err(Errno::LOOP),
            // The guest's kernel serves these itself and never asks.
            _ => return Err(Errno::NXIO),
        }
        let reads_only = flags & OFlags::RWMODE == OFlags::RDONLY && !flags.contains(OFlags::TRUNC);
        if node.export.read_only && !reads_only {
            return Err(Errno::ROFS);
        }
        self.reopen(fd, node.kind, &node.export, flags)
    }

    pub(super) fn open(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
    ) -> Result<(), Errno> {
        let args: OpenIn = rq.arg()?;
        if rq.header.nodeid == ROOT {
            return Err(Errno::ISDIR);
        }
        let node = self.nodes.get(rq.header.nodeid)?;
        self.handles.check_room()?;
        let flags = self.open_flags(args.flags)?;
        let file = self.open_file(&node, &*self.fd(&node)?, flags)?;
        if flags.contains(OFlags::TRUNC) && args.open_flags & OPEN_KILL_SUIDGID != 0 {
            self.drop_privileges(node.kind, &file)?;
        }
        let open_flags = reply_flags(node.export.cache);
        let fh = self.handles.insert(Handle {
            purpose: Use::of(args.flags),
            fd: Some(Arc::new(file)),
            node: Some(node),
            flags: args.flags,
        })?;
        let reply = OpenOut {
            fh,
            open_flags,
            padding: 0,
        };
        put(out, &reply)
    }

    pub(super) fn release(&self, rq: &mut Request<'_>) -> Result<(), Errno> {
        let args: ReleaseIn = rq.arg()?;
        self.handles.remove(args.fh, rq.header.nodeid)
    }

    /// Reads into `out` and gives the number of bytes: `out` itself is as long as the guest's room.
    pub(super) fn read(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
        scratch: &mut Scratch,
    ) -> Result<usize, Errno> {
        let args: ReadIn = rq.arg()?;
        let handle = self.handles.get(args.fh, rq.header.nodeid)?;
        let (_, file) = handle.readable()?;
        let len = (args.size as usize).min(out.available());
        let mut slices = scratch.take_slices();
        let read = out
            .slices(len, &mut slices)
            .map_err(|_| Errno::INVAL)
            .and_then(|()| transfer::pread_into(file, &slices, &mut scratch.vecs, args.offset));
        scratch.put_slices(slices);
        read
    }

    pub(super) fn write(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Errno> {
        let args: WriteIn = rq.arg()?;
        let handle = self.handles.get(args.fh, rq.header.nodeid)?;
        let (node, file) = handle.writable()?;
        if node.export.read_only {
            return Err(Errno::ROFS);
        }
        if args.write_flags & WRITE_KILL_SUIDGID != 0 {
            self.drop_privileges(node.kind, file)?;
        }
        let how = match args.flags & OFlags::APPEND.bits() {
            0 => Write::Cached,
            _ => Write::Append,
        };
        let mut slices = scratch.take_slices();
        let written = rq.data(args.size as usize, &mut slices).and_then(|()| {
            transfer::pwrite_from(file, &slices, &mut scratch.vecs, args.offset, how)
        });
        scratch.put_slices(slices);
        reply_size(written? as u64, out)
    }

    pub(super) fn fsync(&self, rq: &mut Request<'_>) -> Result<(), Errno> {
        let args: FsyncIn = rq.arg()?;
        let handle = self.handles.get(args.fh, rq.header.nodeid)?;
        let (_, file) = handle.file()?;
        sync(file, args.fsync_flags)
    }

    pub(super) fn fallocate(&self, rq: &mut Request<'_>) -> Result<(), Errno> {
        let args: FallocateIn = rq.arg()?;
        let handle = self.handles.get(args.fh, rq.header.nodeid)?;
        let (_, file) = handle.writable()?;
        let mode = FallocateFlags::from_bits_retain(args.mode);
        let known =
            FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        if !known.contains(mode) {
            return Err(Errno::OPNOTSUPP);
        }
        check_range(args.offset, args.length)?;
        rustix::fs::fallocate(file, mode, args.offset, args.length)
    }

    pub(super) fn lseek(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
    ) -> Result<(), Errno> {
        let args: LseekIn = rq.arg()?;
        let handle = self.handles.get(args.fh, rq.header.nodeid)?;
        let (_, file) = handle.file()?;
        check_range(args.offset, 0)?;
        let to = match args.whence {
            SEEK_DATA => SeekFrom::Data(args.offset),
            SEEK_HOLE => SeekFrom::Hole(args.offset),
            // The guest's kernel knows the others by itself.
            _ => return Err(Errno::INVAL),
        };
        let offset = rustix::fs::seek(file, to)?;
        put(out, &LseekOut { offset })
    }

    pub(super) fn copy_file_range(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
    ) -> Result<(), Errno> {
        let args: CopyFileRangeIn = rq.arg()?;
        let from = self.handles.get(args.fh_in, rq.header.nodeid)?;
        let to = self.handles.get(args.fh_out, args.nodeid_out)?;
        let ((_, from), (_, to)) = (from.readable()?, to.writable()?);
        if args.flags != 0 {
            return Err(Errno::INVAL);
        }
        let len = args.len.min(MAX_COPY);
        check_range(args.off_in, len)?;
        check_range(args.off_out, len)?;
        let (mut off_in, mut off_out) = (args.off_in, args.off_out);
        let copied = rustix::fs::copy_file_range(
            from,
            Some(&mut off_in),
            to,
            Some(&mut off_out),
            len as usize,
        )?;
        self.limiter.take_more(copied as u64);
        reply_size(copied as u64, out)
    }

    /// Writes back what the host caches of every export that the guest may write to.
    pub(super) fn syncfs(&self) -> Result<(), Errno> {
        for export in self.exports.list() {
            if !export.read_only {
                let root = export.root()?;
                let opened = self.reopen(&root, export.kind, &export, OFlags::RDONLY)?;
                rustix::fs::syncfs(opened)?;
            }
        }
        Ok(())
    }
}

pub(super) fn sync(file: &OwnedFd, flags: u32) -> Result<(), Errno> {
    if flags & FSYNC_FDATASYNC != 0 {
        rustix::fs::fdatasync(file)
    } else {
        rustix::fs::fsync(file)
    }
}

fn reply_size(size: u64, out: &mut ChainWriter<'_>) -> Result<(), Errno> {
    let reply = WriteOut {
        size: u32::try_from(size).map_err(|_| Errno::IO)?,
        padding: 0,
    };
    put(out, &reply)
}

/// Offsets are signed on the host.
fn check_range(offset: u64, len: u64) -> Result<(), Errno> {
    let end = offset.checked_add(len).ok_or(Errno::INVAL)?;
    i64::try_from(end).map(|_| ()).map_err(|_| Errno::INVAL)
}
