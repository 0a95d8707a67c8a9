//! Ports of the host, taken for a pod.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Listening;

/// Most ports of the host that one pod may take.
pub const MAX_PORTS: usize = 256;

/// A TCP port of the host that stands for one of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortPlan {
    /// At which of the host's addresses; at all of them if none is named.
    pub address: Option<IpAddr>,
    /// The host's port; 0 for one that is free.
    pub host: u16,
    /// The pod's.
    pub pod: u16,
}

impl fmt::Display for PortPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{}", SocketAddr::new(address, self.host)),
            None => write!(f, "{}", self.host),
        }
    }
}

/// A port of the host is not to be had.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Somebody has it.
    #[error(
        "port {0} of this host is taken: another program listens there, or another pod; choose another port, or end that one (`ss -ltnp sport = {port}` names it)", port = .0.host
    )]
    Taken(PortPlan),
    /// The pod itself has it.
    #[error("port {0} of this host is published twice; name each only once")]
    Twice(PortPlan),
    /// It is for privileged programs.
    #[error(
        "port {0} of this host: only root may listen on ports below {first}; choose a higher one, or lower the bound (sysctl net.ipv4.ip_unprivileged_port_start={port})",
        first = first_for_all(), port = .0.host
    )]
    Privileged(PortPlan),
    /// The address is another host's.
    #[error("port {0}: this host has no such address; `ip addr` shows those that it has")]
    Address(PortPlan),
    /// There are too many.
    #[error("{0} ports are published; at most {MAX_PORTS} are possible")]
    TooMany(usize),
    /// Anything else.
    #[error("cannot listen on port {port} of this host")]
    System {
        /// Which.
        port: PortPlan,
        /// The system's reason.
        source: io::Error,
    },
}

/// Listens on all of `ports`, or on none.
///
/// # Errors
/// [`ListenError`] names the first that is not to be had.
pub fn listen(ports: &[PortPlan]) -> Result<Vec<Listening>, ListenError> {
    if ports.len() > MAX_PORTS {
        return Err(ListenError::TooMany(ports.len()));
    }
    let mut listening = Vec::with_capacity(ports.len());
    for (index, port) in ports.iter().enumerate() {
        if ports[..index].iter().any(|other| is_same(port, other)) {
            return Err(ListenError::Twice(*port));
        }
        let socket = bind(port).map_err(|error| explain(*port, error))?;
        listening.push(Listening {
            socket,
            port: port.pod,
        });
    }
    Ok(listening)
}

/// Whether two of them are one socket, or one is part of the other.
fn is_same(one: &PortPlan, other: &PortPlan) -> bool {
    let is_any = |port: &PortPlan| port.address.is_none_or(|address| address.is_unspecified());
    let overlap = one.address == other.address || is_any(one) || is_any(other);
    one.host != 0 && one.host == other.host && overlap
}

fn bind(port: &PortPlan) -> io::Result<TcpListener> {
    let at = |address: IpAddr| TcpListener::bind((address, port.host));
    match port.address {
        Some(address) => at(address),
        // Both families by one socket, as far as the host has both.
        None => match at(Ipv6Addr::UNSPECIFIED.into()) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                at(Ipv4Addr::UNSPECIFIED.into())
            }
            other => other,
        },
    }
}

fn explain(port: PortPlan, source: io::Error) -> ListenError {
    match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::Taken(port),
        io::ErrorKind::AddrNotAvailable => ListenError::Address(port),
        io::ErrorKind::PermissionDenied => ListenError::Privileged(port),
        _ => ListenError::System { port, source },
    }
}

/// The first port that every user may listen on.
fn first_for_all() -> u16 {
    const USUAL: u16 = 1024;
    let setting = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first = setting.ok().and_then(|text| text.trim().parse().ok());
    first.unwrap_or(USUAL)
}
