//! What can go wrong with a pod.

use std::io;
use std::path::PathBuf;

use agent_protocol::VersionMismatch;
use agent_protocol::frame::FrameError;
use thiserror::Error;

use crate::assets::AssetError;
use crate::block::BlockError;
use crate::config::ShareError;
use crate::container::ContainerError;
use crate::control::End;
use crate::kvm::KvmError;
use crate::net::NetError;
use crate::rundir::RunDirError;

/// Why a pod could not be started, or ended.
#[derive(Debug, Error)]
pub enum PodError {
    /// This machine cannot run a VM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Kernel, initramfs or VMM binary is missing.
    #[error(transparent)]
    Asset(#[from] AssetError),
    /// A file of the guest could not be opened.
    #[error("{parameter} {path}")]
    OpenAsset {
        /// What the user calls it.
        parameter: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file of the guest is not what it should be.
    #[error("{parameter} {path}: {message}")]
    BadAsset {
        /// What the user calls it.
        parameter: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A host path could not be shared.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The network could not be had.
    #[error(transparent)]
    Network(#[from] NetError),
    /// The runtime directory could not be had.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// The VMM binary could not be executed.
    #[error("VMM binary {binary}")]
    SpawnVmm {
        /// The binary.
        binary: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The VMM process could not be given its configuration.
    #[error("the VMM process cannot be started")]
    StartVmm {
        /// The system's reason.
        source: io::Error,
    },
    /// The VMM could not make the machine.
    #[error("{message}")]
    Vmm {
        /// Its error and causes.
        message: String,
    },
    /// The VMM process ended without a report.
    #[error("the VMM process died: {message}")]
    VmmDied {
        /// What is known.
        message: String,
    },
    /// What the guest sees of the host could not be changed.
    #[error("share {share}: {message}")]
    ChangeShare {
        /// Name of the share.
        share: String,
        /// The VMM's reason.
        message: String,
    },
    /// The VM could not be resized.
    #[error("the VM cannot be resized: {message}")]
    Resize {
        /// The VMM's reason.
        message: String,
    },
    /// A block volume could not be given to the guest.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The VMM said something that is no report.
    #[error("the VMM process sent nonsense")]
    Control {
        /// What was wrong.
        source: io::Error,
    },
    /// The VM stopped before its work was done.
    #[error("{end}{}", tail(.console))]
    Ended {
        /// How.
        end: End,
        /// The newest console output.
        console: String,
    },
    /// The caller gave up.
    #[error("the start of the pod was cancelled")]
    Cancelled,
    /// The agent did not come.
    #[error("the guest did not start in time; --console FILE shows what its kernel says")]
    BootTimeout,
    /// The agent could not go on.
    #[error("the guest's agent failed: {message}")]
    Agent {
        /// Its reason.
        message: String,
    },
    /// What the agent said first could not be read.
    #[error("the guest's agent cannot be understood")]
    Hello(#[source] FrameError),
    /// Agent and host are of different versions.
    #[error(transparent)]
    Version(VersionMismatch),
    /// A connection to the guest failed.
    #[error("connection to the guest")]
    Connect(#[source] io::Error),
    /// A call to the agent failed.
    #[error("the guest's agent refused {call}")]
    Call {
        /// Which call.
        call: &'static str,
        /// Its reason.
        source: ttrpc::Error,
    },
    /// A container failed.
    #[error(transparent)]
    Container(#[from] ContainerError),
}

impl PodError {
    /// Whether the connection to the guest broke, so that the guest's end may say more.
    pub(crate) fn is_of_connection(&self) -> bool {
        match self {
            Self::Connect(_) => true,
            Self::Call { source, .. } => !matches!(source, ttrpc::Error::RpcStatus(_)),
            Self::Container(error) => !error.is_refusal(),
            _ => false,
        }
    }
}

/// The last lines of a console, for the end of an error.
fn tail(console: &str) -> String {
    const LINES: usize = 12;
    let lines: Vec<_> = console
        .lines()
        .map(str::trim_end)
        .filter(|l| !l.is_empty())
        .collect();
    if lines.is_empty() {
        return String::new();
    }
    let last = &lines[lines.len().saturating_sub(LINES)..];
    format!(
        "\nlast lines of the guest's console:\n  {}",
        last.join("\n  ")
    )
}
