//! A pod's network: what somebody has set up in a network namespace becomes the guest's.
//!
//! ```text
//!   network namespace                                        VMM process         guest
//!   ┌────────────────────────────────────────────────┐
//!   │            ingress: all to the tap             │
//!   │  ┌──────┐ ───────────────────────▶ ┌─────────┐ │ frames  ┌────────────┐  ┌──────┐
//!   │  │ eth0 │                          │ podvmm0 │◀┼────────▶│ virtio-net │◀▶│ eth0 │
//!   │  └──▲───┘ ◀─────────────────────── └─────────┘ │ tap fd  └────────────┘  └──────┘
//!   │     │      ingress: all to eth0                │         addresses, routes, MTU, MAC:
//!   └─────┼──────────────────────────────────────────┘         those of eth0, by the agent
//!      the network (a veth's other end, say)
//! ```
//!
//! A CNI plugin, or whoever runs `ip netns add`, gives a namespace an interface with addresses and
//! routes. [`PodNetwork::join`] reads them, makes a tap beside each interface and joins the two in the
//! host's kernel: no bridge, no forwarding, no address translation, and no work for this process. The
//! guest has the interface's own MAC address, MTU, addresses and routes. The network behind it sees no
//! difference.
//!
//! # What stays behind
//! Nothing: a tap is gone with its last descriptor, and dropping a [`PodNetwork`] takes the
//! redirection off the interface. When this process is killed, an ingress qdisc stays on the
//! interface; it leads nowhere. The next pod that joins the namespace replaces it.
//!
//! # What a guest can do with it
//! Send any frame that fits: with other addresses than its own, too. As with containers that have
//! `CAP_NET_RAW`, who minds filters on the host's side of the namespace; network policies work as for
//! containers. What goes to a cloud's metadata service, at 169.254.169.254, is turned back at
//! the tap unless [`Network::allow_metadata`] says otherwise.

mod bpf;
pub mod cni;
mod error;
mod link;
mod localhost;
mod metadata;
mod netlink;
mod netns;
mod redirect;
mod request;
pub mod resolvers;
mod route;
mod sys;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use devices::net::{InvalidNetConfig, MacAddress, Mtu};

pub use error::NetError;
use link::{Address, Link};
pub use localhost::Localhost;
use netlink::Netlink;
pub use netlink::{Errno, NetlinkError};
pub use netns::Netns;
use redirect::Ingress;

/// Names of taps; the kernel puts a number in the place of `%d`.
const TAP_PATTERN: &str = "podvmm%d";
/// What the names of taps begin with.
const TAP_PREFIX: &str = "podvmm";
/// The kernel's limit for a tap.
const MAX_TAP_MTU: u32 = 65_521;

/// An address and how much of it names the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPrefix {
    /// The address.
    pub address: IpAddr,
    /// Bits of the network's part.
    pub length: u8,
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// How far away what a route leads to is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Anywhere.
    Universe,
    /// In this site.
    Site,
    /// On the link.
    Link,
    /// Here.
    Host,
}

impl Scope {
    fn from_kernel(scope: u8) -> Self {
        match scope {
            libc::RT_SCOPE_SITE => Self::Site,
            libc::RT_SCOPE_LINK => Self::Link,
            libc::RT_SCOPE_HOST => Self::Host,
            _ => Self::Universe,
        }
    }
}

/// An interface that the guest gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, here and in the guest.
    pub name: String,
    /// Its address.
    pub mac: MacAddress,
    /// Largest packet.
    pub mtu: Mtu,
    /// Addresses of both families, link-local ones included.
    pub addresses: Vec<IpPrefix>,
    /// Whether it has IPv6 at all.
    pub has_ipv6: bool,
}

/// A route that the guest gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub destination: IpPrefix,
    /// Through whom; `None` for what is on the link.
    pub gateway: Option<IpAddr>,
    /// By which interface.
    pub interface: String,
    /// The address to come from.
    pub source: Option<IpAddr>,
    /// How far it leads.
    pub scope: Scope,
    /// The gateway is on the link even if no route says so.
    pub is_onlink: bool,
    /// The lower one counts.
    pub metric: u32,
    /// Largest packet; 0 leaves it to the interface.
    pub mtu: u32,
}

/// A neighbour whose address the guest need not ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Behind which interface.
    pub interface: String,
    /// Its address.
    pub address: IpAddr,
    /// And on the link.
    pub mac: [u8; 6],
}

/// The network that a pod is to have.
#[derive(Debug)]
pub struct Network {
    /// Whose interfaces become the guest's.
    pub netns: Netns,
    /// Lets the guest reach the metadata service of the cloud that the host is in. Without it, frames
    /// with a VLAN tag do not pass either.
    pub allow_metadata: bool,
}

