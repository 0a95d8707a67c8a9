//! The block device (virtio-v1.2 §5.2): a file or block device of the host as a disk of the guest.
//!
//! ```text
//!   guest: /dev/vda ─ queue 0 ─ virtio-blk ─▶ Request::parse ─▶ Disk::serve ─▶ preadv, pwritev2, …
//!                                               │ header, copied once   │
//!                                               ▼                       ▼
//!                                      sector + length ≤ capacity    status byte
//! ```
//!
//! Data goes between the descriptor and guest memory in one system call and is looked at by nobody.
//!
//! # Walls
//! - A request is for sectors that the disk has, or it is answered with an error. What the descriptor
//!   has behind the capacity that the guest was told of is never touched, nor is what is in front of it.
//! - A read-only disk refuses every changing request, whatever the guest believes, and the descriptor
//!   should be open for reading only.
//! - A request moves at most [`MAX_DATA`] bytes, and clears at most [`MAX_CLEARED`]: the worker is
//!   through with it in a time that who waits for its end can bear.
//!
//! # Caches
//! The disk's cache is the host's page cache: it writes back, and FLUSH is `fdatasync`. A driver that does
//! not know FLUSH has each write go through to the disk before it is answered. The driver cannot turn the
//! cache off (no `CONFIG_WCE`).

mod config;
mod device;
mod disk;
mod geometry;
mod request;
pub mod spec;
mod worker;

#[cfg(test)]
mod tests;

pub use config::{BlkConfig, BlkSettings, InvalidBlkConfig};
pub use device::Blk;
pub use geometry::Geometry;
pub use request::{MAX_CLEARED, MAX_DATA};
