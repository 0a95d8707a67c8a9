//! Tables to plain data and back.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FileType, OFlags, Statx};

use super::Server;
use super::fds::{stat_at, stat_fd};
use super::handles::{Handle, Use};
use super::nodes::Node;
use super::request::split_name;
use crate::fs::export::LiveExport;
use crate::fs::spec::ROOT;
use crate::fs::state::{FsStateV1, HandleV1, NodeV1};

/// The token of the last state that was given out, as long as the tables are as it says.
#[derive(Default)]
pub(super) struct LastSaved(Mutex<Option<u64>>);

impl LastSaved {
    fn set(&self, token: Option<u64>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    fn is(&self, token: u64) -> bool {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) == Some(token)
    }
}

impl Server {
    /// What the guest holds. The tables stay as they are.
    pub(in crate::fs) fn save(&self) -> FsStateV1 {
        let mut token = [0; 8];
        // Without randomness the token stays zero, which is never recognised.
        let _ = rustix::rand::getrandom(&mut token, rustix::rand::GetRandomFlags::empty());
        let token = u64::from_le_bytes(token);
        self.last_saved.set((token != 0).then_some(token));
        let exports = self.exports.list();
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for node in self.nodes.all() {
            let Some(export) = exports.iter().position(|e| e.id == node.key.export) else {
                continue;
            };
            nodes.push(node.place(|place| NodeV1 {
                id: node.id,
                parent: place.parent,
                lookups: node.lookups(),
                export: export as u32,
                kind: node.kind.as_raw_mode(),
                name: place.name.to_bytes().to_vec(),
            }));
        }
        let handles = self.handles.all();
        FsStateV1 {
            token,
            flags: self.session.flags(),
            last_node: self.nodes.last(),
            last_handle: self.handles.last(),
            exports: exports.iter().map(|e| e.name.to_bytes().to_vec()).collect(),
            nodes,
            handles: handles
                .iter()
                .map(|(fh, handle)| saved_handle(*fh, handle))
                .collect(),
        }
    }

    /// Goes on from `state`: with the tables as they are if they are those that were saved, else by
    /// looking everything up again. What is not found is left out.
    pub(in crate::fs) fn take_up(&self, state: &FsStateV1) {
        if self.last_saved.is(state.token) {
            return;
        }
        self.clear();
        self.session
            .set(state.flags.map(|flags| flags & self.offered()));
        self.nodes.go_on_after(state.last_node);
        self.handles.go_on_after(state.last_handle);
        let mut below: HashMap<u64, Vec<&NodeV1>> = HashMap::new();
        for node in &state.nodes {
            below.entry(node.parent).or_default().push(node);
        }
        // Parents before children, without trusting the order or the absence of loops: what was
        // taken up once is taken out of the map.
        let mut next = vec![ROOT];
        while let Some(parent) = next.pop() {
            for saved in below.remove(&parent).unwrap_or_default() {
                if self.take_up_node(saved, &state.exports).is_some() {
                    next.push(saved.id);
                }
            }
        }
        for saved in &state.handles {
            // Not found again: the guest's next use of it fails with EBADF.
            let _ = self.take_up_handle(saved);
        }
    }

    /// A device that starts afresh has nothing of what was before.
    pub(in crate::fs) fn start_afresh(&self) {
        self.last_saved.set(None);
        self.clear();
    }

    fn take_up_node(&self, saved: &NodeV1, exports: &[Vec<u8>]) -> Option<()> {
        let mut name = saved.name.clone();
        name.push(0);
        let (name, _) = split_name(&name).ok()?;
        let (export, stat) = if saved.parent == ROOT {
            let export_name = exports.get(saved.export as usize)?;
            let export = self.exports.get(&CString::new(export_name.clone()).ok()?)?;
            let stat = stat_fd(export.root().ok()?).ok()?;
            (export, stat)
        } else {
            let parent = self.nodes.get(saved.parent).ok()?;
            (Arc::clone(&parent.export), self.find(&parent, name)?)
        };
        if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::from_raw_mode(saved.kind) {
            return None;
        }
        self.insert(saved, &export, name, &stat)
    }

    fn find(&self, parent: &Arc<Node>, name: &CStr) -> Option<Statx> {
        stat_at(&*self.fd(parent).ok()?, name).ok()
    }

    fn insert(
        &self,
        saved: &NodeV1,
        export: &Arc<LiveExport>,
        name: &CStr,
        stat: &Statx,
    ) -> Option<()> {
        let (id, lookups) = (saved.id, saved.lookups);
        self.nodes
            .insert(id, lookups, export, saved.parent, name, stat)
            .ok()
    }

    fn take_up_handle(&self, saved: &HandleV1) -> Option<()> {
        let directory = saved.directory.get() != 0;
        let (id, flags) = (saved.node.get(), saved.flags.get());
        let purpose = if directory {
            Use::Directory
        } else {
            Use::of(flags)
        };
        let (node, fd) = if id == ROOT {
            (None, None)
        } else {
            let node = self.nodes.get(id).ok()?;
            let fd = self.open_again(&node, directory, flags)?;
            (Some(node), Some(Arc::new(fd)))
        };
        let handle = Handle {
            node,
            fd,
            purpose,
            flags,
        };
        self.handles.put_back(saved.fh.get(), handle).ok()
    }

    fn open_again(&self, node: &Arc<Node>, directory: bool, flags: u32) -> Option<OwnedFd> {
        let fd = self.fd(node).ok()?;
        if directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            return self.reopen(&fd, node.kind, &node.export, flags).ok();
        }
        // It was truncated when it was opened, not now.
        let flags = self.open_flags(flags).ok()? & !OFlags::TRUNC;
        self.open_file(node, &fd, flags).ok()
    }
}

fn saved_handle(fh: u64, handle: &Handle) -> HandleV1 {
    HandleV1 {
        fh: fh.into(),
        node: handle.node.as_ref().map_or(ROOT, |node| node.id).into(),
        flags: handle.flags.into(),
        directory: u32::from(handle.purpose == Use::Directory).into(),
    }
}
