//! Reaching host programs on behalf of the guest.

use std::ffi::OsString;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use vmm_sys_util::epoll::Epoll;

use super::config::HostPorts;
use super::stream::{Backend, HostStream};

/// Unix sockets of the host.
pub struct UnixBackend {
    pub ports: Arc<HostPorts>,
    pub epoll: Arc<Epoll>,
}

impl Backend for UnixBackend {
    type Stream = HostStream;

    fn connect(&mut self, port: u32, token: u64) -> io::Result<HostStream> {
        let socket = match &*self.ports {
            HostPorts::Closed => return Err(io::ErrorKind::ConnectionRefused.into()),
            HostPorts::UnixPrefix(prefix) => connect_to(prefix, port)?,
            HostPorts::Connector(connector) => connector(port)?,
        };
        HostStream::new(socket, &self.epoll, token)
    }
}

/// Connects to `<prefix>_<port>`, or fails at once when its backlog is full.
fn connect_to(prefix: &Path, port: u32) -> io::Result<UnixStream> {
    let mut path = OsString::from(prefix);
    path.push(format!("_{port}"));
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(&path)?)?;
    Ok(socket.into())
}
