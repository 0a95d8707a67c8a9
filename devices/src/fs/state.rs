//! The device's state as plain data: what was negotiated, which nodes and open files the guest
//! holds.
//!
//! Nodes are saved by name, relative to their export, since nothing else of them means anything on
//! another host or after a restart. What cannot be found again when the state is taken up (a file
//! without a name, an export that is not offered) answers `ESTALE` or `EBADF`.

use thiserror::Error;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::device::{DeviceKind, DeviceState};

/// Version of [`FsStateV1`].
pub const VERSION: u16 = 1;

/// A saved state that is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidFsState {
    /// Of another device or version.
    #[error("state is of a {kind:?} device in version {version}")]
    Foreign {
        /// The kind of device that it says.
        kind: DeviceKind,
        /// The version that it says.
        version: u16,
    },
    /// It ends too early, too late or says more than it holds.
    #[error("state is cut off or damaged at byte {at}")]
    Damaged {
        /// Where.
        at: usize,
    },
}

/// The state of a file system device, format 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsStateV1 {
    /// Tells a device that goes on in the same process that its tables are still there.
    pub token: u64,
    /// Negotiated flags of INIT, if there was one.
    pub flags: Option<u64>,
    /// The last node number given.
    pub last_node: u64,
    /// The last file handle given.
    pub last_handle: u64,
    /// Names of the exports that the nodes are of.
    pub exports: Vec<Vec<u8>>,
    /// Nodes in no particular order.
    pub nodes: Vec<NodeV1>,
    /// Open files.
    pub handles: Vec<HandleV1>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeV1 {
    /// Its number.
    pub id: u64,
    /// The directory it was seen in; the root's number for what an export was made of.
    pub parent: u64,
    /// Lookups that the guest has not given back.
    pub lookups: u64,
    /// Index of its export.
    pub export: u32,
    /// File type, as in a mode.
    pub kind: u32,
    /// Its name in that directory.
    pub name: Vec<u8>,
}

