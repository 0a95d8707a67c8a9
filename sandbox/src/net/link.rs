//! Interfaces and their addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::IpPrefix;
use super::netlink::{Netlink, NetlinkError, Request, attribute, attributes, number, text};

/// `IFLA_INET6_ADDR_GEN_MODE` and its value for no link-local address.
const ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_NONE: u8 = 1;
/// What a tap queues before it drops, as for any Ethernet card.
const QUEUE_LENGTH: u32 = 1000;

#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct LinkBody {
    pub family: u8,
    _pad: u8,
    pub hardware: u16,
    pub index: i32,
    pub flags: u32,
    pub change: u32,
}

#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct AddressBody {
    pub family: u8,
    pub prefix_length: u8,
    pub flags: u8,
    pub scope: u8,
    pub index: u32,
}

/// An interface as the kernel lists it.
#[derive(Clone, Debug)]
pub struct Link {
    pub index: i32,
    pub name: String,
    /// Its kind (`veth`, `tun`), empty for hardware.
    pub kind: String,
    pub mac: Option<[u8; 6]>,
    pub mtu: u32,
    hardware: u16,
    flags: u32,
}

impl Link {
    /// Whether it is one that a guest can have: up, and with Ethernet frames.
    pub fn is_ethernet_up(&self) -> bool {
        let flags = self.flags as i32;
        self.hardware == libc::ARPHRD_ETHER
            && flags & libc::IFF_UP != 0
            && flags & libc::IFF_LOOPBACK == 0
    }
}

/// All interfaces of the namespace.
pub fn links(netlink: &mut Netlink) -> Result<Vec<Link>, NetlinkError> {
    let request = Request::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &LinkBody::default());
    let mut links = Vec::new();
    netlink.dump(request, |_, message| {
        let (body, rest) =
            LinkBody::read_from_prefix(message).map_err(|_| NetlinkError::Malformed)?;
        let info = attribute(rest, libc::IFLA_LINKINFO).unwrap_or_default();
        links.push(Link {
            index: body.index,
            name: attribute(rest, libc::IFLA_IFNAME)
                .map(text)
                .unwrap_or_default(),
            kind: attribute(info, libc::IFLA_INFO_KIND)
                .map(text)
                .unwrap_or_default(),
            mac: attribute(rest, libc::IFLA_ADDRESS).and_then(|mac| mac.try_into().ok()),
            mtu: attribute(rest, libc::IFLA_MTU)
                .and_then(number)
                .unwrap_or(0),
            hardware: body.hardware,
            flags: body.flags,
        });
        Ok(())
    })?;
    Ok(links)
}

/// Gives a tap its MTU and switches it on. The host's kernel says nothing on it by itself.
pub fn bring_up(netlink: &mut Netlink, index: i32, mtu: u32) -> Result<(), NetlinkError> {
    let up = libc::IFF_UP as u32;
    let body = |flags| LinkBody {
        index,
        flags,
        change: flags,
        ..LinkBody::default()
    };
    let quiet = Request::new(libc::RTM_NEWLINK, 0, &body(0)).nest(libc::IFLA_AF_SPEC, |families| {
        families.nest(libc::AF_INET6 as u16, |inet6| {
            inet6.with(ADDR_GEN_MODE, &[ADDR_GEN_NONE])
        })
    });
    // A kernel without IPv6 refuses this, and does not need it.
    if let Err(error) = netlink.execute(quiet) {
        log::debug!("the tap keeps a link-local address of the host: {error}");
    }
    let request = Request::new(libc::RTM_NEWLINK, 0, &body(up))
        .with(libc::IFLA_MTU, &mtu.to_ne_bytes())
        .with(libc::IFLA_TXQLEN, &QUEUE_LENGTH.to_ne_bytes());
    netlink.execute(request)
}

/// An address as the kernel lists it.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    pub index: i32,
    pub prefix: IpPrefix,
}

/// All addresses of the namespace.
pub fn addresses(netlink: &mut Netlink) -> Result<Vec<Address>, NetlinkError> {
    let body = AddressBody::default();
    let request = Request::new(libc::RTM_GETADDR, libc::NLM_F_DUMP, &body);
    let mut addresses = Vec::new();
    netlink.dump(request, |_, message| {
        let (body, rest) =
            AddressBody::read_from_prefix(message).map_err(|_| NetlinkError::Malformed)?;
        // On a point-to-point link the address proper is the peer's.
        let mut found = None;
        for (kind, payload) in attributes(rest) {
            if kind == libc::IFA_LOCAL || (kind == libc::IFA_ADDRESS && found.is_none()) {
                found = ip(payload);
            }
        }
        if let Some(address) = found {
            addresses.push(Address {
                index: body.index as i32,
                prefix: IpPrefix {
                    address,
                    length: body.prefix_length,
                },
            });
        }
        Ok(())
    })?;
    Ok(addresses)
}

/// An address of either family, told by its length.
pub fn ip(payload: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(payload) {
        return Some(Ipv4Addr::from(octets).into());
    }
    let octets = <[u8; 16]>::try_from(payload).ok()?;
    Some(Ipv6Addr::from(octets).into())
}
