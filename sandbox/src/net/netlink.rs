//! A route netlink socket: requests, acknowledgements and dumps, one after the other.
//!
//! It belongs to the network namespace of the thread that opens it.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};
use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The kernel sends messages of a dump in pieces of up to 32 KiB.
const BUFFER: usize = 64 * 1024;
/// `NLMSGERR_ATTR_MSG`: a sentence about what went wrong.
const ERROR_MESSAGE: u16 = 1;
/// Attribute types carry two flags on top.
const TYPE_MASK: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

/// Why a request failed.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// The kernel refused it.
    #[error("{source}{}", sentence(.message))]
    Refused {
        /// Its reason, which is part of the message.
        source: Errno,
        /// What it says about it; may be empty.
        message: String,
    },
    /// The socket failed.
    #[error("netlink socket")]
    Socket(#[source] io::Error),
    /// An answer that is none.
    #[error("the kernel's answer is malformed")]
    Malformed,
}

/// An error number of the kernel, with its name for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl std::error::Error for Errno {}

fn sentence(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

impl NetlinkError {
    /// The kernel's error number, if it refused.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => Some(source.0),
            Self::Socket(_) | Self::Malformed => None,
        }
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MessageHeader {
    len: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

const HEADER: usize = size_of::<MessageHeader>();

/// A request under construction.
pub struct Request(Vec<u8>);

impl Request {
    /// A request of `kind` (`RTM_*`) that begins with `body`.
    pub fn new<T: IntoBytes + Immutable>(kind: u16, flags: i32, body: &T) -> Self {
        let header = MessageHeader {
            len: 0,
            kind,
            flags: flags as u16 | libc::NLM_F_REQUEST as u16,
            sequence: 0,
            port: 0,
        };
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(body.as_bytes());
        Self(bytes)
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, kind: u16, payload: &[u8]) -> Self {
        self.put(kind, payload);
        self
    }

    /// Adds an attribute that holds what `fill` adds.
    #[must_use]
    pub fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.put(kind | NESTED, &[]);
        self = fill(self);
        let len = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self
    }

    /// Adds bytes that are no attribute.
    #[cfg(test)]
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn put(&mut self, kind: u16, payload: &[u8]) {
        let len = (4 + payload.len()) as u16;
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(payload);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// Attributes in `bytes`, as far as they are well-formed: type and payload.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & TYPE_MASK;
        let payload = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// The payload of the first attribute of type `kind`.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, payload)| (found == kind).then_some(payload))
}

/// A number in an attribute's payload.
pub fn number(payload: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(payload.get(..4)?.try_into().ok()?))
}

/// A text in an attribute's payload, up to its NUL.
pub fn text(payload: &[u8]) -> String {
    let text = payload.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// An open socket.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens one in the network namespace of this thread.
    pub fn open() -> Result<Self, NetlinkError> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)
            .map_err(|errno| NetlinkError::Socket(errno.into()))?;
        // Without it the kernel gives numbers only.
        if let Err(error) = super::sys::ask_for_sentences(&socket) {
            log::debug!("netlink: errors come without an explanation: {error}");
        }
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// Sends `request`, made without `NLM_F_ACK`, and waits until it was carried out.
    pub fn execute(&mut self, mut request: Request) -> Result<(), NetlinkError> {
        let flags = u16::from_ne_bytes([request.0[6], request.0[7]]) | libc::NLM_F_ACK as u16;
        request.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.exchange(request, |_, _| Ok(()))
    }

    /// Sends a dump request and gives type and body of each message to `take`.
    pub fn dump(
        &mut self,
        request: Request,
        take: impl FnMut(u16, &[u8]) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        self.exchange(request, take)
    }

    fn exchange(
        &mut self,
        request: Request,
        mut take: impl FnMut(u16, &[u8]) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        self.sequence += 1;
        let request = request.finish(self.sequence);
        let failed = |errno: rustix::io::Errno| NetlinkError::Socket(errno.into());
        rustix::io::retry_on_intr(|| send(&self.socket, &request, SendFlags::empty()))
            .map_err(failed)?;
        loop {
            let received = rustix::io::retry_on_intr(|| {
                recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::TRUNC)
            });
            let (_, len) = received.map_err(failed)?;
            let mut rest = self.buffer.get(..len).ok_or(NetlinkError::Malformed)?;
            while !rest.is_empty() {
                let (header, _) =
                    MessageHeader::read_from_prefix(rest).map_err(|_| NetlinkError::Malformed)?;
                let len = header.len as usize;
                let body = rest.get(HEADER..len).ok_or(NetlinkError::Malformed)?;
                rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
                if header.sequence != self.sequence {
                    continue;
                }
                match i32::from(header.kind) {
                    libc::NLMSG_DONE => return verdict(header, body, 4),
                    libc::NLMSG_ERROR => return verdict(header, body, 4 + HEADER),
                    libc::NLMSG_NOOP => {}
                    _ => take(header.kind, body)?,
                }
            }
        }
    }
}

