//! Keeping a guest away from the metadata services of clouds, which hand out credentials of the
//! machine to whoever asks from it.
//!
//! Filters at the tap's ingress send what goes there back to the guest: that needs no other parts of
//! the kernel than the redirection does. So does a frame with a VLAN tag, whatever is in it: a host that
//! takes tag 0 as none would see an address that no filter has seen.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::netlink::{Netlink, NetlinkError};
use super::redirect::{Key, Place, filter};

/// Where the services are: one address that nearly all clouds use, and those that some add to it.
const SERVICES: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    // Alibaba.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    // AWS.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    // Google.
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];
const VLAN_PROTOCOLS: [i32; 2] = [libc::ETH_P_8021Q, libc::ETH_P_8021AD];

/// Where the destination is in a header of IPv4 and of IPv6.
const V4_DESTINATION: i32 = 16;
const V6_DESTINATION: i32 = 24;

/// Turns back what comes in on `tap`, whose ingress was taken, for a metadata service.
pub fn block(netlink: &mut Netlink, tap: i32) -> Result<(), NetlinkError> {
    let tagged = VLAN_PROTOCOLS.map(|protocol| (protocol, vec![Key::default()]));
    let services = SERVICES.map(|service| match service {
        IpAddr::V4(address) => (libc::ETH_P_IP, keys(&address.octets(), V4_DESTINATION)),
        IpAddr::V6(address) => (libc::ETH_P_IPV6, keys(&address.octets(), V6_DESTINATION)),
    });
    for (preference, (protocol, keys)) in (1..).zip(tagged.into_iter().chain(services)) {
        let place = Place {
            interface: tap,
            preference,
            protocol: protocol as u16,
        };
        netlink.execute(filter(&place, &keys, Some(tap)))?;
    }
    Ok(())
}

/// Four bytes of the address in each.
fn keys(address: &[u8], offset: i32) -> Vec<Key> {
    let words = address.as_chunks::<4>().0;
    (offset..)
        .step_by(4)
        .zip(words)
        .map(|(offset, word)| Key {
            mask: [0xff; 4],
            value: *word,
            offset,
            offset_mask: 0,
        })
        .collect()
}