impl Network {
    /// The interfaces of `netns`, and no metadata service.
    #[must_use]
    pub fn new(netns: Netns) -> Self {
        Self {
            netns,
            allow_metadata: false,
        }
    }
}

/// A network namespace's interfaces, joined to taps. Dropping it takes the redirection away.
#[derive(Debug)]
pub struct PodNetwork {
    /// The interfaces, in the order that the namespace has them.
    pub interfaces: Vec<Interface>,
    /// Routes, in the order that they can be set up.
    pub routes: Vec<Route>,
    /// Permanent neighbours.
    pub neighbours: Vec<Neighbour>,
    /// Where the interfaces' frames come out, in the order of the interfaces. A tap lives as long as
    /// its descriptor: whoever serves it takes it from here.
    pub taps: Vec<OwnedFd>,
    _redirections: Redirections,
}

impl PodNetwork {
    /// Takes over the interfaces of a namespace for a guest.
    ///
    /// # Errors
    /// [`NetError`] names what is in the way; nothing is left behind.
    pub fn join(network: Network) -> Result<Self, NetError> {
        let Network {
            netns,
            allow_metadata,
        } = network;
        let netns = Arc::new(netns);
        let inside = Arc::clone(&netns);
        netns.run(move || join_here(inside, allow_metadata))
    }
}

/// Takes away what a pod has left in the network namespace `path` whose monitor and VMM are gone. One
/// that another pod has joined since stays as it is.
///
/// # Errors
/// [`NetError`] names what is in the way.
pub fn clean(path: &Path) -> Result<(), NetError> {
    let netns = Netns::open(path)?;
    netns.run(|| {
        let mut netlink = open()?;
        let links = link::links(&mut netlink).map_err(failed("list the interfaces"))?;
        if links.iter().any(is_tap_of_ours) {
            return Ok(());
        }
        for link in links.iter().filter(|link| link.is_ethernet_up()) {
            redirect::remove(&mut netlink, link.index)
                .map_err(failed("take the redirection away"))?;
        }
        Ok(())
    })
}

/// Interfaces whose ingress is redirected, and to which taps.
#[derive(Debug)]
struct Redirections {
    netns: Arc<Netns>,
    interfaces: Vec<i32>,
    taps: Vec<i32>,
}

impl Redirections {
    /// Takes all of them away, unless somebody else has taken the namespace over.
    fn remove(&self) -> Result<(), NetError> {
        let mut netlink = open()?;
        let links = link::links(&mut netlink).map_err(failed("list the interfaces"))?;
        if links
            .iter()
            .any(|link| is_tap_of_ours(link) && !self.taps.contains(&link.index))
        {
            return Ok(());
        }
        for index in &self.interfaces {
            redirect::remove(&mut netlink, *index).map_err(failed("take the redirection away"))?;
        }
        Ok(())
    }
}

impl Drop for Redirections {
    fn drop(&mut self) {
        if self.interfaces.is_empty() {
            return;
        }
        if let Err(error) = self.netns.run(|| self.remove()) {
            log::warn!("network namespace {}: {error}", self.netns.path().display());
        }
    }
}

fn open() -> Result<Netlink, NetError> {
    Netlink::open().map_err(failed("open a netlink socket"))
}

fn failed(operation: impl Into<String>) -> impl FnOnce(NetlinkError) -> NetError {
    let operation = operation.into();
    move |source| NetError::Netlink { operation, source }
}

/// Runs on a thread in the namespace.
fn join_here(netns: Arc<Netns>, allow_metadata: bool) -> Result<PodNetwork, NetError> {
    let mut netlink = open()?;
    let links = link::links(&mut netlink).map_err(failed("list the interfaces"))?;
    let wanted = choose(&links, &netns)?;
    let addresses = link::addresses(&mut netlink).map_err(failed("list the addresses"))?;
    let routes = route::routes(&mut netlink).map_err(failed("list the routes"))?;
    let neighbours = route::neighbours(&mut netlink).map_err(failed("list the neighbours"))?;
    let mut redirections = Redirections {
        netns,
        interfaces: Vec::new(),
        taps: Vec::new(),
    };
    let mut interfaces = Vec::with_capacity(wanted.len());
    let mut taps = Vec::with_capacity(wanted.len());
    for link in &wanted {
        interfaces.push(interface(link, &addresses)?);
        taps.push(connect(
            &mut netlink,
            link,
            allow_metadata,
            &mut redirections,
        )?);
    }
    let name = |index| {
        let link = wanted.iter().find(|link| link.index == index);
        link.map(|link| link.name.clone())
    };
    let routes = routes.into_iter().filter_map(|route| {
        Some(Route {
            interface: name(route.index)?,
            destination: route.destination,
            gateway: route.gateway,
            source: route.source,
            scope: route.scope,
            is_onlink: route.is_onlink,
            metric: route.metric,
            mtu: route.mtu,
        })
    });
    let neighbours = neighbours.into_iter().filter_map(|neighbour| {
        Some(Neighbour {
            interface: name(neighbour.index)?,
            address: neighbour.address,
            mac: neighbour.mac,
        })
    });
    Ok(PodNetwork {
        routes: in_order(routes.collect()),
        neighbours: neighbours.collect(),
        interfaces,
        taps,
        _redirections: redirections,
    })
}

