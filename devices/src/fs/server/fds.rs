//! Descriptors of nodes: opened when they are needed, confined to the export, bounded in number.
//!
//! ```text
//!   node ── cached? ──────────────────────────────▶ descriptor
//!     └─ (parent, name), (parent, name), … up to one that is cached, or the export's own
//!          └─ openat2(that, "a/b/c", O_PATH|O_NOFOLLOW, BENEATH|NO_SYMLINKS|NO_MAGICLINKS)
//!               └─ same device, inode, mount and type as remembered? else ESTALE
//! ```
//!
//! So a guest that walks a million files costs a million small nodes and a fixed number of
//! descriptors. Which to close is found as a clock does: one that was used since the hand last
//! passed stays. A file that has no name any more is reached through what the guest has open of it.
//!
//! Between two looks the host may give a freed inode number to another file at the same place.
//! That file is then served under the old node; it is beneath the export like any other.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::Server;
use super::nodes::Node;
use crate::fs::export::LiveExport;
use crate::fs::spec::PATH_MAX;

/// The file itself, not what it points to, and only with rights to it that need no permission.
const PATH_FLAGS: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// The walls of an export. `..`, absolute paths and every kind of link are refused by the kernel.
const CONFINED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);
const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID);

/// Attributes of what `fd` stands for.
pub(super) fn stat_fd(fd: impl AsFd) -> Result<Statx, Errno> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, WANTED)
}

/// Attributes of the entry `name` of `dir`; a link is not followed, nothing is mounted by looking.
pub(super) fn stat_at(dir: impl AsFd, name: &CStr) -> Result<Statx, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(dir, name, flags, WANTED)
}

/// Opens or creates beneath `dir` with `flags`, never through a link.
pub(super) fn open_beneath(
    dir: impl AsFd,
    path: &CStr,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(dir, path, flags, mode, CONFINED)
}

/// The nodes that have a descriptor, as far as they are known to have one.
pub(super) struct NodeFds {
    ring: Mutex<Ring>,
    limit: usize,
}

#[derive(Default)]
struct Ring {
    nodes: Vec<Weak<Node>>,
    hand: usize,
}

impl NodeFds {
    pub fn new(limit: usize) -> Self {
        Self {
            ring: Mutex::default(),
            limit,
        }
    }

    /// Caches `fd` for `node`; closes others to stay within the limit.
    fn admit(&self, node: &Arc<Node>, fd: OwnedFd) -> Arc<OwnedFd> {
        let fd = Arc::new(fd);
        {
            let mut cached = node.fd.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = &*cached {
                return Arc::clone(known);
            }
            // An export that is being removed closes what is cached after it is marked; what comes
            // later must not be cached any more.
            if node.export.root().is_err() {
                return fd;
            }
            *cached = Some(Arc::clone(&fd));
        }
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.shrink(self.limit - 1);
        ring.nodes.push(Arc::downgrade(node));
        fd
    }

    /// Closes half of what is cached: the process is out of descriptors.
    fn halve(&self) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let half = ring.nodes.len() / 2;
        ring.shrink(half);
    }

    /// Descriptors cached, or about to be seen to be gone.
    pub fn len(&self) -> usize {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.nodes.len()
    }

    pub fn clear(&self) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.shrink(0);
    }
}

impl Ring {
    fn shrink(&mut self, to: usize) {
        while self.nodes.len() > to {
            if self.hand >= self.nodes.len() {
                self.hand = 0;
            }
            let node = self.nodes[self.hand].upgrade();
            if let Some(node) = node {
                let mut fd = node.fd.lock().unwrap_or_else(PoisonError::into_inner);
                // Cleared as the hand passes, so that the second round ends at the latest.
                if fd.is_some() && node.used.swap(false, Ordering::Relaxed) {
                    self.hand += 1;
                    continue;
                }
                *fd = None;
            }
            self.nodes.swap_remove(self.hand);
        }
    }
}

