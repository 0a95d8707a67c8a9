//! Joining namespaces, with a veth as the network. Needs root.

mod frames;
mod place;

use std::os::unix::fs::symlink;
use std::path::Path;

use super::redirect::Ingress;
use super::*;
use frames::Guest;
use place::{GATEWAY_MAC, MAC, Place, places, veth};

/// The answer of the network to an ARP request by interface `number`.
fn arp(joined: &PodNetwork, number: usize, from: &str, to: &str) -> Vec<u8> {
    Guest::new(joined, number).arp(from, to)
}

#[test]
fn a_pod_gets_what_its_namespace_has() {
    let Some((pod, network)) = places() else {
        return;
    };
    pod.address("eth0", "192.0.2.7", 24);
    pod.address("eth0", "2001:db8::7", 64);
    pod.route("eth0", Some(("198.51.100.1", 32)), None);
    pod.route("eth0", None, Some("192.0.2.1"));
    pod.route("eth0", None, Some("2001:db8::1"));
    pod.neighbour("eth0", "192.0.2.1", GATEWAY_MAC);
    network.address("eth0-peer", "192.0.2.1", 24);
    let joined = PodNetwork::join(pod.network()).unwrap();
    let [eth0] = &joined.interfaces[..] else {
        panic!("one interface: {:?}", joined.interfaces);
    };
    assert_eq!((eth0.name.as_str(), eth0.mac.octets()), ("eth0", MAC));
    assert_eq!(eth0.mtu.get(), 1400);
    assert!(eth0.has_ipv6);
    let addresses: Vec<_> = eth0.addresses.iter().map(IpPrefix::to_string).collect();
    for expected in ["192.0.2.7/24", "2001:db8::7/64"] {
        assert!(
            addresses.iter().any(|found| found == expected),
            "{addresses:?}"
        );
    }
    let route = |to: &str| {
        let found = joined
            .routes
            .iter()
            .find(|route| route.destination.to_string() == to);
        found.unwrap_or_else(|| panic!("no route to {to} in {:?}", joined.routes))
    };
    assert_eq!(route("198.51.100.1/32").scope, Scope::Link);
    assert_eq!(route("198.51.100.1/32").gateway, None);
    assert_eq!(route("0.0.0.0/0").gateway, "192.0.2.1".parse().ok());
    assert_eq!(route("::/0").gateway, "2001:db8::1".parse().ok());
    assert_eq!(joined.routes.len(), 3, "{:?}", joined.routes);
    assert!(joined.routes.iter().all(|route| route.interface == "eth0"));
    assert_eq!(joined.routes[0].gateway, None, "the link's come first");
    let expected = Neighbour {
        interface: "eth0".into(),
        address: "192.0.2.1".parse().unwrap(),
        mac: GATEWAY_MAC,
    };
    assert_eq!(joined.neighbours, [expected]);
    // Frames pass, both ways.
    let answer = arp(&joined, 0, "192.0.2.7", "192.0.2.1");
    assert_eq!(answer[..6], MAC);
    assert_eq!(answer[28..32], [192, 0, 2, 1]);
}