/// One open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HandleV1 {
    /// Its number.
    pub fh: U64,
    /// Its node.
    pub node: U64,
    /// `O_*` that it was opened with.
    pub flags: U32,
    /// One for a directory.
    pub directory: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Head {
    token: U64,
    flags: U64,
    last_node: U64,
    last_handle: U64,
    ready: U32,
    exports: U32,
    nodes: U32,
    handles: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct NodeHead {
    id: U64,
    parent: U64,
    lookups: U64,
    export: U32,
    kind: U32,
    name_len: U32,
    padding: U32,
}

impl FsStateV1 {
    /// As part of a snapshot.
    #[must_use]
    pub fn save(&self) -> DeviceState {
        let count = |len: usize| U32::new(u32::try_from(len).unwrap_or(u32::MAX));
        let head = Head {
            token: self.token.into(),
            flags: self.flags.unwrap_or(0).into(),
            last_node: self.last_node.into(),
            last_handle: self.last_handle.into(),
            ready: u32::from(self.flags.is_some()).into(),
            exports: count(self.exports.len()),
            nodes: count(self.nodes.len()),
            handles: count(self.handles.len()),
        };
        let mut payload = head.as_bytes().to_vec();
        for name in &self.exports {
            payload.extend_from_slice(count(name.len()).as_bytes());
            payload.extend_from_slice(name);
        }
        for node in &self.nodes {
            let head = NodeHead {
                id: node.id.into(),
                parent: node.parent.into(),
                lookups: node.lookups.into(),
                export: node.export.into(),
                kind: node.kind.into(),
                name_len: count(node.name.len()),
                padding: 0.into(),
            };
            payload.extend_from_slice(head.as_bytes());
            payload.extend_from_slice(&node.name);
        }
        for handle in &self.handles {
            payload.extend_from_slice(handle.as_bytes());
        }
        DeviceState {
            kind: DeviceKind::Fs,
            version: VERSION,
            payload,
        }
    }

    /// Out of a snapshot. Nothing is allocated beyond the size of what is there.
    ///
    /// # Errors
    /// [`InvalidFsState`] when it is of something else, or damaged.
    pub fn restore(state: &DeviceState) -> Result<Self, InvalidFsState> {
        if state.kind != DeviceKind::Fs || state.version != VERSION {
            return Err(InvalidFsState::Foreign {
                kind: state.kind,
                version: state.version,
            });
        }
        let mut input = Input {
            bytes: &state.payload,
            at: 0,
        };
        let head: Head = input.object()?;
        let mut restored = Self {
            token: head.token.get(),
            flags: (head.ready.get() != 0).then_some(head.flags.get()),
            last_node: head.last_node.get(),
            last_handle: head.last_handle.get(),
            ..Self::default()
        };
        for _ in 0..head.exports.get() {
            let len: U32 = input.object()?;
            restored
                .exports
                .push(input.take(len.get() as usize)?.to_vec());
        }
        for _ in 0..head.nodes.get() {
            let node: NodeHead = input.object()?;
            restored.nodes.push(NodeV1 {
                id: node.id.get(),
                parent: node.parent.get(),
                lookups: node.lookups.get(),
                export: node.export.get(),
                kind: node.kind.get(),
                name: input.take(node.name_len.get() as usize)?.to_vec(),
            });
        }
        for _ in 0..head.handles.get() {
            restored.handles.push(input.object()?);
        }
        if input.at != input.bytes.len() {
            return Err(InvalidFsState::Damaged { at: input.at });
        }
        Ok(restored)
    }
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], InvalidFsState> {
        let damaged = InvalidFsState::Damaged { at: self.at };
        let end = self.at.checked_add(len).ok_or(damaged)?;
        let bytes = self.bytes.get(self.at..end).ok_or(damaged)?;
        self.at = end;
        Ok(bytes)
    }

    fn object<T: FromBytes + KnownLayout + Immutable>(&mut self) -> Result<T, InvalidFsState> {
        let at = self.at;
        T::read_from_bytes(self.take(size_of::<T>())?).map_err(|_| InvalidFsState::Damaged { at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> FsStateV1 {
        FsStateV1 {
            token: 7,
            flags: Some(5),
            last_node: 9,
            last_handle: 3,
            exports: vec![b"root".to_vec()],
            nodes: vec![NodeV1 {
                id: 2,
                parent: 1,
                lookups: 1,
                export: 0,
                kind: 0o040_000,
                name: b"root".to_vec(),
            }],
            handles: vec![HandleV1 {
                fh: 3.into(),
                node: 2.into(),
                flags: 0.into(),
                directory: 1.into(),
            }],
        }
    }

    #[test]
    fn what_was_saved_comes_back() {
        assert_eq!(FsStateV1::restore(&state().save()), Ok(state()));
    }

    #[test]
    fn case_21_a_state_of_another_device_or_version_is_refused() {
        for change in [
            |state: &mut DeviceState| state.kind = DeviceKind::Rng,
            |state: &mut DeviceState| state.version = 2,
        ] {
            let mut bad = state().save();
            change(&mut bad);
            let refused = FsStateV1::restore(&bad);
            assert!(matches!(refused, Err(InvalidFsState::Foreign { .. })));
        }
    }

    #[test]
    fn case_21_lengths_that_lie_are_refused() {
        let good = state().save();
        let damaged = |payload: Vec<u8>| {
            let state = DeviceState {
                payload,
                ..good.clone()
            };
            let refused = FsStateV1::restore(&state);
            assert!(
                matches!(refused, Err(InvalidFsState::Damaged { .. })),
                "{refused:?}"
            );
        };
        for end in 0..good.payload.len() {
            damaged(good.payload[..end].to_vec());
        }
        damaged([&good.payload[..], &[0]].concat());
        // The counts of exports, nodes and handles, the length of the export's name and that of the node's.
        let name = size_of::<Head>();
        let node = name + 4 + 4 + std::mem::offset_of!(NodeHead, name_len);
        for at in [36, 40, 44, name, node] {
            for lie in [u32::MAX, i32::MAX as u32, 1 << 20] {
                let mut payload = good.payload.clone();
                payload[at..at + 4].copy_from_slice(&lie.to_le_bytes());
                damaged(payload);
            }
        }
    }
}
