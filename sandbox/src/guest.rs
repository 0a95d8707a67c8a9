//! How a pod's guest is reached.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_protocol::client::await_opened;
use agent_protocol::frame::write_message;
use agent_protocol::proto::{AgentClient, StreamOpen};
use agent_protocol::{CONTROL_PORT, STREAM_PORT};

use crate::container::ContainerError;
use crate::pod::PodError;

/// How long the agent may take to answer a request that does little.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer to `CONNECT`: `OK` and a port number.
const MAX_CONNECT_ANSWER: usize = 32;

/// The agent's client and the way to further ports of the guest. Clones share the connection.
#[derive(Clone)]
pub struct Guest {
    pub agent: AgentClient,
    vsock: PathBuf,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Guest").field(&self.vsock).finish()
    }
}

impl Guest {
    /// Connects to the agent behind the Unix socket `vsock`.
    pub fn dial(vsock: PathBuf) -> Result<Self, PodError> {
        let stream = connect(&vsock, CONTROL_PORT).map_err(PodError::Connect)?;
        let agent = agent_protocol::client::connect(stream).map_err(|source| PodError::Call {
            call: "a connection",
            source,
        })?;
        Ok(Self { agent, vsock })
    }

    /// Connects to a vsock port of the guest.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        connect(&self.vsock, port)
    }

    /// Asks for a stream, and waits for nothing: the request lies behind the `CONNECT` line until the guest
    /// has accepted the connection.
    pub fn ask_for_stream(&self, request: &StreamOpen) -> io::Result<AskedStream> {
        let mut bytes = connect_line(STREAM_PORT).into_bytes();
        write_message(&mut bytes, request).map_err(io::Error::other)?;
        let mut stream = UnixStream::connect(&self.vsock)?;
        stream.write_all(&bytes)?;
        Ok(AskedStream(stream))
    }
}

/// A connection whose stream the agent has not given yet.
#[derive(Debug)]
pub struct AskedStream(UnixStream);

impl AskedStream {
    /// The stream, if the agent gives it in time.
    pub fn opened(self, until: Instant) -> Result<UnixStream, ContainerError> {
        let mut timed = Timed {
            stream: &self.0,
            until,
        };
        await_connected(&mut timed, STREAM_PORT).map_err(ContainerError::Connect)?;
        await_opened(&mut timed).map_err(ContainerError::Open)?;
        let connected = self.0.set_read_timeout(None);
        connected.map_err(ContainerError::Connect)?;
        Ok(self.0)
    }
}

/// Reads of a stream that must have come by some time, however slowly its bytes drip.
struct Timed<'a> {
    stream: &'a UnixStream,
    until: Instant,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

fn connect_line(port: u32) -> String {
    format!("CONNECT {port}\n")
}

fn connect(vsock: &Path, port: u32) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(vsock)?;
    stream.write_all(connect_line(port).as_bytes())?;
    let mut timed = Timed {
        stream: &stream,
        until: Instant::now() + CALL_TIMEOUT,
    };
    await_connected(&mut timed, port)?;
    stream.set_read_timeout(None)?;
    Ok(stream)
}

/// Reads the answer to `CONNECT`.
fn await_connected(stream: &mut impl Read, port: u32) -> io::Result<()> {
    let refused = || {
        let message = format!("nobody answers on vsock port {port} of the guest");
        io::Error::new(io::ErrorKind::ConnectionRefused, message)
    };
    let mut answer = Vec::new();
    let mut byte = [0];
    // One byte at a time: what follows the line belongs to whoever uses the stream.
    while !answer.ends_with(b"\n") {
        if answer.len() >= MAX_CONNECT_ANSWER {
            return Err(refused());
        }
        match stream.read(&mut byte) {
            Ok(0) => return Err(refused()),
            Ok(_) => answer.push(byte[0]),
            // A socket with a time-out is not read again by itself after a signal, a terminal's new size say.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // It is closed with what was sent behind the line unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(refused()),
            Err(error) => return Err(error),
        }
    }
    if !answer.starts_with(b"OK ") {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "unexpected answer to CONNECT",
        ));
    }
    Ok(())
}

/// A deadline for a call that does little.
pub fn call_context() -> ttrpc::context::Context {
    ttrpc::context::with_duration(CALL_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a byte at every second attempt; a signal comes before each.
    struct Interrupted(&'static [u8], bool);

    impl Read for Interrupted {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            self.0.read(buffer)
        }
    }

    #[test]
    fn a_signal_does_not_end_a_connection_that_begins() {
        await_connected(&mut Interrupted(b"OK 1073741824\n", false), 1024).unwrap();
        let closed = await_connected(&mut Interrupted(b"OK", false), 1024);
        let kind = closed.unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::ConnectionRefused);
    }
}
