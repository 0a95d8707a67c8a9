//! virtio-mmio, modern only (virtio-v1.2 §4.2).
//!
//! ```text
//!   status:  0 → ACKNOWLEDGE → DRIVER → FEATURES_OK → DRIVER_OK      any write of 0: reset
//!   device:  Idle ───────────────────────────────────▶ Live ──stop──▶ Idle
//! ```
//!
//! Registers are only heeded in the state that the specification has for them; a write in any other
//! state changes nothing. Once the queues have moved into the device, later register writes cannot
//! reach them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::EventFd;

use super::config::ConfigSpace;
use super::interrupt::MmioInterrupt;
use super::mirror::{Mirror, RegisterPages};
use super::registers as reg;
use super::setup::QueueSetup;
use crate::Memory;
use crate::device::{
    Activation, ActiveDevice, DeviceKind, DeviceState, Interrupt, Stopped, Threads, VirtioDevice,
};
use crate::queue::{ActiveQueue, InvalidQueue, SavedQueue};

const ACKNOWLEDGE: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
const DRIVER: u32 = VIRTIO_CONFIG_S_DRIVER;
const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;
const FAILED: u32 = VIRTIO_CONFIG_S_FAILED;

/// Offered for every device: modern, indirect descriptors, event index.
const TRANSPORT_FEATURES: u64 =
    (1 << VIRTIO_F_VERSION_1) | (1 << VIRTIO_RING_F_INDIRECT_DESC) | (1 << VIRTIO_RING_F_EVENT_IDX);

/// Size of a device's register window in bytes, a page so that it can be mapped alone.
pub const WINDOW_SIZE: u64 = 0x1000;

/// Why a transport could not be made or restored.
#[derive(Debug, Error)]
pub enum TransportError {
    /// An event file descriptor could not be made.
    #[error("cannot create an event file descriptor for the {kind:?} device")]
    EventFd {
        /// Which device.
        kind: DeviceKind,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// Saved state that does not belong to this device.
    #[error("saved state does not fit the {kind:?} device: {reason}")]
    State {
        /// Which device.
        kind: DeviceKind,
        /// What does not fit.
        reason: &'static str,
    },
}

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
struct SavedLive {
    queues: Vec<Option<SavedQueue>>,
    device: DeviceState,
}

enum Slot {
    Idle(Box<dyn VirtioDevice>),
    Live(Box<dyn ActiveDevice>),
    /// On the way from one to the other.
    Moving,
}

/// One device behind its register window.
pub struct MmioTransport {
    kind: DeviceKind,
    memory: Memory,
    slot: Slot,
    device_features: u64,
    config: Arc<ConfigSpace>,
    kicks: Vec<EventFd>,
    interrupt: Arc<MmioInterrupt>,
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    setups: Vec<QueueSetup>,
    /// Queues and state kept over a pause.
    paused: Option<SavedLive>,
    mirror: Option<Mirror>,
    threads: Threads,
}

impl MmioTransport {
    /// Puts `device` behind registers. Writing to `line` raises its interrupt.
    ///
    /// # Errors
    /// [`TransportError::EventFd`] when the process is out of file descriptors.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Memory,
        line: EventFd,
    ) -> Result<Self, TransportError> {
        let kind = device.kind();
        let setups: Vec<_> = device
            .queue_sizes()
            .iter()
            .map(|size| QueueSetup::new(*size))
            .collect();
        let kicks = setups
            .iter()
            .map(|_| EventFd::new(libc::EFD_CLOEXEC))
            .collect::<Result<_, _>>()
            .map_err(|source| TransportError::EventFd { kind, source })?;
        let config = Arc::new(ConfigSpace::new(device.config()));
        let interrupt = MmioInterrupt::new(kind, line, Arc::clone(&config));
        Ok(Self {
            kind,
            memory,
            device_features: device.features() | TRANSPORT_FEATURES,
            config,
            kicks,
            interrupt: Arc::new(interrupt),
            slot: Slot::Idle(device),
            status: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            setups,
            paused: None,
            mirror: None,
            threads: Threads::default(),
        })
    }

    /// The device's type.
    #[must_use]
    pub fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// One doorbell per queue. Connect number `i` to a 32-bit write of the value `i` to
    /// [`QUEUE_NOTIFY_OFFSET`](Self::QUEUE_NOTIFY_OFFSET).
    #[must_use]
    pub fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    /// Where the doorbell register is in the window.
    pub const QUEUE_NOTIFY_OFFSET: u64 = reg::QUEUE_NOTIFY;

    /// Where the driver acknowledges interrupts. Behind [`mirror`](Self::mirror), a 32-bit write of
    /// [`ACKNOWLEDGE_USED`](Self::ACKNOWLEDGE_USED) here needs no answer.
    pub const ACKNOWLEDGE_OFFSET: u64 = reg::INTERRUPT_ACK;
    /// The acknowledgement of used buffers alone.
    pub const ACKNOWLEDGE_USED: u32 = 1;

