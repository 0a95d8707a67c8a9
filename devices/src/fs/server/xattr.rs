//! Extended attributes, as far as the export's [`XattrPolicy`] goes.
//!
//! They are read and written through a descriptor that was opened for reading, so they exist for
//! regular files and directories only. On others Linux allows `user.*` neither.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, XattrFlags};
use rustix::io::Errno;

use super::Server;
use super::nodes::Node;
use super::request::{Request, Scratch, put, split_cstr};
use crate::fs::export::XattrPolicy;
use crate::fs::spec::{GetxattrIn, GetxattrOut, NAME_MAX, ROOT, SetxattrExt, SetxattrIn, init};
use crate::queue::ChainWriter;

/// Longest value and longest list (`XATTR_SIZE_MAX`).
const MAX_VALUE: usize = 64 * 1024;

impl Server {
    pub(super) fn setxattr(
        &self,
        rq: &mut Request<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Errno> {
        let args: SetxattrIn = rq.arg()?;
        if self.session.has(init::SETXATTR_EXT) {
            let _: SetxattrExt = rq.arg()?;
        }
        if args.size as usize > MAX_VALUE {
            return Err(Errno::TOOBIG);
        }
        scratch.value.resize(NAME_MAX + 1 + MAX_VALUE, 0);
        let (name, value) = split_cstr(rq.rest(&mut scratch.value)?)?;
        let value = value.get(..args.size as usize).ok_or(Errno::INVAL)?;
        let node = self.writable_node(rq.header.nodeid)?;
        check_write(node.export.xattr, name)?;
        let flags = XattrFlags::from_bits(args.flags)
            .filter(|flags| (XattrFlags::CREATE | XattrFlags::REPLACE).contains(*flags))
            .ok_or(Errno::INVAL)?;
        rustix::fs::fsetxattr(self.xattr_fd(&node, Errno::OPNOTSUPP)?, name, value, flags)
    }

    pub(super) fn getxattr(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Errno> {
        let args: GetxattrIn = rq.arg()?;
        let mut buffer = [0; NAME_MAX + 1];
        let (name, _) = split_cstr(rq.rest(&mut buffer)?)?;
        let node = self.xattr_node(rq.header.nodeid, Errno::NODATA)?;
        let fd = self.xattr_fd(&node, Errno::NODATA)?;
        let value = value_room(scratch, args.size);
        let len = rustix::fs::fgetxattr(fd, name, &mut *value)?;
        reply_value(args.size, value, len, out)
    }

    pub(super) fn listxattr(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Errno> {
        let args: GetxattrIn = rq.arg()?;
        let listed = self
            .xattr_node(rq.header.nodeid, Errno::NODATA)
            .and_then(|node| self.xattr_fd(&node, Errno::NODATA));
        let fd = match listed {
            Err(Errno::NODATA) => return reply_value(args.size, &[], 0, out),
            fd => fd?,
        };
        let value = value_room(scratch, args.size);
        let len = rustix::fs::flistxattr(fd, &mut *value)?;
        reply_value(args.size, value, len, out)
    }

    pub(super) fn removexattr(&self, rq: &mut Request<'_>) -> Result<(), Errno> {
        let mut buffer = [0; NAME_MAX + 1];
        let (name, _) = split_cstr(rq.rest(&mut buffer)?)?;
        let node = self.writable_node(rq.header.nodeid)?;
        check_write(node.export.xattr, name)?;
        rustix::fs::fremovexattr(self.xattr_fd(&node, Errno::NODATA)?, name)
    }

    /// The node, unless it has no attributes: then `none`.
    fn xattr_node(&self, id: u64, none: Errno) -> Result<Arc<Node>, Errno> {
        if id == ROOT {
            return Err(none);
        }
        let node = self.nodes.get(id)?;
        if node.export.xattr == XattrPolicy::Off {
            return Err(Errno::OPNOTSUPP);
        }
        Ok(node)
    }

    fn xattr_fd(&self, node: &Arc<Node>, none: Errno) -> Result<OwnedFd, Errno> {
        if !matches!(node.kind, FileType::RegularFile | FileType::Directory) {
            return Err(none);
        }
        let fd = self.fd(node)?;
        self.reopen(&fd, node.kind, &node.export, OFlags::RDONLY)
    }
}

/// Whether a guest may write the attribute `name`.
fn check_write(policy: XattrPolicy, name: &CStr) -> Result<(), Errno> {
    let name = name.to_bytes();
    let allowed = match policy {
        XattrPolicy::Off => false,
        XattrPolicy::User => name.starts_with(b"user."),
        XattrPolicy::Overlay => name.starts_with(b"user.") || name.starts_with(b"trusted.overlay."),
    };
    // As from a file system that has no such attributes: programs go on without them.
    if allowed {
        Ok(())
    } else {
        Err(Errno::OPNOTSUPP)
    }
}

/// Room for a value of which the guest takes `size` bytes; for all of it if it asks for the size.
fn value_room(scratch: &mut Scratch, size: u32) -> &mut [u8] {
    let room = match size {
        0 => MAX_VALUE,
        size => (size as usize).min(MAX_VALUE),
    };
    scratch.value.resize(MAX_VALUE, 0);
    &mut scratch.value[..room]
}

fn reply_value(
    size: u32,
    value: &[u8],
    len: usize,
    out: &mut ChainWriter<'_>,
) -> Result<(), Errno> {
    if size == 0 {
        let reply = GetxattrOut {
            size: len as u32,
            padding: 0,
        };
        return put(out, &reply);
    }
    let value = value.get(..len).ok_or(Errno::RANGE)?;
    out.write_all(value).map_err(|_| Errno::RANGE)
}
