//! What has passed, for whoever asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What has passed through a device since it was made, resets included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetUsage {
    /// Frames that the guest received.
    pub rx_frames: u64,
    /// Bytes of them.
    pub rx_bytes: u64,
    /// Frames that did not fit into what the guest offered.
    pub rx_dropped: u64,
    /// Frames that the guest sent.
    pub tx_frames: u64,
    /// Bytes of them.
    pub tx_bytes: u64,
    /// Frames of the guest that are malformed or too long, or that the host did not take.
    pub tx_dropped: u64,
}

/// One direction's counters. Only that direction's worker writes them.
#[derive(Debug, Default)]
pub(super) struct Direction {
    frames: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
}

impl Direction {
    pub fn passed(&self, bytes: usize) {
        add(&self.frames, 1);
        add(&self.bytes, bytes as u64);
    }

    pub fn dropped(&self) {
        add(&self.dropped, 1);
    }
}

/// With one writer a load and a store lose nothing, and cost no locked instruction.
fn add(counter: &AtomicU64, amount: u64) {
    let sum = counter.load(Ordering::Relaxed).wrapping_add(amount);
    counter.store(sum, Ordering::Relaxed);
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub rx: Direction,
    pub tx: Direction,
}

/// Reads a device's counters, also after it has moved into a machine.
#[derive(Clone, Debug)]
pub struct NetCounters(pub(super) Arc<Counters>);

impl NetCounters {
    /// What they are now. Each is exact; they are not read at one moment.
    #[must_use]
    pub fn usage(&self) -> NetUsage {
        let Counters { rx, tx } = &*self.0;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NetUsage {
            rx_frames: get(&rx.frames),
            rx_bytes: get(&rx.bytes),
            rx_dropped: get(&rx.dropped),
            tx_frames: get(&tx.frames),
            tx_bytes: get(&tx.bytes),
            tx_dropped: get(&tx.dropped),
        }
    }
}