    /// Starts the device's workers by `threads` from now on.
    pub fn start_workers_by(&mut self, threads: Threads) {
        self.threads = threads;
    }

    /// Whether a write of `data` at `offset` may start or stop workers. The others are served
    /// without a system call but for those on event file descriptors.
    #[must_use]
    pub fn moves_device(offset: u64, data: &[u8]) -> bool {
        let value = <[u8; 4]>::try_from(data).map(u32::from_le_bytes);
        offset == reg::STATUS && value.is_ok_and(|value| value == 0 || value & DRIVER_OK != 0)
    }

    /// Keeps what reads of the window give in page `device` of `pages` as well, from now on.
    pub fn mirror(&mut self, pages: &Arc<RegisterPages>, device: usize) {
        let Some(mirror) = Mirror::new(Arc::clone(pages), device) else {
            return;
        };
        for offset in (0..reg::CONFIG).step_by(4) {
            mirror.store(offset, self.read_register(offset));
        }
        self.config.mirror(mirror.clone());
        self.interrupt.set_device_status(self.status);
        self.interrupt.mirror(mirror.clone());
        self.mirror = Some(mirror);
    }

    /// Brings the mirror up to date after a register write.
    fn publish(&self) {
        // Those that a write can change; `Status` and `InterruptStatus` are the interrupt's.
        const CHANGING: [u64; 3] = [reg::DEVICE_FEATURES, reg::QUEUE_NUM_MAX, reg::QUEUE_READY];
        if let Some(mirror) = &self.mirror {
            for offset in CHANGING {
                mirror.store(offset, self.read_register(offset));
            }
            self.interrupt.set_device_status(self.status);
        }
    }

