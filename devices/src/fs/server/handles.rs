//! The files and directories that the guest has open.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError, RwLock};

use rustix::io::Errno;

use super::nodes::Node;

/// What an open file may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// READDIR.
    Directory,
    /// READ, WRITE and the like.
    File { read: bool, write: bool },
}

/// An open file or directory.
#[derive(Debug)]
pub(super) struct Handle {
    /// `None` for the root, which is no directory of the host.
    pub node: Option<Arc<Node>>,
    pub fd: Option<Arc<OwnedFd>>,
    pub purpose: Use,
    /// `O_*` as the guest gave them, for opening it again elsewhere.
    pub flags: u32,
}

#[derive(Default)]
struct Table {
    open: HashMap<u64, Arc<Handle>>,
    last: u64,
}

pub(super) struct Handles {
    table: RwLock<Table>,
    limit: usize,
}

impl Handles {
    pub fn new(limit: usize) -> Self {
        Self {
            table: RwLock::default(),
            limit,
        }
    }

    /// Whether one more fits; for those who must know before they change the host's files.
    pub fn check_room(&self) -> Result<(), Errno> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        if table.open.len() >= self.limit {
            return Err(Errno::NFILE);
        }
        Ok(())
    }

    pub fn insert(&self, handle: Handle) -> Result<u64, Errno> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.open.len() >= self.limit {
            return Err(Errno::NFILE);
        }
        // Under the lock: the removal of an export marks it first and then closes what is here.
        if let Some(node) = &handle.node {
            node.export.root()?;
        }
        table.last += 1;
        let fh = table.last;
        table.open.insert(fh, Arc::new(handle));
        Ok(fh)
    }

    /// The open file `fh` of node `id`: the guest names both, and they must agree.
    pub fn get(&self, fh: u64, id: u64) -> Result<Arc<Handle>, Errno> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let handle = table.open.get(&fh).ok_or(Errno::BADF)?;
        if handle.id() != id {
            return Err(Errno::BADF);
        }
        Ok(Arc::clone(handle))
    }

    pub fn remove(&self, fh: u64, id: u64) -> Result<(), Errno> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.open.get(&fh).is_none_or(|handle| handle.id() != id) {
            return Err(Errno::BADF);
        }
        let closed = table.open.remove(&fh);
        // Closing may take its time and needs no lock.
        drop(table);
        drop(closed);
        Ok(())
    }

    /// A descriptor of node `id`, if it is open.
    pub fn any_of(&self, id: u64) -> Option<Arc<OwnedFd>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let handle = table.open.values().find(|handle| handle.id() == id)?;
        handle.fd.clone()
    }

    /// Closes all of the export with number `export`.
    pub fn close_export(&self, export: u32) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.open.retain(|_, handle| {
            let of = handle.node.as_ref().map(|node| node.key.export);
            of != Some(export)
        });
    }

    pub fn len(&self) -> usize {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.open.len()
    }

    /// Every open file with its number.
    pub fn all(&self) -> Vec<(u64, Arc<Handle>)> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let handles = table.open.iter();
        handles
            .map(|(fh, handle)| (*fh, Arc::clone(handle)))
            .collect()
    }

    /// Puts an open file back under its old number.
    pub fn put_back(&self, fh: u64, handle: Handle) -> Result<(), Errno> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if fh > table.last || table.open.len() >= self.limit || table.open.contains_key(&fh) {
            return Err(Errno::INVAL);
        }
        table.open.insert(fh, Arc::new(handle));
        Ok(())
    }

    /// The last number given.
    pub fn last(&self) -> u64 {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.last
    }

    /// Gives no number up to `last` again.
    pub fn go_on_after(&self, last: u64) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.last = table.last.max(last.min(u64::MAX / 2));
    }

    /// Closes all. Numbers go on.
    pub fn clear(&self) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.open = HashMap::new();
    }
}

impl Handle {
    fn id(&self) -> u64 {
        self.node.as_ref().map_or(super::ROOT, |node| node.id)
    }

    /// The node and descriptor of an open regular file.
    pub fn file(&self) -> Result<(&Arc<Node>, &OwnedFd), Errno> {
        match (&self.node, &self.fd, self.purpose) {
            (Some(node), Some(fd), Use::File { .. }) => Ok((node, fd)),
            (_, _, Use::Directory) => Err(Errno::ISDIR),
            _ => Err(Errno::BADF),
        }
    }

    /// As [`file`](Self::file), if it was opened for reading.
    pub fn readable(&self) -> Result<(&Arc<Node>, &OwnedFd), Errno> {
        match self.purpose {
            Use::File { read: false, .. } => Err(Errno::BADF),
            _ => self.file(),
        }
    }

    /// As [`file`](Self::file), if it was opened for writing.
    pub fn writable(&self) -> Result<(&Arc<Node>, &OwnedFd), Errno> {
        match self.purpose {
            Use::File { write: false, .. } => Err(Errno::BADF),
            _ => self.file(),
        }
    }
}