impl Server {
    /// A descriptor of `node`.
    pub(super) fn fd(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>, Errno> {
        if let Some(fd) = cached(node) {
            return Ok(fd);
        }
        if node.is_export_root() {
            return node.export.root();
        }
        let opened = self.with_fds(|| self.open_node(node));
        match opened {
            Ok(fd) => Ok(self.fds.admit(node, fd)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::STALE) => {
                // Without a name, or with one that is not known here: what is open of it will do.
                self.handles.any_of(node.id).ok_or(Errno::STALE)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Runs `open`, once more with fewer cached descriptors if the process is out of them.
    pub(super) fn with_fds<T>(&self, open: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
        match open() {
            Err(Errno::MFILE | Errno::NFILE) => {
                self.fds.halve();
                // The limit is the VMM's, not that of a process of the guest.
                open().map_err(|errno| match errno {
                    Errno::MFILE => Errno::NFILE,
                    errno => errno,
                })
            }
            opened => opened,
        }
    }

    /// Attributes of `node`, without a descriptor if its parent has one.
    pub(super) fn stat(&self, node: &Arc<Node>) -> Result<Statx, Errno> {
        if let Some(fd) = cached(node) {
            return stat_fd(fd);
        }
        let parent = node.place(|place| place.parent);
        if let Some(dir) = self
            .nodes
            .get(parent)
            .ok()
            .and_then(|parent| cached(&parent))
            && let Ok(stat) = node.place(|place| stat_at(dir, &place.name))
            && node.is(&stat)
        {
            return Ok(stat);
        }
        stat_fd(self.fd(node)?)
    }

    fn open_node(&self, node: &Arc<Node>) -> Result<OwnedFd, Errno> {
        let (base, mut names) = self.nodes.way_to(node)?;
        let mut from: Option<OwnedFd> = None;
        while !names.is_empty() {
            let path = next_path(&mut names)?;
            let dir = from.as_ref().map_or(base.as_fd(), AsFd::as_fd);
            from = Some(open_beneath(dir, &path, PATH_FLAGS, Mode::empty())?);
        }
        let fd = from.ok_or(Errno::STALE)?;
        if node.is(&stat_fd(&fd)?) {
            Ok(fd)
        } else {
            Err(Errno::STALE)
        }
    }

    /// Opens `node`, which `fd` stands for, for input and output. The type must have been checked:
    /// to open a device or FIFO has effects of its own.
    pub(super) fn reopen(
        &self,
        fd: &OwnedFd,
        kind: FileType,
        export: &LiveExport,
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        // Files of procfs and tracefs look regular and would let a reader wait for news for ever.
        let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let open = |flags| match kind {
            FileType::Directory => rustix::fs::openat(fd, c".", flags, Mode::empty()),
            _ => {
                let number = rustix::path::DecInt::from_fd(fd);
                rustix::fs::openat(&self.proc_fds, number.as_c_str(), flags, Mode::empty())
            }
        };
        if export.noatime.load(Ordering::Relaxed) {
            match open(flags | OFlags::NOATIME) {
                Err(Errno::PERM) => export.noatime.store(false, Ordering::Relaxed),
                opened => return opened,
            }
        }
        self.with_fds(|| open(flags))
    }
}

fn cached(node: &Node) -> Option<Arc<OwnedFd>> {
    let fd = node
        .fd
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    if fd.is_some() {
        node.used.store(true, Ordering::Relaxed);
    }
    fd
}

/// As many of `names` (the next one last) as one path holds.
fn next_path(names: &mut Vec<Box<CStr>>) -> Result<CString, Errno> {
    let mut path = Vec::with_capacity(256);
    while let Some(name) = names.last() {
        let name = name.to_bytes();
        if path.len() + 1 + name.len() + 1 > PATH_MAX {
            break;
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        names.pop();
    }
    CString::new(path).map_err(|_| Errno::INVAL)
}
