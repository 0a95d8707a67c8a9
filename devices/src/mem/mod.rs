//! The memory device (virtio-v1.2 §5.15): a guest's memory grows and shrinks while it runs.
//!
//! ```text
//!   host: MemHandle::request ──config change──▶ driver
//!                                                 │ PLUG, UNPLUG: blocks of 2 MiB
//!   Region: bitmap, requested size ◀──request──── queue ◀┘
//!        │ unplugged                └──────────▶ answer
//!        ▼
//!   madvise: the host has the block again;  nothing plugged in a piece ──▶ the hypervisor unmaps it
//! ```
//!
//! The device has a region of guest memory beside the one that the guest was started with. It is empty at
//! first. The host says how many bytes it wants to be plugged; the driver plugs and unplugs blocks until
//! they are. More than that is refused. Less than that comes about if and when the driver can do it: the
//! device asks and takes nothing away.
//!
//! A guest can touch only what the hypervisor has mapped. It does that in pieces, larger than blocks, and
//! tells the device by [`MemHandle::provide`]; a block of a piece that is not there cannot be plugged.
//! `VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE` is required of a driver: unplugged memory may not be there to read.
//!
//! What is plugged outlives a reset of the device, as the guest still uses it (§5.15.5); a driver that comes
//! anew unplugs all of it first.

mod blocks;
mod config;
mod device;
mod handle;
mod region;
pub mod spec;
mod state;
#[cfg(test)]
mod tests;
mod worker;

pub use config::{BLOCK, InvalidRegion, MAX_REGION, MemRegion};
pub use device::Mem;
pub use handle::{MemHandle, MemSize, OnSurplus};
pub use state::{InvalidMemState, MemStateV1};
