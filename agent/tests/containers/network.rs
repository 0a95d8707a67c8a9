//! The pod's network. Needs ip(8), and a kernel that makes veth interfaces.

use std::process::Command;

use agent_protocol::proto::{Neighbour, NetworkInterface, Route, SetupNetworkRequest};
use ttrpc::Code;

use crate::Case;
use crate::pod::{Pod, code, context};

pub const CASES: &[Case] = &[
    ("the_network_is_set_up", the_network_is_set_up),
    ("a_network_without_ipv6", a_network_without_ipv6),
    (
        "what_the_network_refuses_is_explained",
        what_the_network_refuses_is_explained,
    ),
];

const MAC: &str = "02:00:5e:00:53:05";

/// Why no case can run here.
pub fn missing() -> Option<String> {
    let script = "ip link add v0 type veth peer name v1";
    let made = Command::new("unshare")
        .args(["-n", "sh", "-c", script])
        .output();
    (!made.is_ok_and(|made| made.status.success()))
        .then(|| "no veth interface can be made here".to_owned())
}

/// Runs a command in the pod's network namespace.
fn inside(pod: &Pod, command: &str) -> String {
    let output = Command::new("nsenter")
        .args(["-n", "-t", &pod.agent_pid(), "sh", "-c", command])
        .output()
        .unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Gives the pod an interface with [`MAC`].
fn plug(pod: &Pod) {
    let make =
        format!("ip link add ens9 address {MAC} type veth peer name peer && ip link set peer up");
    inside(pod, &make);
}

fn interface(addresses: &[&str]) -> NetworkInterface {
    NetworkInterface {
        mac: MAC.to_owned(),
        name: "eth0".to_owned(),
        mtu: 1400,
        addresses: addresses
            .iter()
            .map(|&address| address.to_owned())
            .collect(),
        ..Default::default()
    }
}

fn route(destination: &str, gateway: &str) -> Route {
    Route {
        destination: destination.to_owned(),
        gateway: gateway.to_owned(),
        interface: "eth0".to_owned(),
        ..Default::default()
    }
}

fn the_network_is_set_up(pod: &Pod) {
    plug(pod);
    let neighbour = Neighbour {
        interface: "eth0".to_owned(),
        address: "169.254.1.1".to_owned(),
        mac: "02:00:5e:00:53:01".to_owned(),
        ..Default::default()
    };
    let request = SetupNetworkRequest {
        interfaces: vec![interface(&["10.88.0.5/16", "10.99.0.5/32", "fd00::5/64"])],
        routes: vec![
            route("0.0.0.0/0", "169.254.1.1"),
            route("::/0", "fd00::1"),
            Route {
                source: "10.99.0.5".to_owned(),
                metric: 7,
                mtu: 1300,
                ..route("10.77.0.0/16", "10.88.0.1")
            },
            Route {
                onlink: true,
                ..route("10.66.0.0/16", "192.0.2.1")
            },
            route("169.254.1.1/32", ""),
        ],
        neighbours: vec![neighbour],
        ..Default::default()
    };
    // Twice: what is there already is no error.
    for _ in 0..2 {
        pod.client.setup_network(context(), &request).unwrap();
    }
    let link = inside(pod, "ip link show eth0");
    assert!(
        link.contains("mtu 1400") && link.contains("LOWER_UP"),
        "{link}"
    );
    let addresses = inside(pod, "ip -o address show eth0");
    for address in [
        "inet 10.88.0.5/16 brd 10.88.255.255",
        "inet 10.99.0.5/32",
        "inet6 fd00::5/64",
    ] {
        assert!(addresses.contains(address), "{addresses}");
    }
    assert!(!inside(pod, "ip address show eth0 to fd00::/64").contains("tentative"));
    let routes = inside(pod, "ip route; ip -6 route");
    for route in [
        "default via 169.254.1.1 dev eth0",
        "default via fd00::1 dev eth0",
        "10.77.0.0/16 via 10.88.0.1 dev eth0",
        "src 10.99.0.5 metric 7 mtu 1300",
        "10.66.0.0/16 via 192.0.2.1 dev eth0",
        "onlink",
        "169.254.1.1 dev eth0 proto static scope link",
        "10.88.0.0/16 dev eth0 proto kernel",
    ] {
        assert!(routes.contains(route), "{route}: {routes}");
    }
    let neighbours = inside(pod, "ip neighbour show dev eth0");
    assert!(
        neighbours.contains("169.254.1.1 lladdr 02:00:5e:00:53:01 PERMANENT"),
        "{neighbours}"
    );
}

fn a_network_without_ipv6(pod: &Pod) {
    plug(pod);
    let request = SetupNetworkRequest {
        interfaces: vec![NetworkInterface {
            disable_ipv6: true,
            ..interface(&["10.88.0.5/16"])
        }],
        ..Default::default()
    };
    pod.client.setup_network(context(), &request).unwrap();
    let addresses = inside(pod, "ip -o address show eth0");
    assert!(
        addresses.contains("10.88.0.5") && !addresses.contains("inet6"),
        "{addresses}"
    );
    assert!(inside(pod, "ip -o address show peer").contains("inet6"));
}

fn what_the_network_refuses_is_explained(pod: &Pod) {
    plug(pod);
    let missing = SetupNetworkRequest {
        interfaces: vec![NetworkInterface {
            mac: "02:00:5e:00:53:99".to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    };
    assert_eq!(
        code(pod.client.setup_network(context(), &missing)),
        Code::NOT_FOUND
    );
    let unreachable = SetupNetworkRequest {
        interfaces: vec![interface(&["10.88.0.5/16"])],
        routes: vec![route("0.0.0.0/0", "172.16.0.1")],
        ..Default::default()
    };
    let error = pod
        .client
        .setup_network(context(), &unreachable)
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("route to 0.0.0.0/0") && text.contains("Nexthop has invalid gateway"),
        "{text}"
    );
}
