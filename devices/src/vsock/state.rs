//! The device's state as plain data.
//!
//! Connections are not part of it: their other ends are processes of a host that goes on without
//! the saved guest. A driver that finds itself restored is told so by a transport reset event.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::device::{DeviceKind, DeviceState};

/// Version of [`VsockStateV1`].
pub const VERSION: u16 = 1;

/// The state of a socket device, format 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VsockStateV1 {
    /// The guest's address when it was saved. A restored guest may have another.
    pub guest_cid: U64,
    /// The port that the next connection of the host comes from: ports that the guest still
    /// believes to be in use are not given again.
    pub next_host_port: U32,
}

impl VsockStateV1 {
    /// As part of a snapshot.
    #[must_use]
    pub fn save(&self) -> DeviceState {
        DeviceState {
            kind: DeviceKind::Vsock,
            version: VERSION,
            payload: self.as_bytes().to_vec(),
        }
    }

    /// Out of a snapshot; `None` if it is of another device, version or size.
    #[must_use]
    pub fn restore(state: &DeviceState) -> Option<Self> {
        if state.kind != DeviceKind::Vsock || state.version != VERSION {
            return None;
        }
        Self::read_from_bytes(&state.payload).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_what_snapshots_hold() {
        let state = VsockStateV1 {
            guest_cid: 3.into(),
            next_host_port: 0x4000_0001.into(),
        };
        let saved = state.save();
        assert_eq!(saved.payload, [3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0x40]);
        assert_eq!(VsockStateV1::restore(&saved), Some(state));
    }

    #[test]
    fn case_21_a_state_of_another_size_kind_or_version_is_refused() {
        let good = VsockStateV1 {
            guest_cid: 3.into(),
            next_host_port: 1.into(),
        }
        .save();
        for change in [
            |state: &mut DeviceState| state.payload.truncate(11),
            |state: &mut DeviceState| state.payload.push(0),
            |state: &mut DeviceState| state.payload.clear(),
            |state: &mut DeviceState| state.version = 2,
            |state: &mut DeviceState| state.kind = DeviceKind::Rng,
        ] {
            let mut bad = good.clone();
            change(&mut bad);
            assert_eq!(VsockStateV1::restore(&bad), None);
        }
    }
}
