//! Names to nodes and back: LOOKUP, FORGET, READLINK, STATFS.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, Statx};
use rustix::io::Errno;

use super::Server;
use super::attr::{attr_of, root_attr};
use super::fds::{stat_at, stat_fd};
use super::nodes::Node;
use super::request::{NAMES_BYTES, Request, put, split_name};
use crate::fs::export::{CachePolicy, LiveExport};
use crate::fs::spec::{
    ATTR_SUBMOUNT, BatchForgetIn, EntryOut, ForgetIn, ForgetOne, NAME_MAX, PATH_MAX, ROOT,
    StatfsOut, init,
};
use crate::queue::ChainWriter;

impl Server {
    pub(super) fn lookup(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
    ) -> Result<(), Errno> {
        let mut buffer = [0; NAMES_BYTES];
        let (name, _) = split_name(rq.rest(&mut buffer)?)?;
        if rq.header.nodeid == ROOT {
            return put(out, &self.enter_export(name)?);
        }
        let parent = self.nodes.get(rq.header.nodeid)?;
        if parent.kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let dir = self.fd(&parent)?;
        match self.enter(&parent, &dir, name) {
            Err(Errno::NOENT) if parent.export.cache == CachePolicy::Always => {
                // Node zero: the absence may be remembered.
                let absent = EntryOut {
                    entry_valid: CachePolicy::Always.timeout().as_secs(),
                    ..EntryOut::default()
                };
                put(out, &absent)
            }
            entry => put(out, &entry?),
        }
    }

    /// Looks `name` up in `parent`, of which `dir` is a descriptor, and counts the lookup.
    pub(super) fn enter(
        &self,
        parent: &Node,
        dir: &OwnedFd,
        name: &CStr,
    ) -> Result<EntryOut, Errno> {
        let stat = stat_at(dir, name)?;
        self.entry(&parent.export, parent.id, name, &stat)
    }

    /// Looks an export up by its name and counts the lookup.
    pub(super) fn enter_export(&self, name: &CStr) -> Result<EntryOut, Errno> {
        let export = self.exports.get(name).ok_or(Errno::NOENT)?;
        let stat = stat_fd(export.root()?)?;
        let mut entry = self.entry(&export, ROOT, name, &stat)?;
        if self.session.has(init::SUBMOUNTS) && export.kind == FileType::Directory {
            entry.attr.flags |= ATTR_SUBMOUNT;
        }
        Ok(entry)
    }

    /// The entry for what `stat` describes, found at `name` in `parent`; counts one lookup.
    pub(super) fn entry(
        &self,
        export: &Arc<LiveExport>,
        parent: u64,
        name: &CStr,
        stat: &Statx,
    ) -> Result<EntryOut, Errno> {
        let node = self.nodes.look_up(export, parent, name, stat)?;
        let valid = export.cache.timeout().as_secs();
        Ok(EntryOut {
            nodeid: node.id,
            entry_valid: valid,
            attr_valid: valid,
            attr: attr_of(stat, self.config.hides_ids),
            ..EntryOut::default()
        })
    }

    pub(super) fn forget(&self, rq: &mut Request<'_>) {
        if let Ok(ForgetIn { nlookup }) = rq.arg() {
            self.nodes.forget(rq.header.nodeid, nlookup);
        }
    }

    pub(super) fn batch_forget(&self, rq: &mut Request<'_>) {
        let count = rq.arg::<BatchForgetIn>().map_or(0, |batch| batch.count);
        for _ in 0..count {
            // The request ends before a lying count does.
            let Ok(one) = rq.arg::<ForgetOne>() else {
                return;
            };
            self.nodes.forget(one.nodeid, one.nlookup);
        }
    }

    pub(super) fn readlink(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
    ) -> Result<(), Errno> {
        let node = self.node(rq.header.nodeid)?;
        if node.kind != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        let fd = self.fd(&node)?;
        let mut target = [0u8; PATH_MAX];
        let len = rustix::fs::readlinkat_raw(&*fd, c"", &mut target)?;
        out.write_all(&target[..len]).map_err(|_| Errno::INVAL)
    }

    pub(super) fn statfs(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
    ) -> Result<(), Errno> {
        if rq.header.nodeid == ROOT {
            let empty = StatfsOut {
                bsize: 4096,
                frsize: 4096,
                namelen: NAME_MAX as u32,
                ..StatfsOut::default()
            };
            return put(out, &empty);
        }
        let node = self.nodes.get(rq.header.nodeid)?;
        // Any descriptor on the same mount does; a file's parent is more likely to have one.
        let fd = self.fd(&node).or_else(|_| node.export.root())?;
        let fs = rustix::fs::fstatvfs(&*fd)?;
        let reply = StatfsOut {
            blocks: fs.f_blocks,
            bfree: fs.f_bfree,
            bavail: fs.f_bavail,
            files: fs.f_files,
            ffree: fs.f_ffree,
            bsize: fs.f_bsize as u32,
            namelen: fs.f_namemax as u32,
            frsize: fs.f_frsize as u32,
            ..StatfsOut::default()
        };
        put(out, &reply)
    }

    /// Attributes of the root: a read-only directory.
    pub(super) fn root_entry(&self) -> crate::fs::spec::Attr {
        root_attr(self.exports.list().len() as u32)
    }
}
