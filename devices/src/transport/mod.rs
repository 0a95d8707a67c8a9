//! Transports: how a driver finds a device, agrees with it and rings its doorbells.
//!
//! Only this module knows registers and the status order of virtio-v1.2 §2.1 and §3.1.

mod config;
mod interrupt;
mod mirror;
pub mod mmio;
mod registers;
mod setup;
#[cfg(test)]
mod tests;

pub use interrupt::MmioInterrupt;
pub use mirror::{RegisterPages, vacant_register};
pub use mmio::{MmioTransport, SavedTransport, TransportError};
