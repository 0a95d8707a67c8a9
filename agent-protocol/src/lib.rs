//! What a pod's host side and the agent inside its guest say to each other.
//!
//! ```text
//!   host                                            guest
//!   AgentClient ── ttrpc ───────────► port 1024     agent: calls of service Agent
//!   open_stream ── frame, bytes ────► port 1025     agent: one connection per stdio stream
//!   read_message ◄─────── frames ──── port 1024 of the host: the lifeline, AgentEvents
//! ```
//!
//! - [`proto`]: messages and ttrpc client, generated from `proto/agent.proto`.
//! - [`frame`]: length-prefixed messages on the connections that are not ttrpc.
//! - [`client`]: what the host needs to open each kind of connection.
//! - [`archive`]: files on their way into a container, or out of it.
//! - [`names`]: identifiers that are safe to use as a path component.
//!
//! *Lifeline*: the connection that the agent makes as soon as it serves calls and keeps as long as it
//! lives. *Stream*: standard input, output, error or the terminal of one process.
//!
//! ```
//! use podvmm_agent_protocol::frame::{read_message, write_message};
//! use podvmm_agent_protocol::proto::{AgentEvent, AgentHello};
//! use podvmm_agent_protocol::PROTOCOL_VERSION;
//!
//! let mut event = AgentEvent::new();
//! event.set_hello(AgentHello { protocol_version: PROTOCOL_VERSION, ..Default::default() });
//! let mut wire = Vec::new();
//! write_message(&mut wire, &event)?;
//! let received: AgentEvent = read_message(&mut wire.as_slice())?.expect("one frame was written");
//! assert_eq!(received.hello().protocol_version, PROTOCOL_VERSION);
//! # Ok::<(), podvmm_agent_protocol::frame::FrameError>(())
//! ```

pub mod archive;
pub mod client;
pub mod frame;
pub mod names;

/// Messages and the ttrpc client, generated from `proto/agent.proto`, which documents them.
#[allow(
    missing_docs,
    unused_qualifications,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]
pub mod proto {
    mod generated {
        include!(concat!(env!("OUT_DIR"), "/modules.rs"));
    }
    pub use generated::agent::*;
    pub use generated::agent_ttrpc::AgentClient;
}

/// Version of everything in this crate that both ends must agree on. Raised when one end could
/// misunderstand the other; fields that an older end may ignore do not raise it.
pub const PROTOCOL_VERSION: u32 = 2;

/// Guest's vsock port of the agent's ttrpc server.
pub const CONTROL_PORT: u32 = 1024;

/// Guest's vsock port that takes stdio streams.
pub const STREAM_PORT: u32 = 1025;

/// Host's vsock port that the agent dials as its lifeline.
pub const LIFELINE_PORT: u32 = 1024;

/// vsock context identifier of the host, as the guest sees it.
pub const HOST_CID: u32 = 2;

/// ttrpc's name of the service.
pub const SERVICE: &str = "podvmm.agent.v1.Agent";

/// Where the guest mounts the pod's share. Bind mounts of an OCI configuration take their sources from
/// below it.
pub const SHARE_PATH: &str = "/run/podvmm/share";

/// Where the guest keeps the directories of MakeVolume. Bind mounts may take their sources from below it,
/// too.
pub const VOLUMES_PATH: &str = "/run/podvmm/volumes";

/// Most bytes that ReadVolumeFile gives.
pub const MAX_READ_LEN: u32 = 1 << 16;

/// Largest OCI configuration, or part of one, that a call takes, in bytes.
pub const MAX_SPEC_LEN: usize = 1 << 20;

/// Most instructions of a seccomp filter: the kernel's BPF_MAXINSNS.
pub const MAX_SECCOMP_INSTRUCTIONS: usize = 4096;

/// Flags of a seccomp filter that a container may have: SECCOMP_FILTER_FLAG_LOG and _SPEC_ALLOW.
pub const SECCOMP_FLAGS: u32 = 0b110;

/// Most random bytes that SetupPod takes.
pub const MAX_ENTROPY_LEN: usize = 512;

/// Longest grace period of PowerOff, in milliseconds.
pub const MAX_GRACE_MS: u32 = 60_000;

/// The other end speaks another version of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "host speaks agent protocol {host}, agent speaks {agent}: use an initramfs and a podvmm of the same release"
)]
pub struct VersionMismatch {
    /// The host's version.
    pub host: u32,
    /// The agent's version.
    pub agent: u32,
}

/// Compares the versions of both ends.
///
/// # Errors
/// When they differ.
pub const fn check_versions(host: u32, agent: u32) -> Result<(), VersionMismatch> {
    if host == agent {
        Ok(())
    } else {
        Err(VersionMismatch { host, agent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mismatch_names_both_versions() {
        assert_eq!(check_versions(1, 1), Ok(()));
        let message = check_versions(7, 3).unwrap_err().to_string();
        assert!(message.contains('7') && message.contains('3'), "{message}");
    }
}
