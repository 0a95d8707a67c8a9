//! Asking a pod's monitor.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use thiserror::Error;

use super::protocol::{
    Ask, ExecRequest, FilesRequest, PodStats, RefusalKind, Reply, Request, ResizeRequest, SOCKET,
    Steer, Streams, VERSION,
};
use super::record::ExitRecord;
use crate::packet;
use crate::resize::PodSize;

/// Why a monitor did not do what it was asked for.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error("the pod's monitor cannot be reached")]
    Connect(#[source] io::Error),
    /// It went away before it answered.
    #[error("the pod's monitor ended before it answered")]
    Gone,
    /// It said no.
    #[error("{message}")]
    Refused {
        /// Why, as a program tells it apart.
        kind: RefusalKind,
        /// Why.
        message: String,
    },
    /// The connection failed.
    #[error("connection to the pod's monitor")]
    Connection(#[source] io::Error),
    /// It said something else.
    #[error("the pod's monitor gave an answer to another question")]
    Unexpected,
}

/// Asks the monitor of one pod. Each call has a connection of its own.
#[derive(Clone, Debug)]
pub struct PodClient {
    socket: PathBuf,
}

impl PodClient {
    /// For the pod with the directory `pod`; whether somebody is there shows when it is asked.
    #[must_use]
    pub fn new(pod: &Path) -> Self {
        Self {
            socket: pod.join(SOCKET),
        }
    }

    /// Runs one more command in a container.
    ///
    /// # Errors
    /// [`ClientError`]; with [`RefusalKind::Start`] the command could not be executed.
    pub fn exec(&self, request: ExecRequest) -> Result<ExecSession, ClientError> {
        let socket = self.ask(&Request::Exec(request.clone()))?;
        let (reply, fds) = receive(&socket)?;
        if reply != Reply::Started {
            return Err(ClientError::Unexpected);
        }
        let streams = Streams::of(request.terminal.is_some(), request.stdin, fds);
        let streams = streams.ok_or(ClientError::Unexpected)?;
        Ok(ExecSession::new(streams, socket))
    }

    /// Copies files into a container or out of it: a tar archive on the session's `stdin` or `stdout`. What
    /// fails is told on its `stderr`, and by a status other than 0. An archive that comes out is as much to
    /// be trusted as the container.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn files(&self, request: &FilesRequest) -> Result<ExecSession, ClientError> {
        let socket = self.ask(&Request::Files(request.clone()))?;
        let (reply, fds) = receive(&socket)?;
        if reply != Reply::Started {
            return Err(ClientError::Unexpected);
        }
        let streams = Streams::of(false, true, fds).ok_or(ClientError::Unexpected)?;
        Ok(ExecSession::new(streams, socket))
    }

    /// Gives the streams of a container's own command, from now on; its input if `stdin`, and if it has one.
    ///
    /// # Errors
    /// [`ClientError`]; a pod in the foreground has its streams where it was started.
    pub fn attach(&self, container: Option<&str>, stdin: bool) -> Result<Attached, ClientError> {
        let container = container.map(str::to_owned);
        let socket = self.ask(&Request::Attach { container, stdin })?;
        let (reply, fds) = receive(&socket)?;
        let Reply::Attached {
            terminal,
            stdin,
            stdin_once,
        } = reply
        else {
            return Err(ClientError::Unexpected);
        };
        let streams = Streams::of(terminal, stdin, fds).ok_or(ClientError::Unexpected)?;
        Ok(Attached {
            session: ExecSession::new(streams, socket),
            terminal,
            stdin_once,
        })
    }

    /// Sends a signal to the first process of `container`, or of all.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn signal(&self, container: Option<&str>, signal: u32) -> Result<(), ClientError> {
        let container = container.map(str::to_owned);
        self.done(&Request::Signal { container, signal })
    }

    /// Asks the containers to end, ends those that have not after `grace`, or after the plan's time,
    /// and returns when the pod has ended.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn stop(&self, grace: Option<Duration>) -> Result<(), ClientError> {
        let millis = |grace: Duration| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.done(&Request::Stop {
            grace_ms: grace.map(millis),
        })
    }

    /// Ends the VM at once, and returns when the pod has ended.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn destroy(&self) -> Result<(), ClientError> {
        self.done(&Request::Destroy)
    }

    /// Waits until the pod, or this container of it, has ended for good.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn wait(&self, container: Option<&str>) -> Result<ExitRecord, ClientError> {
        let container = container.map(str::to_owned);
        match receive(&self.ask(&Request::Wait { container })?)?.0 {
            Reply::Exited(exit) => Ok(exit),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// What guest and containers use.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn stats(&self) -> Result<PodStats, ClientError> {
        match receive(&self.ask(&Request::Stats)?)?.0 {
            Reply::Stats(stats) => Ok(stats),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Makes the VM larger or smaller, and tells how large it is then. What is not named stays as it is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn resize(&self, vcpus: Option<u64>, memory: Option<u64>) -> Result<PodSize, ClientError> {
        self.ask_size(&Request::Resize(ResizeRequest { vcpus, memory }))
    }

    /// How large the VM is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn size(&self) -> Result<PodSize, ClientError> {
        self.ask_size(&Request::Size)
    }

    fn ask_size(&self, request: &Request) -> Result<PodSize, ClientError> {
        match receive(&self.ask(request)?)?.0 {
            Reply::Size(size) => Ok(size),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Connects to whoever listens on a TCP port of the pod's localhost. Each direction ends with a
    /// half-close.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when nobody does.
    pub fn dial(&self, port: u16) -> Result<UnixStream, ClientError> {
        match receive(&self.ask(&Request::Dial { port })?)? {
            (Reply::Connected, fds) => match <[OwnedFd; 1]>::try_from(fds) {
                Ok([connection]) => Ok(connection.into()),
                Err(_) => Err(ClientError::Unexpected),
            },
            _ => Err(ClientError::Unexpected),
        }
    }

    fn done(&self, request: &Request) -> Result<(), ClientError> {
        match receive(&self.ask(request)?)?.0 {
            Reply::Done => Ok(()),
            _ => Err(ClientError::Unexpected),
        }
    }

    fn ask(&self, request: &Request) -> Result<OwnedFd, ClientError> {
        let connect = || -> io::Result<OwnedFd> {
            let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
            let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(&self.socket)?)?;
            Ok(socket)
        };
        let socket = connect().map_err(ClientError::Connect)?;
        let ask = Ask {
            version: VERSION,
            request: request.clone(),
        };
        packet::send(&socket, &ask, &[]).map_err(ClientError::Connection)?;
        Ok(socket)
    }
}

fn receive(socket: &OwnedFd) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
    match packet::receive(socket) {
        Ok(Some((Reply::Refused { kind, message }, _))) => {
            Err(ClientError::Refused { kind, message })
        }
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(ClientError::Gone),
        Err(error) => Err(ClientError::Connection(error)),
    }
}

