//! The network device (virtio-v1.2 §5.1): Ethernet frames between a guest and a tap of the host.
//!
//! ```text
//!   guest: eth0                                                   host: tap
//!     │                                                              ▲ │
//!     ▼ tx                                                           │ ▼
//!   driver ──▶ Tx: copy and check the header ──▶ Outgoing ──writev───┘ │
//!     ▲                                                                │
//!     └──rx─── Rx: push_used_together ◀────────── Room ◀──readv────────┘
//! ```
//!
//! One thread, `virtio-net`, serves both directions of a pair of queues; there is one pair. Neither
//! direction waits for the other: the backend never blocks, and each direction has its own reason to
//! rest (`rx::Rest`).
//!
//! # What happens to frames
//! They are not copied in this process: a system call moves each between the host's queue and guest
//! memory. With large segments (TSO, USO) that is up to 64 KiB at a time. Looked at is only the
//! header of 12 bytes before a frame of the guest: it is copied, checked and written from the copy
//! (`frame`). Receive buffers are parsed once and wait as vectors until a frame fills them (`vectors`).
//! Nothing is allocated on the way of a frame.
//!
//! # When there is too much
//! Frames for which the guest has no buffers, or that a limit holds back, wait in the tap, whose
//! queue the host's kernel bounds: it drops what does not fit. Frames of the guest that the host does
//! not take at once wait in the guest's queue. A frame that is malformed, too long, or refused by the
//! host's kernel is dropped and counted, as on a wire.
//!
//! # What the guest may say
//! Whatever fits into a frame of its MTU: any source address, any protocol. Who needs a guest to keep
//! to its addresses filters behind the tap.
//!
//! # Over a snapshot
//! Frames on their way are not kept. A restored guest goes on with whatever backend its device has
//! then; that its address or its network is another one is for the guest's agent to say.

mod backend;
mod config;
mod counters;
mod device;
mod frame;
mod rx;
pub mod spec;
mod state;
mod tx;
mod vectors;
mod worker;

#[cfg(test)]
mod tests;

pub use backend::{NetBackend, Offloads, Tap, TapError};
pub use config::{InvalidNetConfig, MacAddress, Mtu, NetConfig};
pub use counters::{NetCounters, NetUsage};
pub use device::Net;
pub use state::{InvalidNetState, NetStateV1};
