//! A transport as plain data, and the way back, on which nothing of it is taken on trust.

use serde::{Deserialize, Serialize};

use super::{FAILED, MmioTransport, NEEDS_RESET, QueueSetup, Slot, TransportError};
use crate::device::{DeviceKind, DeviceState};
use crate::queue::SavedQueue;

/// The registers, the queues' set-up and everything else of a transport as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedTransport {
    kind: DeviceKind,
    status: u32,
    interrupt_status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    setups: Vec<QueueSetup>,
    /// Present when the device was live.
    live: Option<SavedLive>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedLive {
    pub queues: Vec<Option<SavedQueue>>,
    pub device: DeviceState,
}

impl MmioTransport {
    /// The state of a paused or idle transport.
    #[must_use]
    pub fn save(&self) -> SavedTransport {
        SavedTransport {
            kind: self.kind,
            status: self.status(),
            interrupt_status: self.interrupt.status(),
            device_features_sel: self.device_features_sel,
            driver_features_sel: self.driver_features_sel,
            driver_features: self.driver_features,
            queue_sel: self.queue_sel,
            setups: self.setups.clone(),
            live: self.paused.clone(),
        }
    }

    /// Takes over `saved` into a transport that no driver has touched; a device that was live is left
    /// paused.
    ///
    /// # Errors
    /// [`TransportError::State`] when `saved` is of another device or offers what this one does not.
    pub fn restore(&mut self, saved: SavedTransport) -> Result<(), TransportError> {
        let refuse = |reason| {
            Err(TransportError::State {
                kind: self.kind,
                reason,
            })
        };
        if self.status != 0 || !matches!(self.slot, Slot::Idle(_)) {
            return refuse("a driver uses this device already");
        }
        if saved.kind != self.kind {
            return refuse("it is of another kind of device");
        }
        if saved.driver_features & !self.device_features != 0 {
            return refuse("the driver negotiated features that are not offered any more");
        }
        if saved.setups.len() != self.setups.len()
            || saved
                .live
                .as_ref()
                .is_some_and(|live| live.queues.len() != self.setups.len())
        {
            return refuse("the number of queues differs");
        }
        if saved
            .setups
            .iter()
            .zip(&self.setups)
            .any(|(theirs, ours)| theirs.max != ours.max)
        {
            return refuse("the size of a queue differs");
        }
        // A device is live exactly when the driver has come that far and nothing has failed since.
        let failed = NEEDS_RESET | FAILED;
        let reached = match saved.status & !failed {
            0 | 1 | 3 | 11 => false,
            15 => true,
            _ => return refuse("the device status is none that a driver can reach"),
        };
        if saved.live.is_some() != reached && (saved.live.is_some() || saved.status & failed == 0) {
            return refuse("the device status does not go with the queues");
        }
        self.status = saved.status;
        self.interrupt.set_status(saved.interrupt_status);
        self.device_features_sel = saved.device_features_sel;
        self.driver_features_sel = saved.driver_features_sel;
        self.driver_features = saved.driver_features;
        self.queue_sel = saved.queue_sel;
        self.setups = saved.setups;
        self.paused = saved.live;
        self.publish();
        Ok(())
    }
}
