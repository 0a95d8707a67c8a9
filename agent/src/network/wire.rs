//! rtnetlink's messages: a header, a structure by message type, then attributes.
//!
//! Names and numbers are those of linux/netlink.h and linux/rtnetlink.h. Everything is in the machine's byte
//! order but addresses, and everything begins at a multiple of four bytes.

use std::net::IpAddr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Link;
use super::plan::{Cidr, Mac, Neighbour, Route};

/// `struct nlmsghdr`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Header {
    pub(super) len: u32,
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(super) port: u32,
}

/// `struct ifinfomsg`.
#[derive(Debug, Default, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct LinkMessage {
    family: u8,
    padding: u8,
    kind: u16,
    index: u32,
    flags: u32,
    /// Which of `flags` are meant.
    change: u32,
}

/// `struct ifaddrmsg`.
#[derive(Debug, IntoBytes, Immutable)]
#[repr(C)]
struct AddressMessage {
    family: u8,
    prefix_len: u8,
    flags: u8,
    scope: u8,
    index: u32,
}

/// `struct rtmsg`.
#[derive(Debug, IntoBytes, Immutable)]
#[repr(C)]
struct RouteMessage {
    family: u8,
    destination_len: u8,
    source_len: u8,
    tos: u8,
    table: u8,
    protocol: u8,
    scope: u8,
    kind: u8,
    flags: u32,
}

/// `struct ndmsg`.
#[derive(Debug, IntoBytes, Immutable)]
#[repr(C)]
struct NeighbourMessage {
    family: u8,
    padding: [u8; 3],
    index: u32,
    state: u16,
    flags: u8,
    kind: u8,
}

/// `struct rtattr`; its length includes itself and not the padding.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Attribute {
    len: u16,
    kind: u16,
}

/// From linux/rtnetlink.h, which libc has in part.
const RTNH_F_ONLINK: u32 = 4;
const RTAX_MTU: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;

/// A request that is being put together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: i32, body: &(impl IntoBytes + Immutable)) -> Self {
        let header = Header {
            len: 0,
            kind,
            flags: (flags | libc::NLM_F_REQUEST) as u16,
            sequence: 0,
            port: 0,
        };
        Self([header.as_bytes(), body.as_bytes()].concat())
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let attribute = Attribute {
            len: (size_of::<Attribute>() + value.len()) as u16,
            kind,
        };
        self.0.extend_from_slice(attribute.as_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(aligned(self.0.len()), 0);
        self
    }

    fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    fn address(self, kind: u16, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.attribute(kind, &address.octets()),
            IpAddr::V6(address) => self.attribute(kind, &address.octets()),
        }
    }

    fn name(self, name: &str) -> Self {
        self.attribute(libc::IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat())
    }

    /// The bytes to send.
    pub(super) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = self.0.len() as u32;
        if let Ok((header, _)) = Header::mut_from_prefix(&mut self.0) {
            header.len = len;
            header.sequence = sequence;
        }
        self.0
    }
}

/// Asks for all interfaces.
pub(super) fn list_links() -> Message {
    Message::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &LinkMessage::default())
}

/// Changes an interface's name and MTU.
pub(super) fn identity(index: u32, name: Option<&str>, mtu: Option<u32>) -> Message {
    let body = LinkMessage {
        index,
        ..Default::default()
    };
    let mut message = Message::new(libc::RTM_SETLINK, libc::NLM_F_ACK, &body);
    if let Some(name) = name {
        message = message.name(name);
    }
    if let Some(mtu) = mtu {
        message = message.number(libc::IFLA_MTU, mtu);
    }
    message
}

/// Brings an interface up.
pub(super) fn up(index: u32) -> Message {
    let body = LinkMessage {
        index,
        flags: libc::IFF_UP as u32,
        change: libc::IFF_UP as u32,
        ..Default::default()
    };
    Message::new(libc::RTM_SETLINK, libc::NLM_F_ACK, &body)
}

const ADD: i32 = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;

