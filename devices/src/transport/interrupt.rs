//! The interrupt side of virtio-mmio: status bits and the line.

use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use vmm_sys_util::eventfd::EventFd;

use super::config::ConfigSpace;
use super::mirror::Mirror;
use super::registers as reg;
use crate::device::{DeviceKind, Interrupt};

const USED_BUFFER: u32 = 1 << 0;
const CONFIG_CHANGE: u32 = 1 << 1;
/// Most faults of its driver that are logged of a device, in all its lives: a driver can reset it and be at
/// fault again some thousand times a second.
const MAX_LINES: u32 = 16;

/// `InterruptStatus` and the event file descriptor that raises the line.
pub struct MmioInterrupt {
    kind: DeviceKind,
    status: AtomicU32,
    needs_reset: AtomicBool,
    /// Faults that were logged.
    logged: AtomicU32,
    line: EventFd,
    /// The `Status` register without `DEVICE_NEEDS_RESET`, for the mirror.
    device_status: AtomicU32,
    mirror: OnceLock<Mutex<Mirror>>,
    config: Arc<ConfigSpace>,
}

impl MmioInterrupt {
    /// An idle interrupt of a device of `kind`; writing to `line` raises it, edge-triggered.
    #[must_use]
    pub(super) fn new(kind: DeviceKind, line: EventFd, config: Arc<ConfigSpace>) -> Self {
        Self {
            kind,
            status: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            logged: AtomicU32::new(0),
            line,
            device_status: AtomicU32::new(0),
            mirror: OnceLock::new(),
            config,
        }
    }

    /// Keeps `InterruptStatus` in `mirror` as well, from now on.
    pub(super) fn mirror(&self, mirror: Mirror) {
        let _ = self.mirror.set(Mutex::new(mirror));
        self.publish();
    }

    /// Takes note of the `Status` register.
    pub(super) fn set_device_status(&self, status: u32) {
        self.device_status.store(status, Ordering::SeqCst);
        self.publish();
    }

    /// `Status` as the driver reads it.
    pub(super) fn device_status(&self) -> u32 {
        let status = self.device_status.load(Ordering::SeqCst);
        if self.is_reset_needed() {
            status | VIRTIO_CONFIG_S_NEEDS_RESET
        } else {
            status
        }
    }

    /// Rare: not on the way of a used buffer notification, whose bit is always there for a mirror.
    fn publish(&self) {
        if let Some(mirror) = self.mirror.get() {
            // Held over both reads and stores, so that a later change is not overwritten by an
            // earlier one.
            let mirror = mirror.lock().unwrap_or_else(PoisonError::into_inner);
            mirror.store(reg::INTERRUPT_STATUS, self.status() | USED_BUFFER);
            mirror.store(reg::STATUS, self.device_status());
        }
    }

    pub(super) fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    pub(super) fn set_status(&self, bits: u32) {
        self.status
            .store(bits & (USED_BUFFER | CONFIG_CHANGE), Ordering::SeqCst);
        self.publish();
    }

    pub(super) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
        self.publish();
    }

    pub(super) fn is_reset_needed(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    pub(super) fn clear(&self) {
        self.status.store(0, Ordering::SeqCst);
        self.needs_reset.store(false, Ordering::SeqCst);
        self.publish();
    }

    fn log(&self, reason: &dyn Error) {
        let lines = self.logged.load(Ordering::SeqCst);
        if lines < MAX_LINES {
            // Only one thread comes here in each life, and the next life begins when it has gone.
            self.logged.store(lines + 1, Ordering::SeqCst);
            let last = if lines + 1 == MAX_LINES {
                "; no more is said of it"
            } else {
                ""
            };
            log::warn!(
                "{:?} device stopped until its driver resets it: {}{last}",
                self.kind,
                Chained(reason)
            );
        }
    }

    fn raise(&self, bit: u32) {
        // The bit first: a driver that takes the interrupt at once must find its cause.
        let before = self.status.fetch_or(bit, Ordering::SeqCst);
        if before & bit == 0 {
            self.publish();
        }
        // A full counter means that the line is already pending.
        let _ = self.line.write(1);
    }
}

impl Interrupt for MmioInterrupt {
    fn used_buffers(&self, _queue: u16) {
        self.raise(USED_BUFFER);
    }

    fn set_config(&self, config: &[u8]) {
        self.config.set(config);
    }

    fn config_changed(&self) {
        self.raise(CONFIG_CHANGE);
    }

    fn needs_reset(&self, reason: &dyn Error) {
        // Once per life of the device, so a guest cannot fill the log with it.
        if !self.needs_reset.swap(true, Ordering::SeqCst) {
            self.log(reason);
            self.publish();
        }
        self.raise(CONFIG_CHANGE);
    }
}

/// An error with its causes in one line.
struct Chained<'a>(&'a (dyn Error + 'a));

impl fmt::Display for Chained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::queue::QueueFault;

    thread_local! {
        /// Lines that this thread has logged.
        static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    /// Keeps lines, each thread its own: other tests log as well.
    struct Keep;

    impl log::Log for Keep {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            LINES.with_borrow_mut(|lines| lines.push(record.args().to_string()));
        }

        fn flush(&self) {}
    }

    #[test]
    fn case_08_a_fault_is_logged_once_for_each_life_and_not_for_ever() {
        log::set_logger(&Keep).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
        let line = EventFd::new(libc::EFD_CLOEXEC).unwrap();
        let interrupt = MmioInterrupt::new(DeviceKind::Fs, line, Arc::default());
        for life in 1..=1000 {
            for queue in 0..100 {
                let source = virtio_queue::Error::InvalidAvailRingIndex;
                interrupt.needs_reset(&QueueFault::Ring { queue, source });
            }
            let lines = LINES.take();
            let cause = virtio_queue::Error::InvalidAvailRingIndex.to_string();
            let first = format!("queue 0: rings are inconsistent: {cause}");
            assert!(lines.iter().all(|line| line.contains(&first)), "{lines:?}");
            assert_eq!(lines.len(), usize::from(life <= MAX_LINES), "life {life}");
            // The driver's reset.
            interrupt.clear();
        }
    }
}
