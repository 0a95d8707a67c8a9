//! A SetupNetwork request, checked.

use std::fmt;
use std::net::IpAddr;

use agent_protocol::proto::{self, SetupNetworkRequest, route::Scope};

use crate::rpc::Refusal;

const MAX_INTERFACES: usize = 16;
const MAX_ADDRESSES: usize = 64;
const MAX_ROUTES: usize = 256;
const MAX_NEIGHBOURS: usize = 256;
/// Longest name of an interface (IFNAMSIZ without its NUL).
const MAX_NAME_LEN: usize = 15;
/// What Ethernet interfaces of any kind take.
const MTUS: std::ops::RangeInclusive<u32> = 68..=65_535;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mac(pub(super) [u8; 6]);

/// An address and how many of its bits name the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cidr {
    pub(super) address: IpAddr,
    pub(super) prefix_len: u8,
}

/// The whole request.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) interfaces: Vec<Interface>,
    pub(super) routes: Vec<Route>,
    pub(super) neighbours: Vec<Neighbour>,
}

#[derive(Debug)]
pub(super) struct Interface {
    pub(super) mac: Mac,
    pub(super) name: Option<String>,
    pub(super) mtu: Option<u32>,
    pub(super) addresses: Vec<Cidr>,
    pub(super) disable_ipv6: bool,
}

#[derive(Debug)]
pub(super) struct Route {
    pub(super) destination: Cidr,
    pub(super) gateway: Option<IpAddr>,
    pub(super) interface: Option<String>,
    pub(super) source: Option<IpAddr>,
    /// The kernel's RT_SCOPE_*.
    pub(super) scope: u8,
    pub(super) onlink: bool,
    pub(super) metric: Option<u32>,
    pub(super) mtu: Option<u32>,
}

#[derive(Debug)]
pub(super) struct Neighbour {
    pub(super) interface: String,
    pub(super) address: IpAddr,
    pub(super) mac: Mac,
}

impl Plan {
    pub(super) fn new(request: &SetupNetworkRequest) -> Result<Self, Refusal> {
        let plan = Self {
            interfaces: all("interfaces", &request.interfaces, MAX_INTERFACES, interface)?,
            routes: all("routes", &request.routes, MAX_ROUTES, route)?,
            neighbours: all("neighbours", &request.neighbours, MAX_NEIGHBOURS, neighbour)?,
        };
        for (index, one) in plan.interfaces.iter().enumerate() {
            for other in &plan.interfaces[..index] {
                if one.mac == other.mac || (one.name.is_some() && one.name == other.name) {
                    let text = format!("interfaces: {} and {} are one", other.mac, one.mac);
                    return Err(Refusal::invalid(text));
                }
            }
        }
        Ok(plan)
    }
}

impl Route {
    /// Whether it leads to neighbours and not to a gateway.
    pub(super) fn is_on_link(&self) -> bool {
        self.gateway.is_none()
    }
}

/// Checks a list's length and its entries, whose problems are told with their place.
fn all<A, B>(
    field: &str,
    entries: &[A],
    limit: usize,
    check: impl Fn(&A) -> Result<B, String>,
) -> Result<Vec<B>, Refusal> {
    if entries.len() > limit {
        let text = format!(
            "{field}: {} entries, at most {limit} are allowed",
            entries.len()
        );
        return Err(Refusal::invalid(text));
    }
    let checked = entries.iter().enumerate().map(|(index, entry)| {
        check(entry).map_err(|problem| Refusal::invalid(format!("{field}[{index}]: {problem}")))
    });
    checked.collect()
}

fn interface(interface: &proto::NetworkInterface) -> Result<Interface, String> {
    if interface.addresses.len() > MAX_ADDRESSES {
        return Err(format!("more than {MAX_ADDRESSES} addresses"));
    }
    let addresses = interface
        .addresses
        .iter()
        .map(|address| cidr(address))
        .collect::<Result<Vec<Cidr>, _>>()?;
    if interface.disable_ipv6 && addresses.iter().any(|address| address.address.is_ipv6()) {
        return Err("disable_ipv6 with an IPv6 address".to_owned());
    }
    Ok(Interface {
        mac: mac(&interface.mac)?,
        name: given(&interface.name).map(name).transpose()?,
        mtu: mtu(interface.mtu)?,
        addresses,
        disable_ipv6: interface.disable_ipv6,
    })
}

