//! How a pod's guest is reached.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_protocol::CONTROL_PORT;
use agent_protocol::proto::AgentClient;

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
}

fn connect(vsock: &Path, port: u32) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(vsock)?;
    stream.set_read_timeout(Some(CALL_TIMEOUT))?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut byte = [0];
    // One byte at a time: what follows the line belongs to whoever uses the stream.
    while !answer.ends_with(b"\n") {
        if answer.len() >= MAX_CONNECT_ANSWER || stream.read(&mut byte)? == 0 {
            let message = format!("nobody answers on vsock port {port} of the guest");
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, message));
        }
        answer.push(byte[0]);
    }
    if !answer.starts_with(b"OK ") {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "unexpected answer to CONNECT",
        ));
    }
    stream.set_read_timeout(None)?;
    Ok(stream)
}

/// A deadline for a call that does little.
pub fn call_context() -> ttrpc::context::Context {
    ttrpc::context::with_duration(CALL_TIMEOUT)
}
