//! Places where devices come and go while the machine runs.
//!
//! ```text
//!   command line: virtio_mmio.device=4K@ADDRESS:LINE    one for each slot
//!   DeviceID:     0 ──plug──▶ the device's ──unplug──▶ 0
//!   guest:        its driver leaves 0 alone; somebody binds it to the platform device, and unbinds it
//! ```
//!
//! There is no ACPI and no bus that tells the guest of changes, so a slot is a window that the guest
//! has been told of at its start, with registers of a device of number 0 in it (virtio-v1.2
//! §4.2.3.1.1). Reading them is no exit. The slots share one interrupt line: what a line costs a guest at
//! its start would be more than all the rest of a slot.
//!
//! A device can be taken away under its driver. Its workers have ended then, whatever the guest does, and
//! its registers are those of nothing.

use devices::VirtioDevice;
use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use crate::bus::Bus;
use crate::events::SlotChange;
use crate::machine::BuildError;
use crate::wiring::{Wiring, window_address};

/// Why a device did not come, or go.
#[derive(Debug, Error)]
pub enum PlugError {
    /// All slots are taken.
    #[error("all {0} slots for further devices are taken")]
    Full(usize),
    /// There is nothing to take away.
    #[error("there is no device in a slot at {0:#x}")]
    NotThere(u64),
    /// KVM or the system would not.
    #[error("the device cannot be connected")]
    Connect(#[source] Box<BuildError>),
    /// It is too late.
    #[error("the machine has ended")]
    Ended,
}

/// The slots of a machine.
pub struct Slots {
    wiring: Wiring,
    /// Number of the first one's window.
    first: usize,
    line: u8,
    /// What raises the interrupt of the device in each.
    taken: Vec<Option<EventFd>>,
}

impl Slots {
    /// `count` vacant ones, from window number `first` on.
    #[must_use]
    pub(crate) fn new(wiring: Wiring, first: usize, count: usize, line: u8) -> Self {
        if let Some(registers) = &wiring.registers {
            (first..first + count).for_each(|window| registers.vacate(window));
        }
        Self {
            wiring,
            first,
            line,
            taken: (0..count).map(|_| None).collect(),
        }
    }

    /// Does what a handle asks for, and gives the address of the slot.
    pub(crate) fn change(&mut self, bus: &Bus, change: SlotChange) -> Result<u64, PlugError> {
        match change {
            SlotChange::Plug(device) => self.plug(bus, device),
            SlotChange::Unplug(address) => self.unplug(bus, address),
        }
    }

    /// Puts `device` into the first that is vacant, and gives its address.
    fn plug(&mut self, bus: &Bus, device: Box<dyn VirtioDevice>) -> Result<u64, PlugError> {
        let vacant = self.taken.iter().position(Option::is_none);
        let slot = vacant.ok_or(PlugError::Full(self.taken.len()))?;
        let window = self.first + slot;
        let (transport, irq) = self
            .wiring
            .connect(window, self.line, device)
            .map_err(|error| PlugError::Connect(Box::new(error)))?;
        bus.replace(window, Some(transport));
        self.taken[slot] = Some(irq);
        Ok(window_address(window))
    }

    /// Takes the device at `address` away.
    fn unplug(&mut self, bus: &Bus, address: u64) -> Result<u64, PlugError> {
        let mut slots = self.taken.iter_mut().zip(self.first..);
        let found = slots.find(|(_, window)| window_address(*window) == address);
        let (irq, window) = found
            .and_then(|(taken, window)| Some((taken.take()?, window)))
            .ok_or(PlugError::NotThere(address))?;
        if let Some(mut transport) = bus.replace(window, None) {
            transport.pause();
            self.wiring.disconnect(window, self.line, &transport, &irq);
        }
        Ok(address)
    }
}
