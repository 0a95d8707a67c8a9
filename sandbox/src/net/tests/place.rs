//! Network namespaces that last as long as a test, and what is set up in them.

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};

use zerocopy::FromZeros;

use super::super::link::{self, AddressBody, Link, LinkBody};
use super::super::netlink::{Netlink, Request};
use super::super::redirect::{self, Ingress};
use super::super::route::{NeighbourBody, RouteBody};
use super::super::{Netns, Network, open, sys};

pub const MAC: [u8; 6] = [2, 0, 0x5e, 0, 0x53, 1];
pub const GATEWAY_MAC: [u8; 6] = [2, 0, 0x5e, 0, 0x53, 0xfe];
/// A network namespace that lives as long as a thread of its own does.
pub struct Place {
    path: PathBuf,
    _end: Sender<()>,
}

impl Place {
    /// `None`, with a word about it, where this process may not make one.
    pub fn new() -> Option<Self> {
        let (tell, told) = channel();
        let (end, ended) = channel::<()>();
        std::thread::spawn(move || {
            let made = sys::part_network();
            let tid = rustix::thread::gettid().as_raw_nonzero();
            let path = format!("/proc/{}/task/{tid}/ns/net", std::process::id());
            let _ = tell.send(made.map(|()| PathBuf::from(path)));
            let _ = ended.recv();
        });
        match told.recv().unwrap() {
            Ok(path) => Some(Self { path, _end: end }),
            Err(error) => {
                println!("skipped: no network namespace can be made here: {error}");
                None
            }
        }
    }

    pub fn netns(&self) -> Netns {
        Netns::open(&self.path).unwrap()
    }

    pub fn network(&self) -> Network {
        Network::new(self.netns())
    }

    pub fn run<T: Send>(&self, work: impl FnOnce(&mut Netlink) -> T + Send) -> T {
        self.netns().run(|| Ok(work(&mut open()?))).unwrap()
    }

    pub fn links(&self) -> Vec<Link> {
        self.run(|netlink| link::links(netlink).unwrap())
    }

    pub fn index(&self, name: &str) -> i32 {
        let links = self.links();
        links.iter().find(|link| link.name == name).unwrap().index
    }

    pub fn ingress(&self, name: &str) -> Ingress {
        let index = self.index(name);
        self.run(|netlink| redirect::state(netlink, index).unwrap())
    }

    fn change(&self, kind: u16, request: impl FnOnce(u16) -> Request + Send) {
        self.run(|netlink| netlink.execute(request(kind)).unwrap());
    }

    pub fn up(&self, name: &str) {
        let mut body = LinkBody::new_zeroed();
        body.index = self.index(name);
        body.flags = libc::IFF_UP as u32;
        body.change = body.flags;
        self.change(libc::RTM_NEWLINK, |kind| Request::new(kind, 0, &body));
    }

    pub fn address(&self, name: &str, address: &str, length: u8) {
        let address = octets(address);
        let body = AddressBody {
            family: family(&address),
            prefix_length: length,
            // Without the wait for another who has it.
            flags: libc::IFA_F_NODAD as u8,
            scope: 0,
            index: self.index(name) as u32,
        };
        self.change(libc::RTM_NEWADDR, |kind| {
            Request::new(kind, libc::NLM_F_CREATE, &body)
                .with(libc::IFA_LOCAL, &address)
                .with(libc::IFA_ADDRESS, &address)
        });
    }

    pub fn route(&self, name: &str, destination: Option<(&str, u8)>, gateway: Option<&str>) {
        let index = self.index(name) as u32;
        let destination = destination.map(|(address, length)| (octets(address), length));
        let gateway = gateway.map(octets);
        let mut body = RouteBody::new_zeroed();
        let any = destination.as_ref().map(|(address, _)| address);
        body.family = family(any.or(gateway.as_ref()).unwrap());
        body.destination_length = destination.as_ref().map_or(0, |(_, length)| *length);
        body.table = libc::RT_TABLE_MAIN;
        body.protocol = libc::RTPROT_STATIC;
        body.kind = libc::RTN_UNICAST;
        if gateway.is_none() {
            body.scope = libc::RT_SCOPE_LINK;
        }
        self.change(libc::RTM_NEWROUTE, |kind| {
            let mut request = Request::new(kind, libc::NLM_F_CREATE, &body)
                .with(libc::RTA_OIF, &index.to_ne_bytes());
            if let Some((address, _)) = &destination {
                request = request.with(libc::RTA_DST, address);
            }
            match &gateway {
                Some(gateway) => request.with(libc::RTA_GATEWAY, gateway),
                None => request,
            }
        });
    }

    /// Puts a filter that is not ours where ours would be.
    pub fn occupy(&self, name: &str) {
        let index = self.index(name);
        self.run(|netlink| redirect::take(netlink, index).unwrap());
        let place = redirect::Place {
            interface: index,
            preference: 1,
            protocol: libc::ETH_P_ALL as u16,
        };
        let filter = redirect::filter(&place, &[redirect::Key::default()], None);
        self.run(|netlink| netlink.execute(filter).unwrap());
    }

    pub fn neighbour(&self, name: &str, address: &str, mac: [u8; 6]) {
        let address = octets(address);
        let mut body = NeighbourBody::new_zeroed();
        body.family = family(&address);
        body.index = self.index(name);
        body.state = libc::NUD_PERMANENT;
        self.change(libc::RTM_NEWNEIGH, |kind| {
            Request::new(kind, libc::NLM_F_CREATE, &body)
                .with(libc::NDA_DST, &address)
                .with(libc::NDA_LLADDR, &mac)
        });
    }
}

pub fn octets(address: &str) -> Vec<u8> {
    match address.parse().unwrap() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn family(address: &[u8]) -> u8 {
    if address.len() == 4 {
        libc::AF_INET as u8
    } else {
        libc::AF_INET6 as u8
    }
}

/// A pod's namespace with `eth0`, up, and the other end of it in a network of its own.
pub fn places() -> Option<(Place, Place)> {
    let (pod, network) = (Place::new()?, Place::new()?);
    veth(&pod, &network, "eth0", MAC);
    Some((pod, network))
}

pub fn veth(pod: &Place, network: &Place, name: &str, mac: [u8; 6]) {
    let there = std::fs::File::open(&network.path).unwrap();
    let there = (there.as_raw_fd() as u32, there);
    let peer_name = format!("{name}-peer");
    pod.change(libc::RTM_NEWLINK, |kind| {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        Request::new(kind, flags, &LinkBody::new_zeroed())
            .with(libc::IFLA_IFNAME, name.as_bytes())
            .with(libc::IFLA_ADDRESS, &mac)
            .with(libc::IFLA_MTU, &1400_u32.to_ne_bytes())
            .nest(libc::IFLA_LINKINFO, |info| {
                info.with(libc::IFLA_INFO_KIND, b"veth")
                    .nest(libc::IFLA_INFO_DATA, |data| {
                        const PEER: u16 = 1;
                        data.nest(PEER, |peer| {
                            peer.raw(&[0; size_of::<LinkBody>()])
                                .with(libc::IFLA_IFNAME, peer_name.as_bytes())
                                .with(libc::IFLA_NET_NS_FD, &there.0.to_ne_bytes())
                        })
                    })
            })
    });
    network.up(&peer_name);
    pod.up(name);
}
