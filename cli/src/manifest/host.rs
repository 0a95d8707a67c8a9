//! What this machine is known by.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use sandbox::monitor::known_addresses;

/// Addresses for documentation (RFC 5737, RFC 3849): no route but the default one leads there, and nothing
/// is sent there.
const FAR_AWAY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];
/// Any will do.
const PORT: u16 = 9;

/// Where this machine is reached: the addresses from which its default routes lead away. One without such
/// a route is known to itself.
pub fn addresses() -> Vec<IpAddr> {
    known(FAR_AWAY.into_iter().filter_map(|far| source_to(far).ok()))
}

/// The address from which this machine speaks to another, as the kernel chooses it.
fn source_to(far: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match far {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    // This looks the route up, and that is all.
    socket.connect(SocketAddr::new(far, PORT))?;
    Ok(socket.local_addr()?.ip())
}

fn known(sources: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let reached: Vec<_> = sources
        .filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
        .collect();
    known_addresses(&reached)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_others_can_reach_counts() {
        let of = |ips: &[&str]| known(ips.iter().map(|ip| ip.parse().unwrap()));
        let parse = |ip: &str| ip.parse::<IpAddr>().unwrap();
        assert_eq!(of(&[]), [parse("127.0.0.1")]);
        assert_eq!(of(&["127.0.0.1", "::1", "fe80::1"]), [parse("127.0.0.1")]);
        let both = ["192.0.2.7", "2001:db8::7"];
        assert_eq!(of(&both), both.map(parse));
    }

    #[test]
    fn the_kernel_tells_where_a_route_begins() {
        let localhost = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(source_to(localhost).unwrap(), localhost);
        // Whatever this machine's network is, it is known by something.
        assert!(!addresses().is_empty());
    }
}
