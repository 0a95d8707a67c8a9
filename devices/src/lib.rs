//! Paravirtual devices: the I/O hot path between a guest's drivers and the host.
//!
//! ```text
//!   guest driver ──registers──▶ transport::mmio ──activate──▶ device (balloon, blk, fs, mem, net, rng, vsock)
//!        │                            ▲                          │
//!        │ descriptor chains          │ interrupt status         │ one worker per queue or device
//!        ▼                            │                          ▼
//!   guest memory ◀── queue::ActiveQueue: pop → Chain → push_used → notify
//! ```
//!
//! This crate knows no KVM and no pod. It sees guest memory, virtqueues, event file descriptors and
//! an [`Interrupt`]; everything else is somebody's policy. So each device runs under the
//! driver-side `testkit`, a fuzzer or a benchmark exactly as it runs under a VM.
//!
//! # Map
//! - [`device`]: the life of a device, in types: inactive → active → stopped.
//! - [`queue`]: a validated virtqueue and the chains popped from it.
//! - [`transport`]: virtio-mmio (virtio-v1.2 §4.2), the only place that knows registers.
//! - [`balloon`], [`blk`], [`fs`], [`mem`], [`net`], [`rng`], [`vsock`]: the devices.
//! - [`rate`]: how much a guest may move, per device.
//! - [`serial`]: an 8250 for early consoles, for debugging only.
//! - `testkit` (feature `testkit`): a driver that speaks to a device as Linux would.
//!
//! # Vocabulary
//! The words are the specification's: *driver* and *device*, *descriptor chain*, *available ring*
//! and *used ring*, *negotiated features*. A *fault* is the driver's breach of the specification;
//! it stops that one device and never the process.

pub mod balloon;
pub mod blk;
pub mod device;
mod discard;
pub mod fs;
pub mod mem;
pub mod net;
pub mod queue;
pub mod rate;
pub mod rng;
pub mod serial;
mod transfer;
pub mod transport;
pub mod vsock;
mod worker;

#[cfg(any(test, feature = "testkit"))]
pub mod testkit;

pub use device::{ActivateError, Activation, ActiveDevice, DeviceState, Interrupt, Stopped};
pub use device::{DeviceKind, ThreadHook, Threads, VirtioDevice};
pub use queue::{ActiveQueue, Chain, QueueFault, QueueSize};

/// Guest memory as all devices see it: cheap to share, never moved while a device is active.
pub type Memory = std::sync::Arc<vm_memory::GuestMemoryMmap>;
