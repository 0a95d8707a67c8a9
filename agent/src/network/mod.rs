//! The pod's network: SetupNetwork.
//!
//! ```text
//!   request ──► Plan ──► name, MTU ──► up ──► addresses ──► link routes ──► other routes ──► neighbours
//!             (checked)  └──────────── rtnetlink, one acknowledged message after the other ────────┘
//! ```
//!
//! The kernel carries out each message while it is sent, so its acknowledgement is there to be read
//! afterwards and nothing waits.

mod netlink;
mod plan;
mod wire;

use std::fs;
use std::io::{self, ErrorKind};

use agent_protocol::proto::SetupNetworkRequest;

use crate::rpc::Refusal;
use netlink::Netlink;
use plan::{Interface, Mac, Plan};
use wire::Message;

/// Index of the loopback interface in every network namespace.
const LOOPBACK: u32 = 1;

/// An interface of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    index: u32,
    name: String,
    /// None has another kind of address, or none.
    mac: Option<Mac>,
}

/// What a set-up needs of the kernel.
trait Kernel {
    fn links(&mut self) -> io::Result<Vec<Link>>;
    fn request(&mut self, message: Message) -> io::Result<()>;
    fn disable_ipv6(&mut self, interface: &str) -> io::Result<()>;
}

/// Carries out a SetupNetwork request; all of it is checked before anything is done.
pub(crate) fn set_up(request: &SetupNetworkRequest) -> Result<(), Refusal> {
    let plan = Plan::new(request)?;
    let mut kernel =
        Netlink::open().map_err(|error| Refusal::internal(format!("netlink: {error}")))?;
    carry_out(&plan, &mut kernel)
}

/// Brings `lo` up.
pub(crate) fn loopback_up() -> io::Result<()> {
    Netlink::open()?.request(wire::up(LOOPBACK))
}

fn carry_out(plan: &Plan, kernel: &mut impl Kernel) -> Result<(), Refusal> {
    let mut links = kernel.links().map_err(failed("list of interfaces"))?;
    let mut indices = Vec::new();
    for interface in &plan.interfaces {
        indices.push(find_by_mac(interface, &links)?);
    }
    make_names_free(&plan.interfaces, &indices, &mut links, kernel)?;
    for (interface, index) in plan.interfaces.iter().zip(&indices) {
        set_up_interface(interface, *index, &mut links, kernel)?;
    }
    let index_of = |name: &str| {
        let link = links.iter().find(|link| link.name == name);
        link.map(|link| link.index)
            .ok_or_else(|| Refusal::not_found(format!("the guest has no interface {name:?}")))
    };
    // A gateway is accepted only where a route to it is known.
    let (on_link, further): (Vec<_>, Vec<_>) =
        plan.routes.iter().partition(|route| route.is_on_link());
    for route in on_link.into_iter().chain(further) {
        let interface = route.interface.as_deref().map(index_of).transpose()?;
        kernel
            .request(wire::route(route, interface))
            .map_err(failed(&format!("route to {}", route.destination)))?;
    }
    for neighbour in &plan.neighbours {
        let index = index_of(&neighbour.interface)?;
        kernel
            .request(wire::neighbour(neighbour, index))
            .map_err(failed(&format!("neighbour {}", neighbour.address)))?;
    }
    Ok(())
}

fn find_by_mac(interface: &Interface, links: &[Link]) -> Result<u32, Refusal> {
    let found = links.iter().find(|link| link.mac == Some(interface.mac));
    found.map(|link| link.index).ok_or_else(|| {
        let present: Vec<String> = links
            .iter()
            .filter_map(|link| Some(format!("{} {}", link.name, link.mac?)))
            .collect();
        Refusal::not_found(format!(
            "no interface has the address {}; there are: {}",
            interface.mac,
            present.join(", ")
        ))
    })
}

/// Renames those that have names which others are to get; what they get themselves comes later.
fn make_names_free(
    interfaces: &[Interface],
    indices: &[u32],
    links: &mut [Link],
    kernel: &mut impl Kernel,
) -> Result<(), Refusal> {
    for (interface, index) in interfaces.iter().zip(indices) {
        let Some(name) = &interface.name else {
            continue;
        };
        let holder = links
            .iter_mut()
            .find(|link| link.name == *name && link.index != *index);
        if let Some(holder) = holder {
            let other = format!("was-{}", holder.index);
            kernel
                .request(wire::identity(holder.index, Some(&other), None))
                .map_err(failed(&format!("rename {name} to {other}")))?;
            holder.name = other;
        }
    }
    Ok(())
}

fn set_up_interface(
    interface: &Interface,
    index: u32,
    links: &mut [Link],
    kernel: &mut impl Kernel,
) -> Result<(), Refusal> {
    let Some(link) = links.iter_mut().find(|link| link.index == index) else {
        return Ok(());
    };
    let named = |what: &str| format!("interface {}: {what}", interface.mac);
    let new_name = interface.name.as_ref().filter(|name| **name != link.name);
    if new_name.is_some() || interface.mtu.is_some() {
        let message = wire::identity(index, new_name.map(String::as_str), interface.mtu);
        kernel
            .request(message)
            .map_err(failed(&named("name and MTU")))?;
    }
    if let Some(name) = new_name {
        link.name.clone_from(name);
    }
    if interface.disable_ipv6 {
        kernel
            .disable_ipv6(&link.name)
            .map_err(failed(&named("disable_ipv6")))?;
    }
    kernel
        .request(wire::up(index))
        .map_err(failed(&named("up")))?;
    for address in &interface.addresses {
        kernel
            .request(wire::address(address, index))
            .map_err(failed(&named(&format!("address {address}"))))?;
    }
    Ok(())
}

fn failed(what: &str) -> impl FnOnce(io::Error) -> Refusal {
    move |error| Refusal::internal(format!("{what}: {error}"))
}

impl Kernel for Netlink {
    fn links(&mut self) -> io::Result<Vec<Link>> {
        self.list_links()
    }

    fn request(&mut self, message: Message) -> io::Result<()> {
        self.acknowledged(message)
    }

    fn disable_ipv6(&mut self, interface: &str) -> io::Result<()> {
        match fs::write(
            format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"),
            "1",
        ) {
            // A kernel without IPv6 has it disabled already.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

#[cfg(test)]
mod tests;
