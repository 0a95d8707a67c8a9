//! A driver that speaks to a device as Linux would, and rings that can be written with anything.
//!
//! [`Ring`] lays out one split virtqueue (virtio-v1.2 §2.7) in guest memory and lets a test write any
//! descriptor, index or flag. [`Driver`] does the real status handshake over
//! [`MmioTransport`](crate::transport::MmioTransport) and then sends requests and takes replies; tests
//! on that level see no addresses.
//!
//! ```
//! use podvmm_devices::{rng::Rng, testkit::Driver};
//!
//! let mut driver = Driver::start(Box::new(Rng), !0);
//! let reply = driver.request(0, &[], &[16]);
//! assert_eq!(reply.len(), 16);
//! ```

mod driver;
pub mod fuse;
pub mod net;
mod ring;
pub mod vsock;

pub use driver::Driver;
pub use ring::{Descriptor, Ring};

use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::Memory;

/// Size of the guest memory that [`memory`] makes, in bytes.
pub const MEMORY_SIZE: usize = 64 << 20;

/// Guest memory for a test: one region from address 0.
///
/// # Panics
/// When the memory cannot be mapped.
#[must_use]
pub fn memory() -> Memory {
    #[allow(clippy::expect_used, reason = "a test kit reports by panicking")]
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_SIZE)])
        .expect("64 MiB of guest memory");
    Memory::new(memory)
}
