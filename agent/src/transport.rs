//! How host and agent reach each other.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use agent_protocol::{HOST_CID, LIFELINE_PORT};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::sys::vsock;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 256;

/// A family of sockets.
#[derive(Debug, Clone)]
pub enum Transport {
    /// What guests use.
    Vsock,
    /// Sockets `PORT.sock` in a directory and a lifeline `lifeline.sock`, for tests without a guest.
    Unix(PathBuf),
}

impl Transport {
    /// Listens on a port.
    pub(crate) fn listen(&self, port: u32) -> io::Result<OwnedFd> {
        let socket = match self {
            Self::Vsock => {
                let socket = vsock::socket(SocketFlags::NONBLOCK)?;
                vsock::bind(&socket, port)?;
                socket
            }
            Self::Unix(directory) => {
                let socket = unix_socket(SocketFlags::NONBLOCK)?;
                let path = directory.join(format!("{port}.sock"));
                rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
                socket
            }
        };
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(socket)
    }

    /// Accepts a connection of the host, if there is one. The error is that of one connection.
    pub(crate) fn accept(&self, listener: impl AsFd) -> io::Result<Option<OwnedFd>> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = match rustix::net::accept_with(listener, flags) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // A process in a container could connect as well, by the guest's own identifier, and would then
        // have the agent's power over the pod.
        if matches!(self, Self::Vsock) && vsock::peer_cid(&socket)? != HOST_CID {
            return Ok(None);
        }
        Ok(Some(socket))
    }

    /// Makes the connection that the host recognises this agent's life by. Blocks until it is accepted.
    pub(crate) fn dial_lifeline(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Vsock => {
                let socket = vsock::socket(SocketFlags::empty())?;
                vsock::connect(&socket, HOST_CID, LIFELINE_PORT)?;
                Ok(socket)
            }
            Self::Unix(directory) => {
                let socket = unix_socket(SocketFlags::empty())?;
                let path = directory.join("lifeline.sock");
                rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
                Ok(socket)
            }
        }
    }
}

fn unix_socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        flags,
        None,
    )?)
}
