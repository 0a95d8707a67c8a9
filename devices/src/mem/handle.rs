//! How the host steers a memory device, whether a driver uses it or not.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::config::MemRegion;
use super::region::Region;
use crate::device::Interrupt;

/// Called by a worker when memory can be taken away; see [`MemHandle::withdraw`]. It must not block.
pub type OnSurplus = Arc<dyn Fn() + Send + Sync>;

/// How large a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemSize {
    /// Bytes that the host wants to be plugged.
    pub requested: u64,
    /// Bytes that are.
    pub plugged: u64,
}

/// Steers a memory device from any thread. Clones steer the same one.
///
/// The hypervisor provides memory before it asks for more to be plugged, and takes away what
/// [`withdraw`](Self::withdraw) names:
///
/// ```text
///   to grow:    map pieces ──▶ provide ──▶ request(more)
///   to shrink:  request(less) ──▶ … the driver unplugs … ──▶ withdraw ──▶ unmap pieces
/// ```
#[derive(Clone)]
pub struct MemHandle(Arc<Mutex<Guarded>>);

/// What device, worker and host share.
pub(super) struct Guarded {
    pub region: Region,
    /// The way to the driver, while one uses the device.
    pub interrupt: Option<Arc<dyn Interrupt>>,
    pub on_surplus: Option<OnSurplus>,
}

impl fmt::Debug for MemHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemHandle").field(&self.size()).finish()
    }
}

impl MemHandle {
    pub(super) fn new(layout: MemRegion) -> Self {
        Self(Arc::new(Mutex::new(Guarded {
            region: Region::new(layout),
            interrupt: None,
            on_surplus: None,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Guarded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the region is.
    #[must_use]
    pub fn region(&self) -> MemRegion {
        self.lock().region.layout()
    }

    /// How large it is.
    #[must_use]
    pub fn size(&self) -> MemSize {
        let guarded = self.lock();
        MemSize {
            requested: guarded.region.requested(),
            plugged: guarded.region.plugged(),
        }
    }

    /// Has `hook` called by the worker whenever [`withdraw`](Self::withdraw) would find something.
    pub fn on_surplus(&self, hook: OnSurplus) {
        self.lock().on_surplus = Some(hook);
    }

    /// These pieces of the region are there for the guest.
    pub fn provide(&self, pieces: Range<usize>) {
        self.lock().region.provide(pieces);
    }

    /// Wants so many bytes to be plugged, and tells the driver.
    pub fn request(&self, bytes: u64) {
        let mut guarded = self.lock();
        guarded.region.request(bytes);
        guarded.publish();
        if let Some(interrupt) = &guarded.interrupt {
            interrupt.config_changed();
        }
    }

    /// Pieces that the requested size does not need and in which nothing is plugged. The driver can plug
    /// nothing there until they are provided again.
    #[must_use]
    pub fn withdraw(&self) -> Vec<usize> {
        self.lock().region.withdraw()
    }
}

impl Guarded {
    /// Lets a driver read what is true now.
    pub fn publish(&self) {
        if let Some(interrupt) = &self.interrupt {
            interrupt.set_config(&self.region.config());
        }
    }
}