/// A command that runs in a container. Dropping it leaves the command running.
#[derive(Debug)]
pub struct ExecSession {
    /// Standard input, until it is taken; with a terminal it is the terminal itself.
    pub stdin: Option<UnixStream>,
    /// Standard output, or the terminal.
    pub stdout: Option<UnixStream>,
    /// Standard error; none with a terminal.
    pub stderr: Option<UnixStream>,
    socket: Arc<OwnedFd>,
}

/// The streams of a container's own command.
#[derive(Debug)]
pub struct Attached {
    /// Streams, steering and end. Dropping it changes nothing for the command.
    pub session: ExecSession,
    /// Whether the command has a terminal.
    pub terminal: bool,
    /// Whether the end of this input is the end of the command's. Otherwise it must not be shut down.
    pub stdin_once: bool,
}

impl ExecSession {
    fn new(streams: Streams, socket: OwnedFd) -> Self {
        Self {
            stdin: streams.stdin.map(UnixStream::from),
            stdout: Some(streams.stdout.into()),
            stderr: streams.stderr.map(UnixStream::from),
            socket: Arc::new(socket),
        }
    }

    /// Steers the command from any thread.
    #[must_use]
    pub fn handle(&self) -> ExecHandle {
        ExecHandle(Arc::clone(&self.socket))
    }

    /// Waits until the command has ended. What it wrote may still have to be read: keep the session
    /// until that is done.
    ///
    /// # Errors
    /// [`ClientError::Gone`] when the pod has ended first.
    pub fn wait(&self) -> Result<ExitRecord, ClientError> {
        match receive(&self.socket)?.0 {
            Reply::Exited(exit) => Ok(exit),
            _ => Err(ClientError::Unexpected),
        }
    }
}

/// Steers a command that was started with [`PodClient::exec`].
#[derive(Clone, Debug)]
pub struct ExecHandle(Arc<OwnedFd>);

impl ExecHandle {
    /// Sends it a signal, and does not wait.
    ///
    /// # Errors
    /// When the monitor is gone.
    pub fn signal(&self, signal: u32) -> io::Result<()> {
        packet::send(&*self.0, &Steer::Signal(signal), &[])
    }

    /// Tells it the size of its terminal, and does not wait.
    ///
    /// # Errors
    /// When the monitor is gone.
    pub fn resize(&self, rows: u16, cols: u16) -> io::Result<()> {
        packet::send(&*self.0, &Steer::Resize { rows, cols }, &[])
    }
}