    /// Serves a read of the window. Reads that the specification does not know give zeros.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset >= reg::CONFIG {
            self.config.read(offset - reg::CONFIG, data);
            return;
        }
        // §4.2.2.2: the driver uses aligned 32-bit accesses below the configuration space.
        if data.len() == 4 && offset.is_multiple_of(4) {
            data.copy_from_slice(&self.read_register(offset).to_le_bytes());
        }
    }

    /// Serves a write to the window. Writes that the specification does not allow change nothing.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else {
            return;
        };
        let value = u32::from_le_bytes(bytes);
        match offset {
            reg::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            reg::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            reg::DRIVER_FEATURES => self.write_driver_features(value),
            reg::QUEUE_SEL => self.queue_sel = value,
            reg::QUEUE_NUM => {
                self.change_queue(|queue| queue.num = value);
            }
            reg::QUEUE_READY => {
                // §4.2.2.2 lets the driver stop a queue; here a live queue belongs to its worker
                // and only a reset takes it back, which is what drivers do.
                if self.may_set_up_queues()
                    && let Some(queue) = self.selected_mut()
                {
                    queue.ready = value & 1 != 0;
                }
            }
            reg::QUEUE_NOTIFY => self.kick(value),
            reg::INTERRUPT_ACK => self.interrupt.acknowledge(value),
            reg::STATUS => self.write_status(value),
            reg::QUEUE_DESC_LOW..=reg::QUEUE_DEVICE_HIGH => {
                self.change_queue(|queue| queue.set_address(offset, value));
            }
            _ => {}
        }
        self.publish();
    }

    /// Stops the device's workers, keeping queues and state. Does nothing when it is not live.
    pub fn pause(&mut self) {
        match std::mem::replace(&mut self.slot, Slot::Moving) {
            Slot::Live(live) => {
                let Stopped {
                    device,
                    queues,
                    state,
                } = live.stop();
                self.slot = Slot::Idle(device);
                self.paused = Some(SavedLive {
                    queues,
                    device: state,
                });
            }
            other => self.slot = other,
        }
    }

    /// Starts a paused device again where it stopped.
    pub fn resume(&mut self) {
        if let Some(SavedLive { queues, device }) = self.paused.take() {
            self.activate(queues, Some(device));
            // A kick that was consumed before the pause must not be lost with it.
            for kick in &self.kicks {
                let _ = kick.write(1);
            }
        }
    }

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

    fn read_register(&self, offset: u64) -> u32 {
        let selected = self.setups.get(self.queue_sel as usize);
        match offset {
            reg::MAGIC_VALUE => reg::MAGIC,
            reg::VERSION => reg::MODERN,
            reg::DEVICE_ID => self.kind as u32,
            reg::VENDOR_ID => reg::VENDOR,
            reg::DEVICE_FEATURES => word(self.device_features, self.device_features_sel),
            reg::QUEUE_NUM_MAX => selected.map_or(0, |queue| u32::from(queue.max)),
            reg::QUEUE_READY => selected.map_or(0, |queue| u32::from(queue.ready)),
            reg::INTERRUPT_STATUS => self.interrupt.status(),
            reg::STATUS => self.status(),
            // §4.2.2: a region that does not exist has length -1.
            reg::SHM_LEN_LOW..=reg::SHM_BASE_HIGH => u32::MAX,
            reg::CONFIG_GENERATION => self.config.generation(),
            _ => 0,
        }
    }

    fn status(&self) -> u32 {
        if self.interrupt.is_reset_needed() {
            self.status | NEEDS_RESET
        } else {
            self.status
        }
    }

    fn write_driver_features(&mut self, value: u32) {
        // §3.1.1: between DRIVER and FEATURES_OK.
        if self.status & (DRIVER | FEATURES_OK) != DRIVER {
            return;
        }
        let (shift, mask) = match self.driver_features_sel {
            0 => (0, 0xffff_ffff_u64),
            1 => (32, 0xffff_ffff_u64 << 32),
            _ => return,
        };
        self.driver_features = (self.driver_features & !mask) | (u64::from(value) << shift);
    }

    fn may_set_up_queues(&self) -> bool {
        self.status & (FEATURES_OK | DRIVER_OK | FAILED) == FEATURES_OK
    }

    fn selected_mut(&mut self) -> Option<&mut QueueSetup> {
        self.setups.get_mut(self.queue_sel as usize)
    }

    /// Changes the selected queue if its set-up is open (§4.2.2.2: not once it is ready).
    fn change_queue(&mut self, change: impl FnOnce(&mut QueueSetup)) {
        if self.may_set_up_queues()
            && let Some(queue) = self.selected_mut()
            && !queue.ready
        {
            change(queue);
        }
    }

    fn kick(&self, queue: u32) {
        // Only reached where no doorbell is connected in the kernel.
        if let (Slot::Live(_), Some(kick)) = (&self.slot, self.kicks.get(queue as usize)) {
            let _ = kick.write(1);
        }
    }

    fn write_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        let current = self.status;
        if value & FAILED != 0 {
            self.status |= FAILED;
            return;
        }
        // §2.1.2: one step at a time, and no bit is ever taken back.
        let allowed = match current {
            0 => value == ACKNOWLEDGE,
            ACKNOWLEDGE => value == ACKNOWLEDGE | DRIVER,
            c if c == ACKNOWLEDGE | DRIVER => value == c | FEATURES_OK,
            c if c == ACKNOWLEDGE | DRIVER | FEATURES_OK => value == c | DRIVER_OK,
            _ => false,
        };
        if !allowed {
            return;
        }
        match value & !current {
            FEATURES_OK => {
                // §2.2.2: a subset that we cannot work with is refused by leaving the bit clear.
                let known = self.driver_features & !self.device_features == 0;
                let modern = self.driver_features & (1 << VIRTIO_F_VERSION_1) != 0;
                if known && modern {
                    self.status = value;
                }
            }
            DRIVER_OK => {
                self.status = value;
                let event_idx = self.driver_features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
                let queues = self
                    .setups
                    .iter()
                    .map(|setup| setup.ready.then(|| setup.start(event_idx)).flatten())
                    .collect();
                self.activate(queues, None);
            }
            _ => self.status = value,
        }
    }

    fn activate(&mut self, saved: Vec<Option<SavedQueue>>, state: Option<DeviceState>) {
        let queues = match self.make_queues(&saved) {
            Ok(queues) => queues,
            Err(error) => {
                self.interrupt.needs_reset(&error);
                return;
            }
        };
        let Slot::Idle(device) = std::mem::replace(&mut self.slot, Slot::Moving) else {
            return;
        };
        let activation = Activation {
            memory: Memory::clone(&self.memory),
            features: self.driver_features,
            queues,
            interrupt: Arc::clone(&self.interrupt) as Arc<dyn Interrupt>,
            state,
            threads: self.threads.clone(),
        };
        match device.activate(activation) {
            Ok(live) => self.slot = Slot::Live(live),
            Err(error) => {
                self.interrupt.needs_reset(&error);
                self.slot = Slot::Idle(error.device);
            }
        }
    }

    fn make_queues(
        &self,
        saved: &[Option<SavedQueue>],
    ) -> Result<Vec<Option<ActiveQueue>>, InvalidQueue> {
        let interrupt = || Arc::clone(&self.interrupt) as Arc<dyn Interrupt>;
        (0u16..)
            .zip(saved)
            .zip(&self.kicks)
            .map(|((index, saved), kick)| {
                let Some(saved) = saved else { return Ok(None) };
                let memory = Memory::clone(&self.memory);
                ActiveQueue::new(index, saved, memory, kick, interrupt()).map(Some)
            })
            .collect()
    }

    fn reset(&mut self) {
        // The workers have ended when `pause` returns; nothing touches guest memory after this.
        self.pause();
        self.paused = None;
        if let Slot::Idle(device) = &mut self.slot {
            device.reset();
        }
        self.interrupt.clear();
        self.status = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.queue_sel = 0;
        for setup in &mut self.setups {
            if let Some(max) = crate::queue::QueueSize::new(setup.max) {
                *setup = QueueSetup::new(max);
            }
        }
        // A kick that is still pending wakes the next life's worker once, for nothing.
    }
}

impl Drop for MmioTransport {
    fn drop(&mut self) {
        self.pause();
    }
}

/// The 32 bits of `features` that `select` names; zero past the end (§4.2.2.1).
fn word(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}
