//! One container of a pod.

use std::io;
use std::os::unix::net::UnixStream;

use agent_protocol::STREAM_PORT;
use agent_protocol::client::{OpenStreamError, open_stream};
use agent_protocol::proto::{
    AgentClient, CreateContainerRequest, ExitStatus, RemoveContainerRequest, ResizePtyRequest,
    SignalContainerRequest, StartContainerRequest, StreamOpen, WaitContainerRequest, exit_status,
    start_error, stream_open,
};
use thiserror::Error;

use crate::oci::{ContainerConfig, Stdio};
use crate::pod::call_context;

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
    #[error("a standard stream cannot be connected")]
    Connect(#[source] io::Error),
    /// The agent did not give the stream.
    #[error("a standard stream cannot be opened")]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFailure {
    /// No such file: a shell's status 127.
    NotFound,
    /// There is one, but it cannot be executed: a shell's status 126.
    NotExecutable,
    /// Anything else.
    Other,
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit status, or 128 plus the number of the signal that ended it.
    pub code: u8,
    /// The signal, if it was one.
    pub signal: Option<u32>,
    /// Whether the kernel ran out of the container's memory.
    pub oom_killed: bool,
}

/// A container and its ends of the standard streams.
pub struct Container {
    agent: AgentClient,
    id: String,
    /// Standard input, until it is taken; with a terminal it is the terminal itself.
    pub stdin: Option<UnixStream>,
    /// Standard output; with a terminal it is the terminal itself.
    pub stdout: Option<UnixStream>,
    /// Standard error; none with a terminal.
    pub stderr: Option<UnixStream>,
}

impl ContainerError {
    /// Whether the agent answered, and said no. Otherwise the connection to it is broken.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Call { error, .. } => matches!(error, ttrpc::Error::RpcStatus(_)),
            Self::Open(error) => matches!(error, OpenStreamError::Refused { .. }),
            Self::Connect(_) => false,
            Self::Start { .. } => true,
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

fn call(call: &'static str) -> impl Fn(ttrpc::Error) -> ContainerError {
    move |error| ContainerError::Call { call, error }
}

impl Container {
    pub(crate) fn create(
        agent: AgentClient,
        config: &ContainerConfig,
        connect: impl Fn(u32) -> io::Result<UnixStream>,
    ) -> Result<Self, ContainerError> {
        let request = CreateContainerRequest {
            container_id: config.id.clone(),
            oci_spec_json: config.spec_json(),
            rootfs: Some(config.rootfs_message()).into(),
            stdio: Some(config.stdio_message()).into(),
            ..Default::default()
        };
        agent
            .create_container(call_context(), &request)
            .map_err(call("CreateContainer"))?;
        let open = |stream: stream_open::Stream| -> Result<UnixStream, ContainerError> {
            let mut connection = connect(STREAM_PORT).map_err(ContainerError::Connect)?;
            let request = StreamOpen {
                container_id: config.id.clone(),
                stream: stream.into(),
                ..Default::default()
            };
            open_stream(&mut connection, &request).map_err(ContainerError::Open)?;
            Ok(connection)
        };
        let mut container = Self {
            agent,
            id: config.id.clone(),
            stdin: None,
            stdout: None,
            stderr: None,
        };
        match config.stdio {
            Stdio::Terminal { .. } => {
                let pty = open(stream_open::Stream::PTY)?;
                container.stdin = Some(pty.try_clone().map_err(ContainerError::Connect)?);
                container.stdout = Some(pty);
            }
            Stdio::Pipes { stdin } => {
                if stdin {
                    container.stdin = Some(open(stream_open::Stream::STDIN)?);
                }
                container.stdout = Some(open(stream_open::Stream::STDOUT)?);
                container.stderr = Some(open(stream_open::Stream::STDERR)?);
            }
        }
        Ok(container)
    }

    /// Starts the command.
    ///
    /// # Errors
    /// [`ContainerError::Start`] when it cannot be executed.
    pub fn start(&self) -> Result<(), ContainerError> {
        let request = StartContainerRequest {
            container_id: self.id.clone(),
            ..Default::default()
        };
        let mut response = self
            .agent
            .start_container(call_context(), &request)
            .map_err(call("StartContainer"))?;
        let Some(error) = response.start_error.take() else {
            return Ok(());
        };
        let kind = match error.kind.enum_value_or_default() {
            start_error::Kind::COMMAND_NOT_FOUND => StartFailure::NotFound,
            start_error::Kind::COMMAND_NOT_EXECUTABLE => StartFailure::NotExecutable,
            start_error::Kind::OTHER => StartFailure::Other,
        };
        Err(ContainerError::Start {
            kind,
            message: error.message,
        })
    }

    /// A handle for signals and resizing, usable from any thread.
    #[must_use]
    pub fn handle(&self) -> ContainerHandle {
        ContainerHandle {
            agent: self.agent.clone(),
            id: self.id.clone(),
        }
    }

    /// Waits until the command ends, however long that takes.
    ///
    /// # Errors
    /// [`ContainerError::Call`] when the agent is gone.
    pub fn wait(&self) -> Result<Exit, ContainerError> {
        let request = WaitContainerRequest {
            container_id: self.id.clone(),
            ..Default::default()
        };
        let forever = ttrpc::context::Context::default();
        let mut response = self
            .agent
            .wait_container(forever, &request)
            .map_err(call("WaitContainer"))?;
        Ok(Exit::from_wire(&response.status.take().unwrap_or_default()))
    }

    /// Removes the container; one that runs is killed.
    ///
    /// # Errors
    /// [`ContainerError::Call`].
    pub fn remove(self) -> Result<(), ContainerError> {
        let request = RemoveContainerRequest {
            container_id: self.id.clone(),
            force: true,
            ..Default::default()
        };
        self.agent
            .remove_container(call_context(), &request)
            .map_err(call("RemoveContainer"))?;
        Ok(())
    }
}

/// Steers a container from another thread.
#[derive(Clone)]
pub struct ContainerHandle {
    agent: AgentClient,
    id: String,
}

impl ContainerHandle {
    /// Sends `signal` to the container's first process.
    ///
    /// # Errors
    /// [`ContainerError::Call`].
    pub fn signal(&self, signal: u32) -> Result<(), ContainerError> {
        let request = SignalContainerRequest {
            container_id: self.id.clone(),
            signal,
            ..Default::default()
        };
        self.agent
            .signal_container(call_context(), &request)
            .map_err(call("SignalContainer"))?;
        Ok(())
    }

    /// Sets the size of the terminal in characters.
    ///
    /// # Errors
    /// [`ContainerError::Call`].
    pub fn resize(&self, rows: u16, cols: u16) -> Result<(), ContainerError> {
        let request = ResizePtyRequest {
            container_id: self.id.clone(),
            rows: rows.into(),
            cols: cols.into(),
            ..Default::default()
        };
        self.agent
            .resize_pty(call_context(), &request)
            .map_err(call("ResizePty"))?;
        Ok(())
    }
}

impl Exit {
    fn from_wire(status: &ExitStatus) -> Self {
        // The agent is not trusted: whatever it says becomes a status that a process can have.
        let (code, signal) = match status.how {
            Some(exit_status::How::ExitCode(code)) => (u8::try_from(code).unwrap_or(255), None),
            Some(exit_status::How::Signal(signal)) => (
                u8::try_from(signal.saturating_add(128)).unwrap_or(255),
                Some(signal),
            ),
            _ => (255, None),
        };
        Self {
            code,
            signal,
            oom_killed: status.oom_killed,
        }
    }
}
