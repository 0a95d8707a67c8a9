//! What whoever waits for an image is told meanwhile.

use std::time::Duration;

use crate::digest::Digest;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// What the name stands for is being found out.
    Resolving(&'a str),
    /// Bytes of a layer have come.
    Fetching {
        /// The layer.
        digest: Digest,
        /// How many there are now.
        done: u64,
        /// How many there will be.
        total: u64,
    },
    /// A layer is complete.
    Fetched {
        /// The layer.
        digest: Digest,
        /// Its size.
        size: u64,
    },
    /// A request failed and will be made again.
    Retrying {
        /// Why it failed.
        reason: &'a str,
        /// After this time.
        after: Duration,
    },
    /// A layer is being unpacked.
    Unpacking {
        /// Its number from 1.
        layer: usize,
        /// How many there are.
        of: usize,
    },
}

/// Is told of events. They may come from any thread.
pub trait Progress: Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);
}

/// Tells nobody.
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event<'_>) {}
}
