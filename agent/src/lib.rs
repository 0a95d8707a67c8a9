//! The agent: PID 1 of a pod's guest, which runs containers at the host's word.
//!
//! ```text
//!            host                                     guest
//!   calls ── ttrpc ──────► rpc ──► server ──► container ── clone3 ──► init ── execve ──► command
//!                                    │  ▲          ▲                  (mounts, pivot_root, user)  │
//!   bytes ◄─ streams ───► opening ─► stdio::Pump ◄─┼───────── pipes, terminal ────────────────────┘
//!   events ◄─ lifeline ───────────── ┘  └── SIGCHLD, waitpid
//! ```
//!
//! - [`guest`]: start and end of the guest.
//! - `server`: the event loop, which is the agent's only thread, and who is alive.
//!   `watch`: what cgroups tell.
//! - `rpc`: ttrpc's wire format and the methods of service Agent. `opening`: stream connections, `early`: of
//!   processes that are not there yet.
//! - `container`: OCI configurations, states, cgroups. `init`: what a container's first process does.
//! - `stdio`: moving bytes. `localhost`: connections to servers of the pod. `pod`: the share, the clock and the like.
//!   `volume`: directories in memory. `pids`: the namespace that containers may share. `network`:
//!   interfaces and routes. `cpus`, `stats`: of the guest and its containers. `lifeline`: events for the host.
//! - `sys`: system calls that need `unsafe`.
//!
//! *First process*: the fork of the agent that becomes a container's command. *Further process*: one that
//! the host adds to a running container. *Stage*: a tmpfs in a
//! container's mount namespace where its root file system is put together.

pub mod archive;
mod blocks;
mod container;
mod cpus;
mod early;
mod events;
pub mod guest;
mod init;
mod job;
mod kmsg;
mod lifeline;
mod localhost;
mod network;
mod opening;
mod pids;
mod pod;
mod rpc;
mod server;
mod stats;
mod stdio;
mod sys;
mod transport;
mod volume;
mod watch;

use std::io;

use rustix::process::DumpableBehavior;

pub use transport::Transport;

/// Serves the host over `transport` until it asks for the end.
///
/// `prepare` runs when the host has been told that the agent is there, and before the first call is
/// answered. Afterwards /proc, /dev, /dev/shm, a cgroup2 hierarchy at /sys/fs/cgroup and the directories
/// `share` and `stage` in /run/podvmm must exist. The process must have one thread and be allowed to make
/// namespaces and mounts.
///
/// # Errors
/// When the agent cannot listen, reach the host or go on waiting for events, or `prepare`'s own.
pub fn serve(transport: Transport, prepare: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    // Forks of it are seen by containers' processes before they have become such.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let mut agent = server::Agent::start(transport)?;
    prepare()?;
    container::prepare_cgroups()?;
    agent.run()
}
