//! One process that the host knows by name: a container's first, or one that was added to it.

use std::os::unix::net::UnixStream;

use agent_protocol::proto::{
    CloseStdinRequest, ExitStatus, RemoveContainerRequest, ResizePtyRequest,
    SignalContainerRequest, StartContainerRequest, StartError, WaitContainerRequest, exit_status,
    start_error,
};

use super::error::{ContainerError, StartFailure, call};
use super::streams::{AskedStreams, Streams};
use crate::guest::{Guest, call_context};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit status, or 128 plus the number of the signal that ended it.
    pub code: u8,
    /// The signal, if it was one.
    pub signal: Option<u32>,
    /// Whether the kernel ran out of the container's memory.
    pub oom_killed: bool,
    /// When, in nanoseconds since 1970 by the guest's clock.
    pub at_ns: u64,
}

impl Exit {
    pub(crate) fn from_wire(status: &ExitStatus) -> Self {
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
            at_ns: status.exited_at_ns,
        }
    }
}

/// A process and the host's ends of its standard streams.
#[derive(Debug)]
pub struct Process {
    handle: ProcessHandle,
    /// Standard input, until it is taken; with a terminal it is the terminal itself.
    pub stdin: Option<UnixStream>,
    /// Standard output; with a terminal it is the terminal itself.
    pub stdout: Option<UnixStream>,
    /// Standard error; none with a terminal.
    pub stderr: Option<UnixStream>,
}

impl Process {
    /// A process that was just made, and does not stay without its streams.
    pub(super) fn made(
        handle: ProcessHandle,
        streams: AskedStreams,
    ) -> Result<Self, ContainerError> {
        let opened = streams.opened().inspect_err(|_| {
            let _ = handle.remove();
        })?;
        let Streams {
            stdin,
            stdout,
            stderr,
        } = opened;
        Ok(Self {
            handle,
            stdin,
            stdout,
            stderr,
        })
    }

    /// Starts the command.
    ///
    /// # Errors
    /// [`ContainerError::Start`] when it cannot be executed.
    pub fn start(&self) -> Result<(), ContainerError> {
        self.handle.start()
    }

    /// Waits until the command ends, however long that takes.
    ///
    /// # Errors
    /// [`ContainerError::Call`] when the agent is gone.
    pub fn wait(&self) -> Result<Exit, ContainerError> {
        self.handle.wait()
    }

    /// Steers the process, from any thread.
    #[must_use]
    pub fn handle(&self) -> ProcessHandle {
        self.handle.clone()
    }
}

/// Steers a process from anywhere.
#[derive(Clone, Debug)]
pub struct ProcessHandle {
    guest: Guest,
    container: String,
    /// Empty for the container's first process.
    exec: String,
}

impl ProcessHandle {
    pub(super) fn new(guest: &Guest, container: &str, exec: &str) -> Self {
        Self {
            guest: guest.clone(),
            container: container.to_owned(),
            exec: exec.to_owned(),
        }
    }

    /// Starts the command.
    ///
    /// # Errors
    /// [`ContainerError::Start`] when it cannot be executed.
    pub fn start(&self) -> Result<(), ContainerError> {
        let request = StartContainerRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            ..Default::default()
        };
        let mut response = self
            .guest
            .agent
            .start_container(call_context(), &request)
            .map_err(call("StartContainer"))?;
        check_start(response.start_error.take())
    }

    /// Waits until the command ends, however long that takes.
    ///
    /// # Errors
    /// [`ContainerError::Call`] when the agent is gone.
    pub fn wait(&self) -> Result<Exit, ContainerError> {
        self.wait_and(false)
    }

    /// Likewise for one that was added to a container, and forgets it then; its streams stay until their
    /// ends.
    ///
    /// # Errors
    /// [`ContainerError::Call`] when the agent is gone.
    pub fn wait_and_forget(&self) -> Result<Exit, ContainerError> {
        self.wait_and(true)
    }

    fn wait_and(&self, forget: bool) -> Result<Exit, ContainerError> {
        let request = WaitContainerRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            forget,
            ..Default::default()
        };
        let forever = ttrpc::context::Context::default();
        let mut response = self
            .guest
            .agent
            .wait_container(forever, &request)
            .map_err(call("WaitContainer"))?;
        Ok(Exit::from_wire(&response.status.take().unwrap_or_default()))
    }

    /// Sends `signal` to it; `all` reaches every process of the container.
    ///
    /// # Errors
    /// [`ContainerError::Call`].
    pub fn signal(&self, signal: u32, all: bool) -> Result<(), ContainerError> {
        let request = SignalContainerRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            signal,
            all,
            ..Default::default()
        };
        self.guest
            .agent
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
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            rows: rows.into(),
            cols: cols.into(),
            ..Default::default()
        };
        self.guest
            .agent
            .resize_pty(call_context(), &request)
            .map_err(call("ResizePty"))?;
        Ok(())
    }

    /// Ends the command's input after everything that has arrived.
    ///
    /// # Errors
    /// [`ContainerError::Call`].
    pub fn close_stdin(&self) -> Result<(), ContainerError> {
        let request = CloseStdinRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            ..Default::default()
        };
        self.guest
            .agent
            .close_stdin(call_context(), &request)
            .map_err(call("CloseStdin"))?;
        Ok(())
    }

    /// Forgets the process, or the container with all its processes; what runs is killed.
    ///
    /// # Errors
    /// [`ContainerError::Call`].
    pub fn remove(&self) -> Result<(), ContainerError> {
        let request = RemoveContainerRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            force: true,
            ..Default::default()
        };
        self.guest
            .agent
            .remove_container(call_context(), &request)
            .map_err(call("RemoveContainer"))?;
        Ok(())
    }
}

/// What the agent tells of a command that should run.
pub(super) fn check_start(error: Option<StartError>) -> Result<(), ContainerError> {
    let Some(error) = error else {
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
