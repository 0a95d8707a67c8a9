//! The device as a guest's driver and the host's network see it.

mod hostile;
mod life;
mod limits;
mod receive;
mod tap;
mod transmit;

use std::sync::Arc;

use super::spec::{GSO_TCPV4, Header, NEEDS_CSUM};
use super::{Mtu, Net, NetBackend, NetConfig};
use crate::rate::RateLimit;
use crate::testkit::net::{GuestNet, Host};

/// The index of events, by which doorbells and interrupts are held back.
const EVENT_IDX: u64 = 1 << 29;

fn config() -> NetConfig {
    NetConfig {
        mac: "02:00:5e:00:53:01".parse().unwrap(),
        mtu: Mtu::ETHERNET,
        rx_limit: RateLimit::default(),
        tx_limit: RateLimit::default(),
    }
}

fn device(backend: Arc<dyn NetBackend>) -> Box<Net> {
    Box::new(Net::new(config(), backend))
}

/// A guest and its network.
fn pair() -> (Host, GuestNet) {
    let (host, backend) = Host::pair();
    (host, GuestNet::start(device(backend)))
}

/// A frame of `len` bytes that is like no other.
fn frame(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| ((seed * 131 + i * 7) >> 2) as u8)
        .collect()
}

/// The header of an ordinary frame.
fn plain() -> Header {
    Header::default()
}

/// The header of a large TCP segment.
fn large() -> Header {
    Header {
        flags: NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        hdr_len: 66.into(),
        gso_size: 1448.into(),
        csum_start: 34.into(),
        csum_offset: 16.into(),
        num_buffers: 0.into(),
    }
}
