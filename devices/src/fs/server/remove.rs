//! Names that go away or change: UNLINK, RMDIR, RENAME.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, RenameFlags, Statx};
use rustix::io::Errno;

use super::Server;
use super::fds::stat_at;
use super::nodes::Node;
use super::request::{NAMES_BYTES, Request, split_name};
use crate::fs::spec::{Rename2In, RenameIn};

const RENAME_FLAGS: RenameFlags = RenameFlags::NOREPLACE
    .union(RenameFlags::EXCHANGE)
    .union(RenameFlags::WHITEOUT);

impl Server {
    pub(super) fn unlink(&self, rq: &mut Request<'_>, directory: bool) -> Result<(), Errno> {
        let mut buffer = [0; NAMES_BYTES];
        let (name, _) = split_name(rq.rest(&mut buffer)?)?;
        let (parent, dir) = self.writable_dir(rq.header.nodeid)?;
        let before = stat_at(&*dir, name)?;
        let flags = if directory {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        rustix::fs::unlinkat(&*dir, name, flags)?;
        self.note_unlinked(&parent, &before);
        Ok(())
    }

    pub(super) fn rename(&self, rq: &mut Request<'_>, with_flags: bool) -> Result<(), Errno> {
        let (newdir, flags) = if with_flags {
            let args: Rename2In = rq.arg()?;
            (args.newdir, args.flags)
        } else {
            (rq.arg::<RenameIn>()?.newdir, 0)
        };
        let flags = RenameFlags::from_bits_retain(flags);
        if !RENAME_FLAGS.contains(flags) {
            return Err(Errno::INVAL);
        }
        let mut buffer = [0; NAMES_BYTES];
        let (old_name, rest) = split_name(rq.rest(&mut buffer)?)?;
        let (new_name, _) = split_name(rest)?;
        let (from, from_dir) = self.writable_dir(rq.header.nodeid)?;
        let (to, to_dir) = self.writable_dir(newdir)?;
        if from.export.id != to.export.id {
            return Err(Errno::XDEV);
        }
        let replaced = stat_at(&*to_dir, new_name).ok();
        rustix::fs::renameat_with(&*from_dir, old_name, &*to_dir, new_name, flags)?;
        self.note_moved(&to, &to_dir, new_name);
        if flags.contains(RenameFlags::EXCHANGE) {
            self.note_moved(&from, &from_dir, old_name);
        } else if let Some(replaced) = replaced {
            // Renaming one link of a file onto another does nothing at all.
            if stat_at(&*to_dir, new_name).is_ok_and(|now| now.stx_ino != replaced.stx_ino) {
                self.note_unlinked(&to, &replaced);
            }
        }
        Ok(())
    }

    /// The place of what is now called `name` in `parent` has changed.
    fn note_moved(&self, parent: &Node, dir: &OwnedFd, name: &CStr) {
        if let Ok(stat) = stat_at(dir, name) {
            self.nodes.moved(&parent.export, parent.id, name, &stat);
        }
    }

    /// One name of what `before` describes is gone.
    fn note_unlinked(&self, parent: &Node, before: &Statx) {
        let is_dir = FileType::from_raw_mode(before.stx_mode.into()) == FileType::Directory;
        if is_dir || before.stx_nlink <= 1 {
            self.nodes.unlinked(&parent.export, before);
        }
    }
}
