use std::collections::VecDeque;

use agent_protocol::proto::{Neighbour, NetworkInterface, Route, route::Scope};
use ttrpc::Code;

use super::*;

/// Writes down what is asked for, and fails where it is told to.
#[derive(Default)]
struct Recorder {
    links: Vec<Link>,
    calls: Vec<Call>,
    failures: VecDeque<bool>,
}

#[derive(Debug, PartialEq)]
enum Call {
    Message(Message),
    DisableIpv6(String),
}

impl Recorder {
    fn with_links(links: &[(u32, &str, u8)]) -> Self {
        let link = |&(index, name, last): &(u32, &str, u8)| Link {
            index,
            name: name.to_owned(),
            mac: (last != 0).then_some(Mac([2, 0, 0, 0, 0, last])),
        };
        Self {
            links: links.iter().map(link).collect(),
            ..Self::default()
        }
    }
}

impl Kernel for Recorder {
    fn links(&mut self) -> io::Result<Vec<Link>> {
        Ok(self.links.clone())
    }

    fn request(&mut self, message: Message) -> io::Result<()> {
        self.calls.push(Call::Message(message));
        match self.failures.pop_front() {
            Some(true) => Err(io::Error::other("no such thing")),
            _ => Ok(()),
        }
    }

    fn disable_ipv6(&mut self, interface: &str) -> io::Result<()> {
        self.calls.push(Call::DisableIpv6(interface.to_owned()));
        Ok(())
    }
}

fn interface(mac: &str, name: &str) -> NetworkInterface {
    NetworkInterface {
        mac: mac.to_owned(),
        name: name.to_owned(),
        ..Default::default()
    }
}

fn route(destination: &str, gateway: &str, interface: &str) -> Route {
    Route {
        destination: destination.to_owned(),
        gateway: gateway.to_owned(),
        interface: interface.to_owned(),
        ..Default::default()
    }
}

fn with_interface(interface: NetworkInterface) -> SetupNetworkRequest {
    SetupNetworkRequest {
        interfaces: vec![interface],
        ..Default::default()
    }
}

fn with_route(route: Route) -> SetupNetworkRequest {
    SetupNetworkRequest {
        routes: vec![route],
        ..Default::default()
    }
}

const MAC: &str = "02:00:00:00:00:05";

#[test]
fn an_interface_is_named_before_it_is_up_and_has_addresses_after() {
    let mut wanted = interface(MAC, "eth0");
    wanted.mtu = 1400;
    wanted.disable_ipv6 = true;
    wanted.addresses = vec!["10.0.0.5/24".to_owned()];
    let plan = Plan::new(&with_interface(wanted)).unwrap();
    let mut kernel = Recorder::with_links(&[(1, "lo", 0), (7, "ens3", 5)]);
    carry_out(&plan, &mut kernel).unwrap();
    let expected = [
        Call::Message(wire::identity(7, Some("eth0"), Some(1400))),
        Call::DisableIpv6("eth0".to_owned()),
        Call::Message(wire::up(7)),
        Call::Message(wire::address(&plan.interfaces[0].addresses[0], 7)),
    ];
    assert_eq!(kernel.calls, expected);
}

#[test]
fn names_can_be_exchanged() {
    let request = SetupNetworkRequest {
        interfaces: vec![
            interface("02:00:00:00:00:05", "eth1"),
            interface("02:00:00:00:00:06", "eth0"),
        ],
        ..Default::default()
    };
    let mut kernel = Recorder::with_links(&[(2, "eth0", 5), (3, "eth1", 6)]);
    carry_out(&Plan::new(&request).unwrap(), &mut kernel).unwrap();
    let expected = [
        Call::Message(wire::identity(3, Some("was-3"), None)),
        Call::Message(wire::identity(2, Some("was-2"), None)),
        Call::Message(wire::identity(2, Some("eth1"), None)),
        Call::Message(wire::up(2)),
        Call::Message(wire::identity(3, Some("eth0"), None)),
        Call::Message(wire::up(3)),
    ];
    assert_eq!(kernel.calls, expected);
}

#[test]
fn an_interface_that_is_missing_is_told_with_those_that_are_there() {
    let plan = Plan::new(&with_interface(interface(MAC, ""))).unwrap();
    let mut kernel = Recorder::with_links(&[(1, "lo", 0), (2, "ens3", 9)]);
    let refusal = carry_out(&plan, &mut kernel).unwrap_err();
    assert_eq!(refusal.code, Code::NOT_FOUND);
    assert!(
        refusal.message.contains("ens3 02:00:00:00:00:09"),
        "{}",
        refusal.message
    );
    assert!(kernel.calls.is_empty());
}

