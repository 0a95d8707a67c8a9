//! The nodes that the guest holds.
//!
//! A node is remembered by where it was last seen, `(parent, name)`, and by what it is, [`Key`]. It
//! needs no descriptor: one is opened when an operation wants one, and what is found at the place
//! is checked against the key (see [`fds`](super::fds)). A node stays as long as the guest has
//! lookups on it that it has not given back, or children that are remembered relative to it.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustix::fs::{FileType, Statx};
use rustix::io::Errno;

use crate::fs::export::LiveExport;
use crate::fs::spec::ROOT;

/// Deepest directory that is found again by its path.
pub(super) const MAX_DEPTH: usize = 4096;

/// What makes two names the same file. The mount counts: the same file can be read-only through
/// one and writable through the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub export: u32,
    pub mount: u64,
    pub device: u64,
    pub inode: u64,
}

impl Key {
    pub fn new(export: &LiveExport, stat: &Statx) -> Self {
        Self {
            export: export.id,
            mount: stat.stx_mnt_id,
            device: u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor),
            inode: stat.stx_ino,
        }
    }
}

/// Where a node was last seen.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub parent: u64,
    pub name: Box<CStr>,
}

/// One file, directory or other thing that the guest holds.
#[derive(Debug)]
pub(super) struct Node {
    pub id: u64,
    pub key: Key,
    pub kind: FileType,
    pub export: Arc<LiveExport>,
    lookups: AtomicU64,
    place: Mutex<Place>,
    /// A descriptor, while it is among the most recently used.
    pub fd: Mutex<Option<Arc<OwnedFd>>>,
    /// Set by use, cleared when the cache of descriptors looks for one to close.
    pub used: AtomicBool,
}

impl Node {
    /// Whether `stat` is of this node.
    pub fn is(&self, stat: &Statx) -> bool {
        self.key == Key::new(&self.export, stat)
            && self.kind == FileType::from_raw_mode(stat.stx_mode.into())
    }

    /// Whether this is the directory or file that an export was made of.
    pub fn is_export_root(&self) -> bool {
        self.place(|place| place.parent == ROOT)
    }

    pub fn place<T>(&self, look: impl FnOnce(&Place) -> T) -> T {
        look(&self.place.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn lookups(&self) -> u64 {
        self.lookups.load(Ordering::Relaxed)
    }
}

struct Held {
    node: Arc<Node>,
    /// Nodes whose place is relative to this one.
    children: usize,
}

#[derive(Default)]
struct Tables {
    by_id: HashMap<u64, Held>,
    by_key: HashMap<Key, u64>,
    last: u64,
}

/// All nodes but the root.
pub(super) struct Nodes {
    tables: RwLock<Tables>,
    limit: usize,
}

impl Nodes {
    pub fn new(limit: usize) -> Self {
        let tables = Tables {
            last: ROOT,
            ..Tables::default()
        };
        Self {
            tables: RwLock::new(tables),
            limit,
        }
    }

    pub fn get(&self, id: u64) -> Result<Arc<Node>, Errno> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let held = tables.by_id.get(&id).ok_or(Errno::STALE)?;
        Ok(Arc::clone(&held.node))
    }

    pub fn len(&self) -> usize {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        tables.by_id.len()
    }

    /// Counts one lookup of what `stat` describes, seen at `name` in `parent`.
    pub fn look_up(
        &self,
        export: &Arc<LiveExport>,
        parent: u64,
        name: &CStr,
        stat: &Statx,
    ) -> Result<Arc<Node>, Errno> {
        let key = Key::new(export, stat);
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        {
            let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(node) = tables.find(&key, kind)
                && node.place(|place| place.parent == parent && *place.name == *name)
            {
                node.lookups.fetch_add(1, Ordering::Relaxed);
                return Ok(Arc::clone(node));
            }
        }
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = tables.find(&key, kind).cloned() {
            node.lookups.fetch_add(1, Ordering::Relaxed);
            tables.put(&node, parent, name);
            return Ok(node);
        }
        let id = tables.last + 1;
        let found = Found {
            export,
            parent,
            name,
            stat,
        };
        let node = tables.insert(id, 1, &found, self.limit)?;
        tables.last = id;
        Ok(node)
    }

    /// Puts a node back that was saved with its number and its lookups.
    pub fn insert(
        &self,
        id: u64,
        lookups: u64,
        export: &Arc<LiveExport>,
        parent: u64,
        name: &CStr,
        stat: &Statx,
    ) -> Result<(), Errno> {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        if id <= ROOT || id > tables.last || tables.by_id.contains_key(&id) {
            return Err(Errno::INVAL);
        }
        let found = Found {
            export,
            parent,
            name,
            stat,
        };
        tables.insert(id, lookups, &found, self.limit).map(|_| ())
    }

    /// The last number given.
    pub fn last(&self) -> u64 {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        tables.last
    }

    /// Gives no number up to `last` again.
    pub fn go_on_after(&self, last: u64) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        tables.last = tables.last.max(last.min(u64::MAX / 2));
    }

