//! Directories: OPENDIR, READDIR, READDIRPLUS.
//!
//! The host's entries are read into the worker's buffer and written one by one, each as long as its
//! name says and padded with zeros, so a reply holds nothing but what was put into it.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::Server;
use super::file::sync;
use super::handles::{Handle, Use};
use super::nodes::Node;
use super::request::{Request, Scratch, put};
use crate::fs::export::CachePolicy;
use crate::fs::spec::{
    Dirent, EntryOut, FsyncIn, OpenIn, OpenOut, ROOT, ReadIn, UNKNOWN_INO, fopen,
};
use crate::queue::ChainWriter;

/// Most bytes of one reply: what a guest asks for is a page, rarely more.
const MAX_REPLY: usize = 64 * 1024;
/// Room for one entry of the host with the longest name.
const MIN_DIRENTS: usize = 512;

impl Server {
    pub(super) fn opendir(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
    ) -> Result<(), Errno> {
        let args: OpenIn = rq.arg()?;
        let id = rq.header.nodeid;
        let (node, fd) = if id == ROOT {
            (None, None)
        } else {
            let node = self.nodes.get(id)?;
            if node.kind != FileType::Directory {
                return Err(Errno::NOTDIR);
            }
            self.handles.check_room()?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let fd = self.reopen(&*self.fd(&node)?, node.kind, &node.export, flags)?;
            (Some(node), Some(Arc::new(fd)))
        };
        let cache = node.as_ref().map(|node| node.export.cache);
        let fh = self.handles.insert(Handle {
            node,
            fd,
            purpose: Use::Directory,
            flags: args.flags,
        })?;
        let open_flags = match cache {
            Some(CachePolicy::Always) => fopen::KEEP_CACHE | fopen::CACHE_DIR,
            _ => 0,
        };
        let reply = OpenOut {
            fh,
            open_flags,
            padding: 0,
        };
        put(out, &reply)
    }

    pub(super) fn readdir(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
        scratch: &mut Scratch,
        plus: bool,
    ) -> Result<(), Errno> {
        let args: ReadIn = rq.arg()?;
        let handle = self.handles.get(args.fh, rq.header.nodeid)?;
        if handle.purpose != Use::Directory {
            return Err(Errno::NOTDIR);
        }
        let limit = (args.size as usize).min(out.available()).min(MAX_REPLY);
        let mut list = List {
            out: std::mem::take(&mut scratch.out),
            limit,
            plus,
        };
        list.out.clear();
        let listed = match (&handle.node, &handle.fd) {
            (Some(node), Some(fd)) => {
                self.list_dir(node, fd, args.offset, &mut list, &mut scratch.dirents)
            }
            _ => self.list_exports(args.offset, &mut list),
        };
        scratch.out = list.out;
        // What was listed before an error counts; the guest comes back for the rest and meets it.
        if scratch.out.is_empty() {
            listed?;
        }
        out.write_all(&scratch.out).map_err(|_| Errno::INVAL)
    }

    fn list_dir(
        &self,
        node: &Node,
        fd: &OwnedFd,
        offset: u64,
        list: &mut List,
        buffer: &mut [MaybeUninit<u8>],
    ) -> Result<(), Errno> {
        // Two threads of the guest may share the handle, so its position counts for nothing.
        if i64::try_from(offset).is_err() {
            return Err(Errno::INVAL);
        }
        rustix::fs::seek(fd, SeekFrom::Start(offset))?;
        // About as many entries of the host as fit into the reply.
        let share = if list.plus {
            list.limit / 4
        } else {
            list.limit
        };
        let share = share.clamp(MIN_DIRENTS, buffer.len());
        let mut entries = RawDir::new(fd, &mut buffer[..share]);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            let dirent = Dirent {
                // The parent of an export is nobody's business.
                ino: if name == c".." {
                    UNKNOWN_INO
                } else {
                    entry.ino()
                },
                off: entry.next_entry_cookie(),
                namelen: name.count_bytes() as u32,
                kind: type_bits(entry.file_type()),
            };
            let fits = list.add(dirent, name, || {
                if name == c"." || name == c".." {
                    return Ok(EntryOut::default());
                }
                match self.enter(node, fd, name) {
                    // Gone meanwhile, or too many nodes: listed, but not looked up.
                    Err(_) => Ok(EntryOut::default()),
                    entry => entry,
                }
            })?;
            if !fits || (entries.is_buffer_empty() && !list.out.is_empty()) {
                break;
            }
        }
        Ok(())
    }

    fn list_exports(&self, offset: u64, list: &mut List) -> Result<(), Errno> {
        let dots = [(c".", 1u64), (c"..", 2)];
        for (name, number) in dots {
            if number > offset && !list.add_simple(name, number, FileType::Directory)? {
                return Ok(());
            }
        }
        // An export's number is its place in the list, also when others come and go.
        for export in self.exports.list() {
            let number = u64::from(export.id) + 2;
            if number <= offset {
                continue;
            }
            let dirent = Dirent {
                ino: number,
                off: number,
                namelen: export.name.count_bytes() as u32,
                kind: type_bits(export.kind),
            };
            let fits = list.add(dirent, &export.name, || {
                Ok(self.enter_export(&export.name).unwrap_or_default())
            })?;
            if !fits {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn fsyncdir(&self, rq: &mut Request<'_>) -> Result<(), Errno> {
        let args: FsyncIn = rq.arg()?;
        let handle = self.handles.get(args.fh, rq.header.nodeid)?;
        if handle.purpose != Use::Directory {
            return Err(Errno::NOTDIR);
        }
        match &handle.fd {
            Some(fd) => sync(fd, args.fsync_flags),
            None => Ok(()),
        }
    }
}

/// Entries on their way to the guest.
struct List {
    out: Vec<u8>,
    limit: usize,
    plus: bool,
}

impl List {
    /// Adds an entry if it fits; only then is it looked up, since the guest has to forget it again.
    fn add(
        &mut self,
        dirent: Dirent,
        name: &CStr,
        look_up: impl FnOnce() -> Result<EntryOut, Errno>,
    ) -> Result<bool, Errno> {
        let name = name.to_bytes();
        let head = if self.plus { size_of::<EntryOut>() } else { 0 };
        let len = (head + size_of::<Dirent>() + name.len()).next_multiple_of(8);
        let end = self.out.len() + len;
        if end > self.limit {
            return Ok(false);
        }
        if self.plus {
            self.out.extend_from_slice(look_up()?.as_bytes());
        }
        self.out.extend_from_slice(dirent.as_bytes());
        self.out.extend_from_slice(name);
        self.out.resize(end, 0);
        Ok(true)
    }

    fn add_simple(&mut self, name: &CStr, number: u64, kind: FileType) -> Result<bool, Errno> {
        let dirent = Dirent {
            ino: ROOT,
            off: number,
            namelen: name.count_bytes() as u32,
            kind: type_bits(kind),
        };
        self.add(dirent, name, || Ok(EntryOut::default()))
    }
}

/// `DT_*`.
fn type_bits(kind: FileType) -> u32 {
    (kind.as_raw_mode() >> 12) & 0xf
}
