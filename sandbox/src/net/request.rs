//! What the agent is told of a pod's network.

use agent_protocol::proto::{self, SetupNetworkRequest, route};

use super::{Interface, Neighbour, PodNetwork, Route, Scope};

impl PodNetwork {
    /// The request that sets the guest's side up.
    #[must_use]
    pub fn request(&self) -> SetupNetworkRequest {
        SetupNetworkRequest {
            interfaces: self.interfaces.iter().map(interface).collect(),
            routes: self.routes.iter().map(route).collect(),
            neighbours: self.neighbours.iter().map(neighbour).collect(),
            ..Default::default()
        }
    }
}

fn interface(interface: &Interface) -> proto::NetworkInterface {
    proto::NetworkInterface {
        mac: interface.mac.to_string(),
        name: interface.name.clone(),
        mtu: interface.mtu.into(),
        addresses: interface
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect(),
        disable_ipv6: !interface.has_ipv6,
        ..Default::default()
    }
}

fn route(route: &Route) -> proto::Route {
    let text = |address: Option<std::net::IpAddr>| {
        address
            .map(|address| address.to_string())
            .unwrap_or_default()
    };
    let scope = match route.scope {
        Scope::Universe => route::Scope::UNIVERSE,
        Scope::Site => route::Scope::SITE,
        Scope::Link => route::Scope::LINK,
        Scope::Host => route::Scope::HOST,
    };
    proto::Route {
        destination: route.destination.to_string(),
        gateway: text(route.gateway),
        interface: route.interface.clone(),
        source: text(route.source),
        scope: scope.into(),
        onlink: route.is_onlink,
        metric: route.metric,
        mtu: route.mtu,
        ..Default::default()
    }
}

fn neighbour(neighbour: &Neighbour) -> proto::Neighbour {
    let mac = neighbour.mac.map(|byte| format!("{byte:02x}"));
    proto::Neighbour {
        interface: neighbour.interface.clone(),
        address: neighbour.address.to_string(),
        mac: mac.join(":"),
        ..Default::default()
    }
}
