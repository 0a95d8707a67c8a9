//! TCP ports of the host that stand for ports of a pod.
//!
//! ```text
//!   who dials ──▶ host:8080 ──accept──▶ Dial::dial(80) ──stream──▶ guest's localhost:80
//!                                        │
//!                                        └─ relay: a thread for each connection
//! ```
//!
//! A published port and `podvmm port-forward` are the same thing, run by the pod's monitor or by a program
//! beside it. It takes no rule of a firewall, no network of the pod's own and no more rights than listening
//! takes: bytes go through the agent. What it costs is a copy of each byte in here.

mod listen;
mod relay;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::net::sockopt::set_socket_linger;

pub use listen::{ListenError, PortPlan, listen};

/// Most connections at a time; each takes a thread.
pub const MAX_CONNECTIONS: usize = 512;
/// Stack of each thread.
const STACK: usize = 128 * 1024;
/// How long to wait where no connection can be accepted, for want of descriptors as a rule.
const RETRY: Duration = Duration::from_millis(100);

/// Makes the connections into a pod.
pub trait Dial: Send + Sync + 'static {
    /// Why there is no connection.
    type Error;

    /// Connects to a port of the pod.
    ///
    /// # Errors
    /// When nobody listens there, or there is no pod any more; whoever has dialed is reset.
    fn dial(&self, port: u16) -> Result<UnixStream, Self::Error>;

    /// Is told of each connection to `host`, before it is made.
    fn connecting(&self, host: SocketAddr) {
        let _ = host;
    }

    /// Is told of each connection that came to nothing.
    fn failed(&self, port: u16, error: Self::Error);
}

/// A socket that listens on the host, and the port of the pod that it stands for.
#[derive(Debug)]
pub struct Listening {
    /// The socket.
    pub socket: TcpListener,
    /// The pod's port.
    pub port: u16,
}

/// Forwards until it is dropped, and ends its connections then.
#[derive(Debug)]
pub struct Forwarder {
    quit: Arc<OwnedFd>,
    acceptor: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Takes what comes to `sockets` to whom `dial` finds.
    ///
    /// # Errors
    /// When there are no more threads or descriptors.
    pub fn start<D: Dial>(sockets: Vec<Listening>, dial: D) -> io::Result<Self> {
        for listening in &sockets {
            // Who has dialed may have gone before it is accepted.
            listening.socket.set_nonblocking(true)?;
        }
        let quit = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let forwarding = Forwarding {
            dial: Arc::new(dial),
            quit: Arc::clone(&quit),
            busy: Arc::default(),
        };
        let thread = std::thread::Builder::new()
            .name("ports".into())
            .stack_size(STACK);
        let acceptor = thread.spawn(move || forwarding.accept(&sockets))?;
        Ok(Self {
            quit,
            acceptor: Some(acceptor),
        })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // It is never read: every connection sees it.
        let _ = rustix::io::write(&self.quit, &1u64.to_ne_bytes());
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

struct Forwarding<D> {
    dial: Arc<D>,
    quit: Arc<OwnedFd>,
    busy: Arc<AtomicUsize>,
}

impl<D: Dial> Forwarding<D> {
    fn accept(&self, sockets: &[Listening]) {
        loop {
            let listening = sockets.iter().map(|one| &one.socket);
            let mut set: Vec<_> = listening
                .map(|socket| PollFd::new(socket, PollFlags::IN))
                .collect();
            set.push(PollFd::new(&self.quit, PollFlags::IN));
            let _ = poll(&mut set, None);
            if set.last().is_some_and(|quit| !quit.revents().is_empty()) {
                return;
            }
            for (listening, ready) in sockets.iter().zip(&set) {
                if ready.revents().is_empty() {
                    continue;
                }
                match listening.socket.accept() {
                    Ok((connection, _)) => self.forward(connection, listening.port),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => {
                        log::debug!("port {}: {error}", listening.port);
                        std::thread::sleep(RETRY);
                    }
                }
            }
        }
    }

    fn forward(&self, connection: TcpStream, port: u16) {
        // Only this thread adds: there are never more.
        if self.busy.load(Ordering::Acquire) >= MAX_CONNECTIONS {
            log::warn!("port {port}: {MAX_CONNECTIONS} connections are forwarded already");
            return reset(&connection);
        }
        self.busy.fetch_add(1, Ordering::AcqRel);
        let (dial, quit) = (Arc::clone(&self.dial), Arc::clone(&self.quit));
        let busy = Arc::clone(&self.busy);
        let thread = std::thread::Builder::new()
            .name("connection".into())
            .stack_size(STACK);
        let spawned = thread.spawn(move || {
            carry(&*dial, &connection, port, &quit);
            busy.fetch_sub(1, Ordering::AcqRel);
        });
        if let Err(error) = spawned {
            self.busy.fetch_sub(1, Ordering::AcqRel);
            log::warn!("port {port}: no thread for a connection: {error}");
        }
    }
}

/// Carries one connection into the pod and back.
fn carry<D: Dial>(dial: &D, connection: &TcpStream, port: u16, quit: &OwnedFd) {
    if let Ok(host) = connection.local_addr() {
        dial.connecting(host);
    }
    match dial.dial(port) {
        Ok(pod) => {
            if let Err(error) = relay::relay(connection, &pod, quit) {
                log::debug!("port {port}: {error}");
                reset(connection);
            }
        }
        Err(error) => {
            // The kernel has accepted for us what the pod refuses.
            reset(connection);
            dial.failed(port, error);
        }
    }
}

/// Lets the other end see that its connection did not end well, once this one is closed.
fn reset(connection: &TcpStream) {
    let _ = set_socket_linger(connection, Some(Duration::ZERO));
}

#[cfg(test)]
mod tests;
