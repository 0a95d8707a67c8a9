//! The host's end of a connection: a Unix socket, or a fake of one in tests.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::buffers::GuestBuffers;

/// A byte stream that never blocks.
pub trait Stream {
    /// Takes bytes out of guest memory.
    fn send(&mut self, data: &GuestBuffers<'_>) -> io::Result<usize>;
    /// Takes bytes that were kept back.
    fn send_bytes(&mut self, data: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Gives bytes into guest memory; none at the end of the stream.
    fn receive(&mut self, room: &GuestBuffers<'_>) -> io::Result<usize>;
    /// Ends one direction or both.
    fn shutdown(&mut self, how: Shutdown);
    /// Whether to report that the stream takes bytes again.
    fn watch_writable(&mut self, on: bool);
}

/// Where streams come from.
pub trait Backend {
    /// Their type.
    type Stream: Stream;
    /// Connects to whoever listens on `port` of the host. Events of the stream will carry `token`.
    fn connect(&mut self, port: u32, token: u64) -> io::Result<Self::Stream>;
}

/// Readable, end of stream, hang-up: each reported once when it begins. A stream whose guest has no
/// room keeps quiet then, and no call is needed to silence it.
const READ_EVENTS: EventSet = EventSet::IN
    .union(EventSet::READ_HANG_UP)
    .union(EventSet::EDGE_TRIGGERED);

/// A Unix socket that an epoll instance watches.
pub struct HostStream {
    socket: UnixStream,
    epoll: Arc<Epoll>,
    token: u64,
    is_writable_watched: bool,
}

impl HostStream {
    /// Watches `socket`; its events carry `token`.
    pub fn new(socket: UnixStream, epoll: &Arc<Epoll>, token: u64) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let this = Self {
            socket,
            epoll: Arc::clone(epoll),
            token,
            is_writable_watched: false,
        };
        this.watch(ControlOperation::Add, READ_EVENTS)?;
        Ok(this)
    }

    /// The socket itself.
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Lets events carry `token` from now on. What is readable already is reported again.
    pub fn set_token(&mut self, token: u64) -> io::Result<()> {
        self.token = token;
        self.watch(ControlOperation::Modify, READ_EVENTS)
    }

    fn watch(&self, operation: ControlOperation, events: EventSet) -> io::Result<()> {
        let event = EpollEvent::new(events, self.token);
        self.epoll.ctl(operation, self.socket.as_raw_fd(), event)
    }
}

impl Stream for HostStream {
    fn send(&mut self, data: &GuestBuffers<'_>) -> io::Result<usize> {
        data.send_to(self.socket.as_fd())
    }

    fn send_bytes(&mut self, data: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let mut nothing = SendAncillaryBuffer::default();
        rustix::io::retry_on_intr(|| sendmsg(&self.socket, data, &mut nothing, flags))
            .map_err(Into::into)
    }

    fn receive(&mut self, room: &GuestBuffers<'_>) -> io::Result<usize> {
        room.receive_from(self.socket.as_fd())
    }

    fn shutdown(&mut self, how: Shutdown) {
        // It fails where the other end is gone, which is what was wanted.
        let _ = self.socket.shutdown(how);
    }

    fn watch_writable(&mut self, on: bool) {
        if self.is_writable_watched != on {
            let extra = if on { EventSet::OUT } else { EventSet::empty() };
            self.is_writable_watched = self
                .watch(ControlOperation::Modify, READ_EVENTS | extra)
                .is_ok()
                && on;
        }
    }
}

impl Drop for HostStream {
    fn drop(&mut self) {
        // Closing is not enough where a connector kept a duplicate.
        let _ = self.watch(ControlOperation::Delete, EventSet::empty());
    }
}