fn interface(link: &Link, addresses: &[Address]) -> Result<Interface, NetError> {
    let of_link = addresses
        .iter()
        .filter(|address| address.index == link.index);
    let addresses: Vec<_> = of_link.map(|address| address.prefix).collect();
    Ok(Interface {
        name: link.name.clone(),
        mac: link.mac().map_err(unusable(link))?,
        mtu: Mtu::try_from(link.mtu).map_err(unusable(link))?,
        has_ipv6: has_ipv6(&link.name, &addresses),
        addresses,
    })
}

/// Whether an interface of this thread's namespace has IPv6. Its link-local address may still be on
/// its way, so the setting is asked too.
fn has_ipv6(interface: &str, addresses: &[IpPrefix]) -> bool {
    let setting = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    let has_address = addresses.iter().any(|prefix| prefix.address.is_ipv6());
    has_address || std::fs::read_to_string(setting).is_ok_and(|text| text.trim() == "0")
}

/// What a gateway is reached by comes before the routes through it.
fn in_order(mut routes: Vec<Route>) -> Vec<Route> {
    routes.sort_by_key(|route| route.gateway.is_some());
    routes
}

/// The interfaces that a guest gets.
fn choose<'a>(links: &'a [Link], netns: &Netns) -> Result<Vec<&'a Link>, NetError> {
    if let Some(tap) = links.iter().find(|link| is_tap_of_ours(link)) {
        return Err(NetError::InUse {
            path: netns.path().into(),
            tap: tap.name.clone(),
        });
    }
    let wanted: Vec<_> = links.iter().filter(|link| link.is_ethernet_up()).collect();
    if wanted.is_empty() {
        return Err(NetError::NoInterface {
            path: netns.path().into(),
        });
    }
    Ok(wanted)
}

/// A tap of ours exists as long as a pod uses it.
fn is_tap_of_ours(link: &Link) -> bool {
    link.kind == "tun" && link.name.starts_with(TAP_PREFIX)
}

fn unusable(link: &Link) -> impl Fn(InvalidNetConfig) -> NetError {
    |source| NetError::Unusable {
        interface: link.name.clone(),
        source,
    }
}

/// Makes a tap and joins it to `link`.
fn connect(
    netlink: &mut Netlink,
    link: &Link,
    allow_metadata: bool,
    redirections: &mut Redirections,
) -> Result<OwnedFd, NetError> {
    let name = &link.name;
    let look = || failed(format!("look at the ingress of {name}"));
    match redirect::state(netlink, link.index).map_err(look())? {
        Ingress::Free => {}
        // Of a pod that is gone: the namespace has no tap of ours.
        Ingress::Ours => redirect::remove(netlink, link.index)
            .map_err(failed(format!("clean the ingress of {name}")))?,
        Ingress::Foreign => {
            return Err(NetError::Foreign {
                interface: name.clone(),
            });
        }
    }
    let (tap, tap_name) = sys::make_tap(TAP_PATTERN).map_err(|cause| NetError::Tap { cause })?;
    let links = link::links(netlink).map_err(failed("list the interfaces"))?;
    let tap_link = links.iter().find(|link| link.name == tap_name);
    let tap_index = tap_link.map(|link| link.index).unwrap_or_default();
    link::bring_up(netlink, tap_index, link.mtu.min(MAX_TAP_MTU))
        .map_err(failed(format!("bring the tap {tap_name} up")))?;
    redirections.taps.push(tap_index);
    let take = |of: &str| failed(format!("take the ingress of {of}"));
    let join = |from: &str, to: &str| failed(format!("redirect what comes in on {from} to {to}"));
    redirect::take(netlink, tap_index).map_err(take(&tap_name))?;
    if !allow_metadata {
        metadata::block(netlink, tap_index)
            .map_err(failed("turn back what goes to a metadata service"))?;
    }
    redirect::redirect(netlink, tap_index, link.index).map_err(join(&tap_name, name))?;
    redirect::take(netlink, link.index).map_err(take(name))?;
    redirections.interfaces.push(link.index);
    redirect::redirect(netlink, link.index, tap_index).map_err(join(name, &tap_name))?;
    Ok(tap)
}

impl Link {
    fn mac(&self) -> Result<MacAddress, InvalidNetConfig> {
        MacAddress::try_from(self.mac.unwrap_or_default())
    }
}
