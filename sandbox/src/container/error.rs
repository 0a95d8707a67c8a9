//! Why a container could not do something.

use std::io;

use agent_protocol::client::OpenStreamError;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a container could not do something.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// The agent refused.
    #[error("the guest's agent refused {call}: {}", reason(.error))]
    Call {
        /// Which call.
        call: &'static str,
        /// Its reason, which is part of the message.
        error: ttrpc::Error,
    },
    /// A stream could not be connected.
    #[error("a stream cannot be connected")]
    Connect(#[source] io::Error),
    /// The agent did not give the stream.
    #[error("a stream cannot be opened")]
    Open(#[source] OpenStreamError),
    /// The command could not be executed.
    #[error("{message}")]
    Start {
        /// Which way it failed.
        kind: StartFailure,
        /// The agent's words.
        message: String,
    },
}

/// Why a command could not be executed, as shells tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartFailure {
    /// No such file: a shell's status 127.
    NotFound,
    /// There is one, but it cannot be executed: a shell's status 126.
    NotExecutable,
    /// Anything else.
    Other,
}

/// What an agent's refusal means to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request is wrong.
    Invalid,
    /// There is no such container or process.
    NotFound,
    /// There is one of that name already.
    AlreadyExists,
    /// Not in the state that it is in.
    NotNow,
    /// A bound is reached.
    Exhausted,
    /// The agent does not do that.
    Unsupported,
    /// The guest failed.
    Failed,
}

impl ContainerError {
    /// Whether the agent answered, and said no. Otherwise the connection to it is broken.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.refusal().is_some()
    }

    /// What the agent's refusal means, if it was one.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        use ttrpc::Code;
        match self {
            Self::Call {
                error: ttrpc::Error::RpcStatus(status),
                ..
            } => Some(match status.code() {
                Code::INVALID_ARGUMENT => Refusal::Invalid,
                Code::NOT_FOUND => Refusal::NotFound,
                Code::ALREADY_EXISTS => Refusal::AlreadyExists,
                Code::FAILED_PRECONDITION => Refusal::NotNow,
                Code::RESOURCE_EXHAUSTED => Refusal::Exhausted,
                Code::UNIMPLEMENTED => Refusal::Unsupported,
                _ => Refusal::Failed,
            }),
            Self::Open(OpenStreamError::Refused { .. }) | Self::Start { .. } => {
                Some(Refusal::Failed)
            }
            Self::Call { .. } | Self::Open(_) | Self::Connect(_) => None,
        }
    }
}

/// What ttrpc was told, without its own wording.
fn reason(error: &ttrpc::Error) -> String {
    match error {
        ttrpc::Error::RpcStatus(status) => status.message.clone(),
        other => other.to_string(),
    }
}

pub(crate) fn call(call: &'static str) -> impl Fn(ttrpc::Error) -> ContainerError {
    move |error| ContainerError::Call { call, error }
}