fn route(route: &proto::Route) -> Result<Route, String> {
    let destination = cidr(&route.destination)?;
    if destination.has_host_bits() {
        return Err(format!(
            "destination {destination} has bits beyond its prefix"
        ));
    }
    let same_family = |field: &str, text: &str| {
        let found = address(text)?;
        match found.is_ipv6() == destination.address.is_ipv6() {
            true => Ok(found),
            false => Err(format!(
                "{field} {text} is of another family than {destination}"
            )),
        }
    };
    let gateway = given(&route.gateway)
        .map(|text| same_family("gateway", text))
        .transpose()?;
    let interface = given(&route.interface).map(name).transpose()?;
    if interface.is_none() && (gateway.is_none() || route.onlink) {
        return Err("needs an interface, or a gateway that is not onlink".to_owned());
    }
    if route.onlink && gateway.is_none() {
        return Err("onlink without a gateway".to_owned());
    }
    Ok(Route {
        destination,
        source: given(&route.source)
            .map(|text| same_family("source", text))
            .transpose()?,
        scope: scope(route, gateway.is_some())?,
        gateway,
        interface,
        onlink: route.onlink,
        metric: Some(route.metric).filter(|metric| *metric != 0),
        mtu: mtu(route.mtu)?,
    })
}

fn scope(route: &proto::Route, has_gateway: bool) -> Result<u8, String> {
    match route.scope.enum_value() {
        Ok(Scope::AUTOMATIC) if has_gateway => Ok(libc::RT_SCOPE_UNIVERSE),
        Ok(Scope::AUTOMATIC | Scope::LINK) => Ok(libc::RT_SCOPE_LINK),
        Ok(Scope::UNIVERSE) => Ok(libc::RT_SCOPE_UNIVERSE),
        Ok(Scope::SITE) => Ok(libc::RT_SCOPE_SITE),
        Ok(Scope::HOST) => Ok(libc::RT_SCOPE_HOST),
        Err(number) => Err(format!("scope {number}")),
    }
}

fn neighbour(neighbour: &proto::Neighbour) -> Result<Neighbour, String> {
    Ok(Neighbour {
        interface: name(&neighbour.interface)?,
        address: address(&neighbour.address)?,
        mac: mac(&neighbour.mac)?,
    })
}

fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn mtu(mtu: u32) -> Result<Option<u32>, String> {
    match mtu {
        0 => Ok(None),
        mtu if MTUS.contains(&mtu) => Ok(Some(mtu)),
        mtu => Err(format!("mtu {mtu} is not in {MTUS:?}")),
    }
}

fn name(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.@-".contains(&byte);
    let fits = (1..=MAX_NAME_LEN).contains(&text.len()) && text.bytes().all(allowed);
    if fits && text != "." && text != ".." {
        Ok(text.to_owned())
    } else {
        let shown: String = text.chars().take(32).collect();
        Err(format!("{shown:?} is not an interface's name"))
    }
}

fn mac(text: &str) -> Result<Mac, String> {
    let wrong = || format!("{text:?} is not an Ethernet address");
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2);
        *byte = part
            .and_then(|part| u8::from_str_radix(part, 16).ok())
            .ok_or_else(wrong)?;
    }
    match parts.next() {
        None => Ok(Mac(bytes)),
        Some(_) => Err(wrong()),
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not an IP address"))
}

fn cidr(text: &str) -> Result<Cidr, String> {
    let wrong = || format!("{text:?} is not an address with a prefix length, such as 10.0.0.1/24");
    let (address, prefix_len) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let bits = if address.is_ipv6() { 128 } else { 32 };
    prefix_len
        .parse()
        .ok()
        .filter(|len| *len <= bits)
        .map(|prefix_len| Cidr {
            address,
            prefix_len,
        })
        .ok_or_else(wrong)
}

impl Cidr {
    fn has_host_bits(&self) -> bool {
        let (bits, len) = match self.address {
            // At the top, where a prefix is.
            IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, self.prefix_len),
            IpAddr::V6(address) => (address.to_bits(), self.prefix_len),
        };
        bits.checked_shl(len.into()).unwrap_or(0) != 0
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