#[test]
fn routes_to_gateways_come_after_those_that_lead_there() {
    let request = SetupNetworkRequest {
        routes: vec![
            route("0.0.0.0/0", "169.254.1.1", ""),
            route("169.254.1.1/32", "", "ens3"),
        ],
        neighbours: vec![Neighbour {
            interface: "ens3".to_owned(),
            address: "169.254.1.1".to_owned(),
            mac: MAC.to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let plan = Plan::new(&request).unwrap();
    let mut kernel = Recorder::with_links(&[(7, "ens3", 5)]);
    carry_out(&plan, &mut kernel).unwrap();
    let expected = [
        Call::Message(wire::route(&plan.routes[1], Some(7))),
        Call::Message(wire::route(&plan.routes[0], None)),
        Call::Message(wire::neighbour(&plan.neighbours[0], 7)),
    ];
    assert_eq!(kernel.calls, expected);
}

#[test]
fn the_first_failure_ends_it_and_names_the_entry() {
    let request = SetupNetworkRequest {
        routes: vec![
            route("10.1.0.0/16", "", "ens3"),
            route("10.2.0.0/16", "", "ens3"),
            route("10.3.0.0/16", "", "ens3"),
        ],
        ..Default::default()
    };
    let mut kernel = Recorder::with_links(&[(7, "ens3", 5)]);
    kernel.failures = [false, true].into();
    let refusal = carry_out(&Plan::new(&request).unwrap(), &mut kernel).unwrap_err();
    assert!(
        refusal.message.starts_with("route to 10.2.0.0/16: "),
        "{}",
        refusal.message
    );
    assert_eq!(kernel.calls.len(), 2);
}

#[test]
fn messages_have_the_kernels_layout() {
    let plan = Plan::new(&with_route(Route {
        metric: 7,
        ..route("10.1.0.0/16", "10.0.0.1", "x")
    }))
    .unwrap();
    let bytes = wire::route(&plan.routes[0], Some(3)).finish(9);
    #[rustfmt::skip]
    let expected = [
        60, 0, 0, 0,  24, 0,  0x05, 0x05,  9, 0, 0, 0,  0, 0, 0, 0,
        2, 16, 0, 0,  254, 4, 0, 1,  0, 0, 0, 0,
        8, 0, 1, 0,  10, 1, 0, 0,
        8, 0, 5, 0,  10, 0, 0, 1,
        8, 0, 4, 0,  3, 0, 0, 0,
        8, 0, 6, 0,  7, 0, 0, 0,
    ];
    assert_eq!(bytes, expected);
    // A name is padded, and its length says nothing of that.
    let bytes = wire::identity(2, Some("eth0"), None).finish(1);
    assert_eq!(bytes.len(), 16 + 16 + 12);
    assert_eq!(bytes[32..], *b"\x09\0\x03\0eth0\0\0\0\0");
}

#[test]
fn answers_that_are_cut_short_end_early() {
    let whole = wire::identity(2, Some("eth0"), Some(1500)).finish(1);
    assert_eq!(wire::Messages(&whole).count(), 1);
    for len in 0..whole.len() {
        assert_eq!(wire::Messages(&whole[..len]).count(), 0, "{len}");
    }
    let body = &whole[16..];
    assert_eq!(wire::link(body).unwrap().name, "eth0");
    assert_eq!(wire::link(&body[..8]), None);
    // A length of nothing would be read for ever.
    assert_eq!(wire::Attributes(&[0; 8]).count(), 0);
    assert_eq!(wire::Messages(&[0; 32]).count(), 0);
}

#[test]
fn nonsense_is_refused_with_its_place() {
    let refused = |request: &SetupNetworkRequest| {
        let refusal = Plan::new(request).unwrap_err();
        assert_eq!(refusal.code, Code::INVALID_ARGUMENT);
        refusal.message
    };
    for mac in [
        "",
        "02:00:00:00:00",
        "02:00:00:00:00:05:06",
        "2:0:0:0:0:5",
        "02:00:00:00:00:0g",
    ] {
        refused(&with_interface(interface(mac, "eth0")));
    }
    for name in [".", "..", "a/b", "a b", "sixteen-letters-", "a:1"] {
        refused(&with_interface(interface(MAC, name)));
    }
    for address in ["10.0.0.1", "10.0.0.1/33", "::1/129", "x/8", "10.0.0.1/-1"] {
        let mut wanted = interface(MAC, "");
        wanted.addresses = vec![address.to_owned()];
        let message = refused(&with_interface(wanted));
        assert!(message.starts_with("interfaces[0]: "), "{message}");
    }
    let mut wanted = interface(MAC, "");
    wanted.mtu = 67;
    refused(&with_interface(wanted));
    let mut wanted = interface(MAC, "");
    wanted.disable_ipv6 = true;
    wanted.addresses = vec!["fd00::1/64".to_owned()];
    refused(&with_interface(wanted));
    for bad in [
        route("10.1.0.1/16", "", "eth0"),
        route("10.1.0.0/16", "fd00::1", "eth0"),
        route("10.1.0.0/16", "", ""),
        Route {
            onlink: true,
            ..route("10.1.0.0/16", "10.0.0.1", "")
        },
        Route {
            source: "fd00::1".to_owned(),
            ..route("10.1.0.0/16", "", "eth0")
        },
    ] {
        refused(&with_route(bad));
    }
    let mut request = with_interface(interface(MAC, ""));
    request.interfaces.push(interface(MAC, ""));
    refused(&request);
    request.interfaces = vec![interface(MAC, ""); 17];
    refused(&request);
}

#[test]
fn scopes_are_chosen_as_iproute2_does() {
    let scope = |route: Route| Plan::new(&with_route(route)).unwrap().routes[0].scope;
    assert_eq!(scope(route("10.1.0.0/16", "", "x")), libc::RT_SCOPE_LINK);
    assert_eq!(
        scope(route("10.1.0.0/16", "10.0.0.1", "x")),
        libc::RT_SCOPE_UNIVERSE
    );
    let chosen = Route {
        scope: Scope::HOST.into(),
        ..route("10.1.0.0/16", "", "x")
    };
    assert_eq!(scope(chosen), libc::RT_SCOPE_HOST);
}
