//! The device's state as plain data.
//!
//! Frames are not part of it: those on their way are in the host's queues, where a network may lose
//! any.

use thiserror::Error;
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::device::{DeviceKind, DeviceState};

/// Version of [`NetStateV1`].
pub const VERSION: u16 = 1;

/// A saved state that this device cannot go on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidNetState {
    /// Of another device, version or size.
    #[error("it is not one of a network device, or of an unknown version")]
    Layout,
    /// The driver used queues that are not there.
    #[error("its driver used {0} pairs of queues, and there is one")]
    Pairs(u16),
}

/// The state of a network device, format 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NetStateV1 {
    /// The guest's address when it was saved. A restored guest may be given another, which its
    /// driver does not hear of by itself.
    pub mac: [u8; 6],
    /// The MTU then.
    pub mtu: U16,
    /// Pairs of queues that the driver used: always one.
    pub pairs: U16,
}

impl NetStateV1 {
    /// As part of a snapshot.
    #[must_use]
    pub fn save(&self) -> DeviceState {
        DeviceState {
            kind: DeviceKind::Net,
            version: VERSION,
            payload: self.as_bytes().to_vec(),
        }
    }

    /// Out of a snapshot.
    ///
    /// # Errors
    /// [`InvalidNetState`] if it is of another device, version or size, or does not fit.
    pub fn restore(state: &DeviceState) -> Result<Self, InvalidNetState> {
        if state.kind != DeviceKind::Net || state.version != VERSION {
            return Err(InvalidNetState::Layout);
        }
        let saved = Self::read_from_bytes(&state.payload).map_err(|_| InvalidNetState::Layout)?;
        match saved.pairs.get() {
            1 => Ok(saved),
            pairs => Err(InvalidNetState::Pairs(pairs)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: NetStateV1 = NetStateV1 {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: U16::new(1500),
        pairs: U16::new(1),
    };

    #[test]
    fn the_layout_is_what_snapshots_hold() {
        let saved = STATE.save();
        assert_eq!(saved.payload, [2, 0, 0, 0, 0, 1, 0xdc, 5, 1, 0]);
        assert_eq!(NetStateV1::restore(&saved), Ok(STATE));
    }

    #[test]
    fn case_21_a_state_that_is_none_is_refused() {
        for change in [
            |state: &mut DeviceState| state.payload.truncate(9),
            |state: &mut DeviceState| state.payload.push(0),
            |state: &mut DeviceState| state.payload.clear(),
            |state: &mut DeviceState| state.version = 2,
            |state: &mut DeviceState| state.kind = DeviceKind::Rng,
            |state: &mut DeviceState| state.payload[8] = 0,
            |state: &mut DeviceState| state.payload[9] = 1,
        ] {
            let mut bad = STATE.save();
            change(&mut bad);
            assert!(NetStateV1::restore(&bad).is_err(), "{bad:?}");
        }
    }
}