/// Adds an address.
pub(super) fn address(cidr: &Cidr, index: u32) -> Message {
    let body = AddressMessage {
        family: family(cidr.address),
        prefix_len: cidr.prefix_len,
        // Nobody else has the pod's addresses; asking would keep them unusable for a second.
        flags: if cidr.address.is_ipv6() {
            libc::IFA_F_NODAD as u8
        } else {
            0
        },
        scope: libc::RT_SCOPE_UNIVERSE,
        index,
    };
    let message = Message::new(libc::RTM_NEWADDR, ADD, &body)
        .address(libc::IFA_LOCAL, cidr.address)
        .address(libc::IFA_ADDRESS, cidr.address);
    match cidr.address {
        IpAddr::V4(address) if cidr.prefix_len < 31 => {
            let broadcast = address.to_bits() | u32::MAX >> cidr.prefix_len;
            message.attribute(libc::IFA_BROADCAST, &broadcast.to_be_bytes())
        }
        _ => message,
    }
}

/// Adds a route by way of the interface with `index`, or of the one that leads to its gateway.
pub(super) fn route(route: &Route, index: Option<u32>) -> Message {
    let destination = route.destination;
    let body = RouteMessage {
        family: family(destination.address),
        destination_len: destination.prefix_len,
        source_len: 0,
        tos: 0,
        table: libc::RT_TABLE_MAIN,
        protocol: libc::RTPROT_STATIC,
        scope: route.scope,
        kind: libc::RTN_UNICAST,
        flags: if route.onlink { RTNH_F_ONLINK } else { 0 },
    };
    let mut message = Message::new(libc::RTM_NEWROUTE, ADD, &body);
    if destination.prefix_len > 0 {
        message = message.address(libc::RTA_DST, destination.address);
    }
    if let Some(gateway) = route.gateway {
        message = message.address(libc::RTA_GATEWAY, gateway);
    }
    if let Some(source) = route.source {
        message = message.address(libc::RTA_PREFSRC, source);
    }
    if let Some(index) = index {
        message = message.number(libc::RTA_OIF, index);
    }
    if let Some(metric) = route.metric {
        message = message.number(libc::RTA_PRIORITY, metric);
    }
    if let Some(mtu) = route.mtu {
        let attribute = Attribute {
            len: (size_of::<Attribute>() + size_of::<u32>()) as u16,
            kind: RTAX_MTU,
        };
        let nested = [attribute.as_bytes(), &mtu.to_ne_bytes()].concat();
        message = message.attribute(libc::RTA_METRICS, &nested);
    }
    message
}

/// Adds a permanent neighbour.
pub(super) fn neighbour(neighbour: &Neighbour, index: u32) -> Message {
    let body = NeighbourMessage {
        family: family(neighbour.address),
        padding: [0; 3],
        index,
        state: NUD_PERMANENT,
        flags: 0,
        kind: 0,
    };
    Message::new(libc::RTM_NEWNEIGH, ADD, &body)
        .address(libc::NDA_DST, neighbour.address)
        .attribute(libc::NDA_LLADDR, &neighbour.mac.0)
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

/// An interface from the body of an RTM_NEWLINK message.
pub(super) fn link(body: &[u8]) -> Option<Link> {
    let (message, attributes) = LinkMessage::read_from_prefix(body).ok()?;
    let mut link = Link {
        index: message.index,
        name: String::new(),
        mac: None,
    };
    for (kind, value) in Attributes(attributes) {
        match kind {
            libc::IFLA_IFNAME => {
                let name = value.strip_suffix(b"\0").unwrap_or(value);
                link.name = String::from_utf8_lossy(name).into_owned();
            }
            libc::IFLA_ADDRESS if message.kind == libc::ARPHRD_ETHER => {
                link.mac = value.try_into().ok().map(Mac);
            }
            _ => {}
        }
    }
    Some(link)
}

/// The messages of one answer, with their headers.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (Header, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, rest) = Header::read_from_prefix(self.0).ok()?;
        let len = (header.len as usize).checked_sub(size_of::<Header>())?;
        let body = rest.get(..len)?;
        self.0 = rest.get(aligned(len)..).unwrap_or_default();
        Some((header, body))
    }
}

/// Attributes, kind and value.
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (attribute, rest) = Attribute::read_from_prefix(self.0).ok()?;
        let len = usize::from(attribute.len).checked_sub(size_of::<Attribute>())?;
        let value = rest.get(..len)?;
        self.0 = rest.get(aligned(len)..).unwrap_or_default();
        Some((attribute.kind, value))
    }
}

fn aligned(len: usize) -> usize {
    len.next_multiple_of(4)
}
