//! What a socket device is made of, in types that cannot be wrong.

use std::fmt;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A context identifier that a guest may have: at least 3 and below `u32::MAX` (virtio-v1.2
/// §5.10.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct GuestCid(u32);

/// A context identifier that is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("context identifier {0} is reserved; a guest's is from 3 to 4294967294")]
pub struct ReservedCid(pub u32);

impl GuestCid {
    /// As it stands in the configuration space and in packets.
    #[must_use]
    pub fn get(self) -> u64 {
        u64::from(self.0)
    }
}

impl TryFrom<u32> for GuestCid {
    type Error = ReservedCid;

    fn try_from(cid: u32) -> Result<Self, ReservedCid> {
        if (3..u32::MAX).contains(&cid) {
            Ok(Self(cid))
        } else {
            Err(ReservedCid(cid))
        }
    }
}

impl From<GuestCid> for u32 {
    fn from(cid: GuestCid) -> Self {
        cid.0
    }
}

/// How the guest's connections to a port of the host (CID 2) find somebody.
pub enum HostPorts {
    /// They find nobody.
    Closed,
    /// Port `P` is the Unix socket `<prefix>_P`.
    UnixPrefix(PathBuf),
    /// Whatever this gives for a port; an error refuses the connection. It is called on the device's
    /// worker, so it must not block. For a process that has no view of the host's file system.
    Connector(Box<Connector>),
}

/// Opens the stream that stands for a port of the host.
pub type Connector = dyn Fn(u32) -> io::Result<UnixStream> + Send + Sync;

impl fmt::Debug for HostPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("Closed"),
            Self::UnixPrefix(prefix) => f.debug_tuple("UnixPrefix").field(prefix).finish(),
            Self::Connector(_) => f.write_str("Connector"),
        }
    }
}

/// What one guest may use up on the host.
///
/// Memory is at most `connections` × `buffer` bytes, and only while host programs do not read what
/// the guest has sent them: otherwise data goes from guest memory to the socket without a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at one time, those being set up or drained included.
    pub connections: u16,
    /// Bytes that the guest may send on one connection before the host program takes them
    /// (`buf_alloc`).
    pub buffer: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            buffer: 256 * 1024,
        }
    }
}

/// Everything that a socket device is made of.
#[derive(Debug)]
pub struct VsockConfig {
    /// The guest's address.
    pub guest_cid: GuestCid,
    /// Where host programs ask for ports of the guest: bound and listening.
    pub listener: UnixListener,
    /// Where the guest's connections to the host go.
    pub host_ports: HostPorts,
    /// What the guest may use up.
    pub limits: Limits,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_cids_are_refused() {
        for cid in [0, 1, 2, u32::MAX] {
            assert_eq!(GuestCid::try_from(cid), Err(ReservedCid(cid)));
        }
        for cid in [3, 4, u32::MAX - 1] {
            assert_eq!(GuestCid::try_from(cid).map(u32::from), Ok(cid));
        }
    }
}
