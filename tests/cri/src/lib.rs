//! A node of a cluster without the cluster: containerd with CNI and local images, and a client that
//! makes the calls that kubelet makes.
//!
//! ```text
//!   a case ──▶ Pod, Container ──▶ Cri ──gRPC──▶ containerd ──▶ shim of the handler ──▶ pod
//!     │            │                               ▲
//!     │            └─ cgroup, directories, logs: kubelet's part
//!     └─ Traces: what the case left behind          └─ Bed starts, restarts and stops it
//! ```
//!
//! Every case runs once for each [`Handler`]: runc, the reference, and podvmm. [`alone`] puts all of
//! it into namespaces of its own, so that a node's real containerd is not touched and nothing stays
//! behind on the machine.
//!
//! - [`alone`]: mount, network and process namespaces for the whole run
//! - [`bed`]: containerd's life and configuration
//! - [`client`]: CRI's calls, each error with call and status
//! - [`spec`]: a pod and its containers as kubelet describes them
//! - [`pod`]: a pod that runs, and kubelet's part in its life
//! - [`manifest`]: pod manifests
//! - [`log_file`]: the format of container logs
//! - [`stream`]: exec, attach and port-forward
//! - [`traces`]: what is there before and after
//!
//! The words are Kubernetes': a *pod sandbox* is what a runtime makes of a pod before its containers,
//! a *runtime handler* is the name by which a RuntimeClass chooses a runtime.

pub mod alone;
pub mod bed;
pub mod client;
pub mod handler;
pub mod log_file;
pub mod manifest;
pub mod pod;
pub mod spec;
pub mod stream;
pub mod traces;
pub mod wait;

pub use handler::Handler;
