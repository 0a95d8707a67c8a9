//! Registers that the guest reads without an exit.
//!
//! What a read of the window would give is also kept in a page of memory. A hypervisor that maps this
//! page read-only at the window's address serves reads from it: only writes still reach
//! [`MmioTransport::write`](super::MmioTransport::write). An interrupt then costs the driver no exit to
//! user space: it reads `InterruptStatus` from memory, and its acknowledgement of a used buffer
//! notification is swallowed in the kernel by [`ACKNOWLEDGE_OFFSET`](super::MmioTransport::ACKNOWLEDGE_OFFSET).
//!
//! Because that acknowledgement is not seen, a mirrored status tells of used buffers at all times.
//! A driver that looks and finds none has lost nothing (virtio-v1.2 §2.7.7 lets notifications be
//! spurious).

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, MmapRegion, VolatileMemory, VolatileSlice};

use super::mmio::WINDOW_SIZE;
use super::registers as reg;

/// Pages of registers, one for each device, to be mapped read-only into the guest.
#[derive(Debug)]
pub struct RegisterPages(MmapRegion);

impl RegisterPages {
    /// Pages for `devices` devices.
    ///
    /// # Errors
    /// When memory cannot be mapped.
    pub fn new(devices: usize) -> std::io::Result<Self> {
        let bytes = devices.max(1) * WINDOW_SIZE as usize;
        MmapRegion::new(bytes)
            .map(Self)
            .map_err(std::io::Error::other)
    }

    /// Address in this process, for the hypervisor.
    #[must_use]
    pub fn host_address(&self) -> u64 {
        self.0.as_ptr() as u64
    }

    /// Bytes in all.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.size() as u64
    }

    /// Whether there are none, which is never.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.size() == 0
    }

    /// Makes the window of `device` one that nothing is behind, as [`vacant_register`] has it.
    pub fn vacate(&self, device: usize) {
        let Some(page) = self.page(device) else {
            return;
        };
        // The number first: who reads it takes the rest for a device's.
        for offset in std::iter::once(reg::DEVICE_ID).chain((0..WINDOW_SIZE).step_by(4)) {
            let value = vacant_register(offset);
            let _ = page.store(value.to_le(), offset as usize, Ordering::Release);
        }
    }

    fn page(&self, device: usize) -> Option<VolatileSlice<'_>> {
        let window = WINDOW_SIZE as usize;
        self.0.get_slice(device.checked_mul(window)?, window).ok()
    }
}

/// What the register at `offset` reads as in a window that nothing is behind: the window of a device of
/// number 0, which a driver has to leave alone (virtio-v1.2 §4.2.3.1.1).
#[must_use]
pub fn vacant_register(offset: u64) -> u32 {
    match offset {
        reg::MAGIC_VALUE => reg::MAGIC,
        reg::VERSION => reg::MODERN,
        _ => 0,
    }
}

/// One device's page.
#[derive(Debug, Clone)]
pub(super) struct Mirror {
    pages: std::sync::Arc<RegisterPages>,
    device: usize,
}

impl Mirror {
    pub fn new(pages: std::sync::Arc<RegisterPages>, device: usize) -> Option<Self> {
        pages.page(device)?;
        Some(Self { pages, device })
    }

    /// Makes the register at `offset` read as `value` from now on.
    pub fn store(&self, offset: u64, value: u32) {
        if let Some(page) = self.pages.page(self.device) {
            // The guest reads with plain loads; one aligned store is seen whole or not at all.
            let _ = page.store(value.to_le(), offset as usize, Ordering::Release);
        }
    }

    /// Copies the configuration space.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        if let Some(page) = self.pages.page(self.device) {
            let _ = page.write(bytes, offset as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vmm_sys_util::eventfd::EventFd;

    use super::*;
    use crate::Memory;
    use crate::rng::Rng;
    use crate::transport::MmioTransport;

    fn register(pages: &RegisterPages, offset: u64) -> u32 {
        let page = pages.page(1).unwrap();
        let value: u32 = page.load(offset as usize, Ordering::Acquire).unwrap();
        u32::from_le(value)
    }

    /// What the guest reads from the page is what an exit would tell it.
    fn compare(pages: &RegisterPages, transport: &MmioTransport) {
        for offset in (0..WINDOW_SIZE).step_by(4) {
            let mut bytes = [0; 4];
            transport.read(offset, &mut bytes);
            let mut expected = u32::from_le_bytes(bytes);
            if offset == reg::INTERRUPT_STATUS {
                expected |= MmioTransport::ACKNOWLEDGE_USED;
            }
            assert_eq!(register(pages, offset), expected, "at {offset:#x}");
        }
    }

    #[test]
    fn a_page_has_what_the_window_reads_as_whenever_it_is_mirrored() {
        let pages = Arc::new(RegisterPages::new(2).unwrap());
        let line = EventFd::new(libc::EFD_CLOEXEC).unwrap();
        let mut transport = MmioTransport::new(Box::new(Rng), Memory::default(), line).unwrap();
        // Its driver has begun.
        transport.write(reg::STATUS, &1u32.to_le_bytes());
        transport.mirror(&pages, 1);
        compare(&pages, &transport);
        let steps = [
            (reg::STATUS, 3u32),
            (reg::DEVICE_FEATURES_SEL, 1),
            (reg::DRIVER_FEATURES_SEL, 1),
            (reg::DRIVER_FEATURES, 1),
            (reg::STATUS, 11),
            (reg::QUEUE_SEL, 7),
            (reg::QUEUE_SEL, 0),
            (reg::QUEUE_READY, 1),
            // No ring is in this memory: the device needs a reset.
            (reg::STATUS, 15),
            (reg::INTERRUPT_ACK, 2),
            (reg::STATUS, 0),
        ];
        for (offset, value) in steps {
            transport.write(offset, &value.to_le_bytes());
            compare(&pages, &transport);
        }
        pages.vacate(1);
        for offset in (0..WINDOW_SIZE).step_by(4) {
            assert_eq!(register(&pages, offset), vacant_register(offset));
        }
    }
}