    /// Gives back `count` lookups of `id`. More than there are count as all.
    pub fn forget(&self, id: u64, count: u64) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = tables.by_id.get(&id) {
            let left = held.node.lookups().saturating_sub(count);
            held.node.lookups.store(left, Ordering::Relaxed);
            tables.prune(id);
        }
    }

    /// Notes that what `stat` describes has moved to `name` in `parent`.
    pub fn moved(&self, export: &LiveExport, parent: u64, name: &CStr, stat: &Statx) {
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = tables.find(&Key::new(export, stat), kind).cloned() {
            tables.put(&node, parent, name);
        }
    }

    /// Notes that the last name of what `stat` describes is gone, so that its number may come back
    /// for another file.
    pub fn unlinked(&self, export: &LiveExport, stat: &Statx) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        tables.by_key.remove(&Key::new(export, stat));
    }

    /// The way down to `node`: from the nearest directory with an open descriptor, the names in
    /// reverse order.
    pub fn way_to(&self, node: &Arc<Node>) -> Result<(Arc<OwnedFd>, Vec<Box<CStr>>), Errno> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let mut names = Vec::new();
        let mut at = Arc::clone(node);
        loop {
            let place = at.place(Place::clone);
            if place.parent == ROOT {
                return Ok((at.export.root()?, names));
            }
            names.push(place.name);
            if names.len() > MAX_DEPTH {
                return Err(Errno::STALE);
            }
            let parent = tables.by_id.get(&place.parent).ok_or(Errno::STALE)?;
            at = Arc::clone(&parent.node);
            let fd = at.fd.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(fd) = fd {
                at.used.store(true, Ordering::Relaxed);
                return Ok((fd, names));
            }
        }
    }

    /// Every node, for those that must visit all.
    pub fn all(&self) -> Vec<Arc<Node>> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let nodes = tables.by_id.values().map(|held| Arc::clone(&held.node));
        nodes.collect()
    }

    /// Forgets all. Numbers go on, so that an old one never means a new node.
    pub fn clear(&self) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        tables.by_id = HashMap::new();
        tables.by_key = HashMap::new();
    }
}

/// What a lookup came upon.
struct Found<'a> {
    export: &'a Arc<LiveExport>,
    parent: u64,
    name: &'a CStr,
    stat: &'a Statx,
}

impl Tables {
    fn insert(
        &mut self,
        id: u64,
        lookups: u64,
        found: &Found<'_>,
        limit: usize,
    ) -> Result<Arc<Node>, Errno> {
        if self.by_id.len() >= limit {
            return Err(Errno::NFILE);
        }
        if found.parent != ROOT {
            let above = self.by_id.get_mut(&found.parent).ok_or(Errno::STALE)?;
            above.children += 1;
        }
        let node = Arc::new(Node {
            id,
            key: Key::new(found.export, found.stat),
            kind: FileType::from_raw_mode(found.stat.stx_mode.into()),
            export: Arc::clone(found.export),
            lookups: AtomicU64::new(lookups),
            place: Mutex::new(Place {
                parent: found.parent,
                name: found.name.into(),
            }),
            fd: Mutex::new(None),
            used: AtomicBool::new(false),
        });
        // If the host gave the number to a new file, the old node stays but is not found any more.
        self.by_key.insert(node.key, id);
        let held = Held {
            node: Arc::clone(&node),
            children: 0,
        };
        self.by_id.insert(id, held);
        Ok(node)
    }

    fn find(&self, key: &Key, kind: FileType) -> Option<&Arc<Node>> {
        let held = self.by_id.get(self.by_key.get(key)?)?;
        (held.node.kind == kind).then_some(&held.node)
    }

    /// Changes the place of `node`, unless it would then be below itself: two exports of one
    /// directory, or somebody on the host, can move things behind the back of what is known here.
    fn put(&mut self, node: &Arc<Node>, parent: u64, name: &CStr) {
        let mut above = parent;
        for _ in 0..=MAX_DEPTH {
            if above == ROOT {
                break;
            }
            match self.by_id.get(&above) {
                Some(held) if above != node.id => above = held.node.place(|place| place.parent),
                _ => return,
            }
        }
        if above != ROOT {
            return;
        }
        if let Some(held) = self.by_id.get_mut(&parent) {
            held.children += 1;
        }
        let place = Place {
            parent,
            name: name.into(),
        };
        let old = std::mem::replace(
            &mut *node.place.lock().unwrap_or_else(PoisonError::into_inner),
            place,
        );
        self.leave(old.parent);
    }

    fn leave(&mut self, parent: u64) {
        if let Some(held) = self.by_id.get_mut(&parent) {
            held.children = held.children.saturating_sub(1);
            self.prune(parent);
        }
    }

    /// Drops `id` if nothing holds it, then its parents likewise: a loop, as the depth is the guest's.
    fn prune(&mut self, mut id: u64) {
        while let Some(held) = self.by_id.get(&id) {
            if held.children > 0 || held.node.lookups() > 0 {
                return;
            }
            let (key, parent) = (held.node.key, held.node.place(|place| place.parent));
            self.by_id.remove(&id);
            if self.by_key.get(&key) == Some(&id) {
                self.by_key.remove(&key);
            }
            match self.by_id.get_mut(&parent) {
                Some(above) => above.children = above.children.saturating_sub(1),
                None => return,
            }
            id = parent;
        }
    }
}
