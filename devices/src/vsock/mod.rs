//! The socket device (virtio-v1.2 §5.10): streams between programs of the guest and of the host,
//! without a kernel module on the host.
//!
//! ```text
//!  guest program                                                        host program
//!     │ AF_VSOCK                                                  AF_UNIX │
//!     ▼                                                                   ▼
//!  driver ─tx▶ Tx ──packet──▶ Muxer ──▶ Connection ──sendmsg from guest memory──▶ socket
//!     ▲                         │           │
//!     └────rx── Rx ◀──turns─────┘           └──◀──recvmsg into guest memory────── socket
//! ```
//!
//! **A host program reaches the guest** by connecting to the pod's Unix socket and saying
//! `CONNECT <port>\n`. When the guest accepts it reads `OK <host port>\n`, and from then on the
//! stream; when the guest refuses, its socket is closed. **The guest reaches the host** (CID 2) on
//! port `P` where [`HostPorts`] finds somebody for `P`; else its connection is refused.
//!
//! Layers, each of which can be tested without the next one: `packet` decides what one header means,
//! `credit` counts, `connection` is the state machine of one stream over a `stream`, `muxer` holds all
//! of them and their turns, `rx`, `tx` and `events` are the queues, `worker` is the thread, `device`
//! the life of it all.
//!
//! # What happens to data
//! It is not copied in this process: packets are sent out of guest memory and received into it, many
//! of them in one system call. Only what a slow host program does not take is kept back, bounded by
//! the credit that the guest was given ([`Limits`]).
//!
//! # Over a snapshot
//! A pause keeps connections. A restored guest has none: its driver is sent a transport reset, upon
//! which Linux ends its sockets and reads its address anew.

mod buffers;
mod config;
mod connection;
mod credit;
mod device;
mod events;
mod host;
mod lobby;
mod muxer;
mod packet;
mod rx;
pub mod spec;
mod state;
mod stream;
mod tx;
mod worker;

#[cfg(test)]
mod tests;

pub use config::{Connector, GuestCid, HostPorts, Limits, ReservedCid, VsockConfig};
pub use device::{Vsock, VsockError};
pub use state::VsockStateV1;
