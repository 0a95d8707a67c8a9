//! Routes and neighbours that somebody has set up, and that the guest needs too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::link::ip;
use super::netlink::{Netlink, NetlinkError, Request, attribute, number};
use super::{IpPrefix, Scope};

/// `RTAX_MTU`, in `RTA_METRICS`.
const METRIC_MTU: u16 = 2;
/// `RTNH_F_ONLINK`.
const ONLINK: u32 = 4;

#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RouteBody {
    pub family: u8,
    pub destination_length: u8,
    pub source_length: u8,
    pub tos: u8,
    pub table: u8,
    pub protocol: u8,
    pub scope: u8,
    pub kind: u8,
    pub flags: u32,
}

#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct NeighbourBody {
    pub family: u8,
    _pad1: u8,
    _pad2: u16,
    pub index: i32,
    pub state: u16,
    pub flags: u8,
    pub kind: u8,
}

/// A route as the kernel lists it.
#[derive(Clone, Debug)]
pub struct KernelRoute {
    pub index: i32,
    pub destination: IpPrefix,
    pub gateway: Option<IpAddr>,
    pub source: Option<IpAddr>,
    pub scope: Scope,
    pub is_onlink: bool,
    pub metric: u32,
    pub mtu: u32,
}

/// Routes of the main table, but for those that come with an address by themselves.
pub fn routes(netlink: &mut Netlink) -> Result<Vec<KernelRoute>, NetlinkError> {
    let mut routes = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let body = RouteBody {
            family: family as u8,
            ..RouteBody::default()
        };
        let request = Request::new(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &body);
        netlink.dump(request, |_, message| {
            let (body, rest) =
                RouteBody::read_from_prefix(message).map_err(|_| NetlinkError::Malformed)?;
            routes.extend(route(&body, rest));
            Ok(())
        })?;
    }
    Ok(routes)
}

fn route(body: &RouteBody, rest: &[u8]) -> Option<KernelRoute> {
    let table = attribute(rest, libc::RTA_TABLE).and_then(number);
    let table = table.unwrap_or_else(|| body.table.into());
    let is_wanted = table == u32::from(libc::RT_TABLE_MAIN)
        && body.kind == libc::RTN_UNICAST
        && body.protocol != libc::RTPROT_KERNEL
        && body.flags & libc::RTM_F_CLONED == 0;
    // A dump of a family that the kernel does not have gives those of all.
    let any: IpAddr = match i32::from(body.family) {
        libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    if !is_wanted {
        return None;
    }
    let address = |kind| attribute(rest, kind).and_then(ip);
    let destination = IpPrefix {
        address: address(libc::RTA_DST).unwrap_or(any),
        length: body.destination_length,
    };
    let unsupported = [
        (libc::RTA_MULTIPATH, "several gateways"),
        (libc::RTA_VIA, "a gateway of the other address family"),
    ];
    for (kind, what) in unsupported {
        if attribute(rest, kind).is_some() {
            log::warn!("network: the route to {destination} has {what}; the pod does not get it");
            return None;
        }
    }
    let metrics = attribute(rest, libc::RTA_METRICS).unwrap_or_default();
    Some(KernelRoute {
        index: attribute(rest, libc::RTA_OIF).and_then(number)? as i32,
        destination,
        gateway: address(libc::RTA_GATEWAY),
        source: address(libc::RTA_PREFSRC),
        scope: Scope::from_kernel(body.scope),
        is_onlink: body.flags & ONLINK != 0,
        metric: attribute(rest, libc::RTA_PRIORITY)
            .and_then(number)
            .unwrap_or(0),
        mtu: attribute(metrics, METRIC_MTU).and_then(number).unwrap_or(0),
    })
}

/// A permanent entry of the neighbour table as the kernel lists it.
#[derive(Clone, Copy, Debug)]
pub struct KernelNeighbour {
    pub index: i32,
    pub address: IpAddr,
    pub mac: [u8; 6],
}

/// Permanent entries of the neighbour tables.
pub fn neighbours(netlink: &mut Netlink) -> Result<Vec<KernelNeighbour>, NetlinkError> {
    let body = NeighbourBody::default();
    let request = Request::new(libc::RTM_GETNEIGH, libc::NLM_F_DUMP, &body);
    let mut neighbours = Vec::new();
    netlink.dump(request, |_, message| {
        let (body, rest) =
            NeighbourBody::read_from_prefix(message).map_err(|_| NetlinkError::Malformed)?;
        let is_wanted = body.state & libc::NUD_PERMANENT != 0 && body.flags & libc::NTF_PROXY == 0;
        let address = attribute(rest, libc::NDA_DST).and_then(ip);
        let mac = attribute(rest, libc::NDA_LLADDR).and_then(|mac| mac.try_into().ok());
        if let (true, Some(address), Some(mac)) = (is_wanted, address, mac) {
            neighbours.push(KernelNeighbour {
                index: body.index,
                address,
                mac,
            });
        }
        Ok(())
    })?;
    Ok(neighbours)
}
