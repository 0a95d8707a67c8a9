//! A pod's life on the host: what the CLI, a containerd shim and an embedding runtime all use.
//!
//! ```text
//!   PodConfig ──Pod::start──▶ Pod ──create_container──▶ Process { stdin, stdout, stderr }
//!                │             │ agent (ttrpc over vsock)     │ start, wait, signal, resize
//!                ▼             ▼                                ▼
//!        podvmm-vmm process ◀─ one Unix socket: configuration in, end of the VM out
//! ```
//!
//! Each pod has a VMM process of its own. It is handed everything it needs as open file descriptors
//! and one configuration message, so nothing is looked up by path behind the boundary, and it ends
//! when the socket to its sandbox does.
//!
//! # Map
//! - [`config`]: what a pod is made of.
//! - [`assets`]: where guest kernel, initramfs and VMM binary are found.
//! - [`rundir`]: the pod's directory on the host, and who owns it. [`datadir`]: one on disk for what its
//!   containers write.
//! - [`volume`]: directories of the guest's memory. [`block`]: disks of the host that the guest is given.
//! - [`control`]: the messages between sandbox and VMM process.
//! - [`jail`]: what the VMM process can reach and do.
//! - [`pod`], [`container`]: their lives.
//! - [`events`]: what happens in a pod without being asked for.
//! - [`net`]: a network namespace that becomes the guest's network.
//! - [`forward`]: ports of the host that stand for a pod's.
//! - [`oci`]: the OCI configuration of a container.
//! - [`bundle`]: what a container engine wrote for the host, turned into what a guest is asked for.
//! - [`sizing`]: how large a pod's VM is.
//! - [`monitor`]: pods that other processes find, watch and steer.
//! - [`logs`]: what containers wrote.
//! - [`timestamp`], [`packet`]: times and messages as they are written.
//! - [`logging`]: the log of both processes.
//! - [`kvm`]: opening `/dev/kvm`, and why it could not be: the checks of `host-check`.
//!
//! # Example
//! ```no_run
//! use podvmm_sandbox::{ContainerConfig, Pod, PodConfig};
//!
//! let mut config = PodConfig::new("demo");
//! config.rootfs("/srv/rootfs", false)?;
//! let pod = Pod::start(config)?;
//! let container = pod.create_container(&ContainerConfig::command(["/bin/true"]))?;
//! container.start()?;
//! println!("{:?}", container.wait()?);
//! pod.stop()?;
//! # Ok::<(), podvmm_sandbox::PodError>(())
//! ```

pub mod assets;
pub mod block;
pub mod bundle;
pub mod config;
pub mod container;
pub mod control;
pub mod datadir;
pub mod events;
pub mod forward;
mod guest;
pub mod jail;
mod json_file;
pub mod kvm;
mod launch;
mod lifeline;
pub mod logging;
pub mod logs;
pub mod monitor;
pub mod net;
pub mod oci;
pub mod packet;
pub mod pod;
mod removal;
mod resize;
pub mod rundir;
pub mod sizing;
pub mod timestamp;
pub mod volume;

/// Version of what is said to the guest's agent; that of the initramfs must be the same.
pub const AGENT_PROTOCOL_VERSION: u32 = agent_protocol::PROTOCOL_VERSION;

pub use assets::{AssetError, GuestAssets};
pub use block::{BlockError, BlockVolume, GuestBlock};
pub use config::{PodConfig, Share, ShareError};
pub use container::{
    ContainerError, ContainerHandle, ContainerRequest, Exit, Process, ProcessHandle, StartFailure,
};
pub use devices::rate::{Rate, RateLimit};
pub use events::{EventSink, PodEvent};
pub use jail::{JailMode, SeccompMode};
pub use net::{NetError, Netns, Network, PodNetwork};
pub use oci::{Changes, ContainerConfig, Rootfs, Stdio, User};
pub use pod::{Pod, PodError, PodKiller};
pub use resize::PodSize;