/// What an acknowledgement or the end of a dump says; a sentence may come `offset` bytes in.
fn verdict(header: MessageHeader, body: &[u8], offset: usize) -> Result<(), NetlinkError> {
    let code = body.get(..4).and_then(|code| code.try_into().ok());
    // The end of a dump may have no code.
    let code = code.map_or(0, i32::from_ne_bytes);
    if code >= 0 {
        return Ok(());
    }
    let flags = i32::from(header.flags);
    let mut message = String::new();
    if flags & libc::NLM_F_ACK_TLVS != 0 {
        // Behind the code comes the request's header, and the request unless it was left out.
        let request_len = match body.get(4..).map(MessageHeader::read_from_prefix) {
            Some(Ok((request, _))) if offset > 4 && flags & libc::NLM_F_CAPPED == 0 => {
                (request.len as usize).saturating_sub(HEADER)
            }
            _ => 0,
        };
        let extra = body.get(offset + request_len.next_multiple_of(4)..);
        message = extra
            .and_then(|extra| attribute(extra, ERROR_MESSAGE))
            .map(text)
            .unwrap_or_default();
    }
    Err(NetlinkError::Refused {
        source: Errno(-code),
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_are_written() {
        let request = Request::new(1, 0, &[0_u8; 4])
            .with(3, b"odd")
            .nest(5, |inner| inner.with(1, &[]).with(2, &7_u32.to_ne_bytes()))
            .with(9, b"x\0");
        let bytes = request.finish(1);
        assert_eq!(bytes.len() as u32, number(&bytes).unwrap());
        let body = &bytes[HEADER + 4..];
        let all: Vec<_> = attributes(body).map(|(kind, _)| kind).collect();
        assert_eq!(all, [3, 5, 9]);
        assert_eq!(attribute(body, 3), Some(&b"odd"[..]));
        assert_eq!(text(attribute(body, 9).unwrap()), "x");
        let inner = attribute(body, 5).unwrap();
        assert_eq!(attribute(inner, 1), Some(&[][..]));
        assert_eq!(attribute(inner, 2).and_then(number), Some(7));
        assert_eq!(attribute(inner, 3), None);
    }

    #[test]
    fn malformed_attributes_end_the_list() {
        for bytes in [
            &[][..],
            &[8, 0, 1],
            &[0, 0, 1, 0],
            &[3, 0, 1, 0],
            &[9, 0, 1, 0, 1, 2, 3, 4],
            &[255, 255, 1, 0],
        ] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
        assert_eq!(number(&[1, 2, 3]), None);
    }

    #[test]
    fn a_refusal_carries_the_kernels_sentence() {
        let header = MessageHeader {
            len: 0,
            kind: libc::NLMSG_ERROR as u16,
            flags: (libc::NLM_F_ACK_TLVS | libc::NLM_F_CAPPED) as u16,
            sequence: 1,
            port: 0,
        };
        let mut body = (-libc::ENOENT).to_ne_bytes().to_vec();
        body.extend_from_slice(&[0; HEADER]);
        let error = verdict(header, &body, 4 + HEADER).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOENT));
        body.extend_from_slice(&[8, 0, 1, 0]);
        body.extend_from_slice(b"why\0");
        let error = verdict(header, &body, 4 + HEADER).unwrap_err();
        assert!(error.to_string().ends_with(": why"), "{error}");
        assert!(verdict(header, &[0; 4], 4).is_ok());
    }
}