#[test]
fn ipv6_is_off_where_it_is_switched_off() {
    let Some((pod, _network)) = places() else {
        return;
    };
    pod.address("eth0", "192.0.2.7", 24);
    pod.run(|_| std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1").unwrap());
    let joined = PodNetwork::join(pod.network()).unwrap();
    assert!(!joined.interfaces[0].has_ipv6);
    let addresses = &joined.interfaces[0].addresses;
    assert_eq!(addresses.len(), 1, "{addresses:?}");
}

#[test]
fn nothing_stays_behind_and_a_namespace_can_be_joined_again() {
    let Some((pod, network)) = places() else {
        return;
    };
    network.address("eth0-peer", "192.0.2.1", 24);
    let before = pod.links().len();
    for _ in 0..20 {
        let joined = PodNetwork::join(pod.network()).unwrap();
        assert_eq!(pod.links().len(), before + 1);
        assert_eq!(pod.ingress("eth0"), Ingress::Ours);
        arp(&joined, 0, "192.0.2.7", "192.0.2.1");
        drop(joined);
        assert_eq!(pod.links().len(), before);
        assert_eq!(pod.ingress("eth0"), Ingress::Free);
    }
}

#[test]
fn what_a_killed_process_left_is_replaced() {
    let Some((pod, network)) = places() else {
        return;
    };
    network.address("eth0-peer", "192.0.2.1", 24);
    let PodNetwork {
        taps,
        _redirections,
        ..
    } = PodNetwork::join(pod.network()).unwrap();
    std::mem::forget(_redirections);
    drop(taps);
    assert_eq!(pod.ingress("eth0"), Ingress::Ours, "it stays, to nowhere");
    let joined = PodNetwork::join(pod.network()).unwrap();
    arp(&joined, 0, "192.0.2.7", "192.0.2.1");
}

#[test]
fn a_namespace_has_one_pod() {
    let Some((pod, network)) = places() else {
        return;
    };
    network.address("eth0-peer", "192.0.2.1", 24);
    let first = PodNetwork::join(pod.network()).unwrap();
    let second = PodNetwork::join(pod.network());
    assert!(matches!(second, Err(NetError::InUse { .. })), "{second:?}");
    arp(&first, 0, "192.0.2.7", "192.0.2.1");
    // Who comes late with its cleaning leaves a successor alone.
    let PodNetwork {
        taps,
        _redirections,
        ..
    } = first;
    drop(taps);
    let next = PodNetwork::join(pod.network()).unwrap();
    drop(_redirections);
    arp(&next, 0, "192.0.2.7", "192.0.2.1");
}

/// A network with metadata services in it, and the address that they are reached by.
fn cloud() -> Option<(Place, Place, [u8; 6])> {
    let (pod, network) = places()?;
    for (address, length) in [
        ("192.0.2.1", 24),
        ("169.254.169.254", 32),
        ("100.100.100.200", 32),
        ("2001:db8::1", 64),
        ("fd00:ec2::254", 128),
        ("fd20:ce::254", 128),
    ] {
        network.address("eth0-peer", address, length);
    }
    for address in ["192.0.2.7", "2001:db8::7"] {
        network.neighbour("eth0-peer", address, MAC);
    }
    let links = network.links();
    let peer = links.iter().find(|link| link.name == "eth0-peer").unwrap();
    let mac = peer.mac.unwrap();
    Some((pod, network, mac))
}

const SERVICES: [(&str, &str); 4] = [
    ("192.0.2.7", "169.254.169.254"),
    ("192.0.2.7", "100.100.100.200"),
    ("2001:db8::7", "fd00:ec2::254"),
    ("2001:db8::7", "fd20:ce::254"),
];
const TAGS: [&[u16]; 4] = [&[], &[0x8100], &[0x88a8], &[0x8100, 0x8100]];

#[test]
fn a_metadata_service_is_reached_where_that_is_allowed() {
    let Some((pod, _network, mac)) = cloud() else {
        return;
    };
    let mut network = pod.network();
    network.allow_metadata = true;
    let joined = PodNetwork::join(network).unwrap();
    let mut guest = Guest::new(&joined, 0);
    for (from, to) in SERVICES {
        // Tagged frames too, so that it is right to turn them back elsewhere.
        for tags in [TAGS[0], TAGS[1]] {
            let answered = guest.echo_from(|guest| guest.ping(mac, from, to, tags));
            assert_eq!(answered.to_string(), to);
        }
    }
}

#[test]
fn a_metadata_service_is_not_reached_otherwise() {
    let Some((pod, _network, mac)) = cloud() else {
        return;
    };
    let joined = PodNetwork::join(pod.network()).unwrap();
    let mut guest = Guest::new(&joined, 0);
    for (near, far) in [("192.0.2.7", "192.0.2.1"), ("2001:db8::7", "2001:db8::1")] {
        for _ in 0..5 {
            // Those before the last would be answered before it.
            let answered = guest.echo_from(|guest| {
                for (from, to) in SERVICES {
                    for tags in TAGS {
                        guest.ping(mac, from, to, tags);
                    }
                }
                guest.ping(mac, near, far, &[]);
            });
            assert_eq!(answered.to_string(), far);
        }
    }
}

#[test]
fn an_ingress_of_somebody_else_is_left_alone() {
    let Some((pod, _network)) = places() else {
        return;
    };
    pod.occupy("eth0");
    let refused = PodNetwork::join(pod.network());
    assert!(
        matches!(&refused, Err(NetError::Foreign { interface }) if interface == "eth0"),
        "{refused:?}"
    );
    assert_eq!(pod.ingress("eth0"), Ingress::Foreign);
    assert_eq!(pod.links().len(), 2, "and no tap");
}

#[test]
fn several_interfaces_are_joined_and_a_failure_undoes_all() {
    let Some((pod, network)) = places() else {
        return;
    };
    veth(&pod, &network, "net1", [2, 0, 0x5e, 0, 0x53, 2]);
    network.address("eth0-peer", "192.0.2.1", 24);
    network.address("net1-peer", "198.51.100.1", 24);
    let joined = PodNetwork::join(pod.network()).unwrap();
    let names: Vec<_> = joined.interfaces.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    for (name, from, to) in [
        ("eth0", "192.0.2.7", "192.0.2.1"),
        ("net1", "198.51.100.7", "198.51.100.1"),
    ] {
        let number = names.iter().position(|found| *found == name).unwrap();
        arp(&joined, number, from, to);
    }
    drop(joined);
    // The second one cannot be joined.
    let last = pod.links().last().unwrap().name.clone();
    pod.occupy(&last);
    assert!(PodNetwork::join(pod.network()).is_err());
    assert_eq!(pod.links().len(), 3);
    let other = if last == "net1" { "eth0" } else { "net1" };
    assert_eq!(pod.ingress(other), Ingress::Free);
}

#[test]
fn a_namespace_without_an_interface_is_refused() {
    let Some(pod) = Place::new() else {
        return;
    };
    pod.up("lo");
    let refused = PodNetwork::join(pod.network());
    assert!(
        matches!(refused, Err(NetError::NoInterface { .. })),
        "{refused:?}"
    );
}

#[test]
fn what_is_no_namespace_of_a_pod_is_refused() {
    let open = |path: &str| Netns::open(Path::new(path));
    assert!(matches!(
        open("/proc/self/ns/net"),
        Err(NetError::Host { .. })
    ));
    assert!(matches!(
        open("/nonexistent/net"),
        Err(NetError::Open { .. })
    ));
    for path in ["/", "/dev/null", "/proc/self/status"] {
        let refused = open(path);
        assert!(
            matches!(refused, Err(NetError::NotANamespace { .. })),
            "{refused:?}"
        );
    }
    // By a link, too.
    let link = std::env::temp_dir().join(format!("podvmm-netns-{}", std::process::id()));
    symlink("/proc/self/ns/net", &link).unwrap();
    let refused = Netns::open(&link);
    std::fs::remove_file(&link).unwrap();
    assert!(matches!(refused, Err(NetError::Host { .. })), "{refused:?}");
    // Another kind of namespace is found out on the way in.
    let mount = open("/proc/self/ns/mnt").unwrap();
    let refused = PodNetwork::join(Network::new(mount));
    assert!(
        matches!(
            refused,
            Err(NetError::NotANamespace { .. } | NetError::Enter { .. })
        ),
        "{refused:?}"
    );
}

#[test]
fn all_ports_of_localhost_are_one_listeners() {
    let Some(place) = Place::new() else {
        return;
    };
    place.up("lo");
    let netns = place.netns();
    let dial = |address: &'static str| {
        netns.run(|| Ok(std::net::TcpStream::connect(address).map_err(|error| error.kind())))
    };
    let (listener, attached) = Localhost::listen(&netns).unwrap().into_parts();
    for address in ["127.0.0.1:80", "127.0.0.1:7070", "127.1.2.3:65535"] {
        let dialed = dial(address).unwrap().unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(accepted.local_addr().unwrap().to_string(), address);
        assert_eq!(accepted.peer_addr().unwrap(), dialed.local_addr().unwrap());
    }
    place.address("lo", "192.0.2.7", 32);
    let refused = std::io::ErrorKind::ConnectionRefused;
    assert_eq!(dial("192.0.2.7:80").unwrap().unwrap_err(), refused);
    drop(attached);
    assert_eq!(dial("127.0.0.1:80").unwrap().unwrap_err(), refused);
}
