//! Connections that the host asks for to servers on the pod's localhost, as for port forwarding.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::events::{Interest, Kind, Token};
use crate::opening::{refuse, reply};
use crate::server::Agent;
use crate::stdio::{Channel, Direction};

/// Most connections that are being made at a time.
const MAX_DIALING: usize = 64;

/// A connection that is being made for the host.
#[derive(Debug)]
pub(crate) struct Dialing {
    /// The host's connection.
    host: OwnedFd,
    tcp: OwnedFd,
    address: SocketAddr,
}

impl Dialing {
    fn start(host: OwnedFd, address: SocketAddr) -> Result<Self, (OwnedFd, String)> {
        match dial(address) {
            Ok(tcp) => Ok(Self { host, tcp, address }),
            Err(error) => Err((host, format!("connect to {address}: {error}"))),
        }
    }

    /// How it came out, once it has.
    fn outcome(&self) -> Result<(), Errno> {
        rustix::net::sockopt::socket_error(&self.tcp).and_then(|outcome| outcome)
    }
}

/// Begins to connect, without waiting for it.
fn dial(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let tcp = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&tcp, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(tcp),
        Err(error) => Err(error.into()),
    }
}

impl Agent {
    /// Connects `host` to a port of localhost, of either family.
    pub(crate) fn dial_localhost(&mut self, port: u32, host: OwnedFd) {
        let port = match u16::try_from(port) {
            Ok(port) if port > 0 => port,
            _ => return refuse(&host, format!("there is no port {port}")),
        };
        if self.dialing.len() >= MAX_DIALING {
            return refuse(&host, "too many connections are being made".to_owned());
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match Dialing::start(host, address) {
            Ok(dialing) => self.wait_for(dialing),
            Err((host, error)) => refuse(&host, error),
        }
    }

    fn wait_for(&mut self, dialing: Dialing) {
        let id = self.next_id();
        let token = Token::new(Kind::Dialing, id);
        match self.poller.add(&dialing.tcp, token, Interest::Write) {
            Ok(()) => drop(self.dialing.insert(id, dialing)),
            Err(error) => refuse(&dialing.host, error.to_string()),
        }
    }

    /// Goes on with a connection that was made, or could not be.
    pub(crate) fn continue_dialing(&mut self, id: u64) {
        let Some(dialing) = self.dialing.remove(&id) else {
            return;
        };
        self.poller.remove(&dialing.tcp);
        let port = dialing.address.port();
        match dialing.outcome() {
            Ok(()) => {
                if let Err(error) = self.join(&dialing) {
                    refuse(&dialing.host, error);
                }
            }
            // A server may listen on localhost's other address alone.
            Err(error) if dialing.address.is_ipv4() => {
                let address = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
                match Dialing::start(dialing.host, address) {
                    Ok(dialing) => self.wait_for(dialing),
                    // Without IPv6 the first answer is the one that counts.
                    Err((host, _)) => refuse(&host, format!("connect to port {port}: {error}")),
                }
            }
            Err(error) => refuse(&dialing.host, format!("connect to port {port}: {error}")),
        }
    }

    /// Lets bytes flow both ways.
    fn join(&mut self, dialing: &Dialing) -> Result<(), String> {
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(|error| error.to_string());
        // Each channel registers descriptors of its own.
        let channels = [
            (copy(&dialing.host)?, copy(&dialing.tcp)?),
            (copy(&dialing.tcp)?, copy(&dialing.host)?),
        ];
        // Before the first byte of the stream.
        reply(&dialing.host, String::new())?;
        for (source, destination) in channels {
            let id = self.next_id();
            let channel = Channel::new(source, destination, Direction::Socket);
            self.pump
                .add(id, channel, &self.poller)
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}
