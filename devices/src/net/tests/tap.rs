//! A tap of Linux, in a network namespace of its own. Making one needs root.

use super::*;
use crate::net::spec::{F_GUEST_TSO4, F_MRG_RXBUF};
use crate::net::{Tap, TapError};
use crate::testkit::net::{ALL_FEATURES, RX_BUFFER};

/// A guest behind a tap; nothing, with a word about it, where none can be made.
fn tapped(features: u64) -> Option<(Host, GuestNet)> {
    match Host::tap() {
        Ok((host, tap)) => Some((host, GuestNet::with(device(tap), features, RX_BUFFER))),
        Err(error) => {
            println!("skipped: no tap can be made here: {error}");
            None
        }
    }
}

/// A frame of IPv4 and TCP with `len` bytes of data; checksums are left open.
fn tcp(seed: usize, len: usize) -> (Header, Vec<u8>) {
    let total = (20 + 20 + len) as u16;
    let mut bytes = vec![2, 0, 0x5e, 0, 0x53, 1, 2, 0, 0x5e, 0, 0x53, 2, 8, 0];
    bytes.extend([0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0]);
    bytes.extend([192, 0, 2, 1, 192, 0, 2, 2]);
    bytes[16..18].copy_from_slice(&total.to_be_bytes());
    let sum: u32 = bytes[14..34]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    bytes[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    bytes.extend([0, 80, 0x30, 0x39, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10]);
    bytes.extend([0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(frame(seed, len));
    let header = Header {
        flags: NEEDS_CSUM,
        gso_type: if len > 1460 { GSO_TCPV4 } else { 0 },
        hdr_len: if len > 1460 { 54 } else { 0 }.into(),
        gso_size: if len > 1460 { 1460 } else { 0 }.into(),
        csum_start: 34.into(),
        csum_offset: 16.into(),
        num_buffers: 0.into(),
    };
    (header, bytes)
}

#[test]
fn frames_and_large_segments_pass_a_tap_both_ways() {
    let Some((mut host, mut guest)) = tapped(ALL_FEATURES) else {
        return;
    };
    for (i, len) in [0, 100, 1460, 1461, 20_000, 60_000].into_iter().enumerate() {
        let (header, bytes) = tcp(i, len);
        guest.send(&header, &bytes);
        let (got, arrived) = host.receive();
        assert!(arrived == bytes, "{len} bytes to the host");
        assert_eq!(
            (got.gso_type, got.gso_size),
            (header.gso_type, header.gso_size)
        );
        host.send(&header, &bytes);
        let (got, arrived) = guest.wait_frame();
        assert!(arrived == bytes, "{len} bytes to the guest");
        assert_eq!(
            (got.gso_type, got.gso_size),
            (header.gso_type, header.gso_size)
        );
        assert_eq!(got.flags & NEEDS_CSUM, NEEDS_CSUM);
    }
}

#[test]
fn a_guest_without_offloads_gets_segments_and_sums_of_its_own() {
    for features in [!(F_GUEST_TSO4 | EVENT_IDX), 1 << 32 | F_MRG_RXBUF] {
        let Some((host, mut guest)) = tapped(features) else {
            return;
        };
        let (header, bytes) = tcp(1, 6000);
        host.send(&header, &bytes);
        let mut data = Vec::new();
        while data.len() < 6000 {
            let (got, arrived) = guest.wait_frame();
            assert_eq!(got.gso_type, 0, "cut to the MTU by the host");
            assert!(arrived.len() <= 1514);
            assert!(features & 2 != 0 || got.flags == 0, "and summed up");
            data.extend_from_slice(&arrived[54..]);
        }
        assert!(data == bytes[54..]);
    }
}

#[test]
fn case_05_a_driver_gets_nothing_that_an_earlier_one_negotiated() {
    let Some((host, mut guest)) = tapped(ALL_FEATURES) else {
        return;
    };
    guest.hold_receive_buffers(true);
    for i in 0..600 {
        // With open checksums, and as long as buffers of the next driver are.
        let (header, bytes) = tcp(i, 800);
        host.try_send(&header, &bytes);
    }
    let mut guest = guest.restart(1 << 32 | F_MRG_RXBUF);
    let (header, bytes) = tcp(1, 1000);
    host.send(&header, &bytes);
    let (got, arrived) = guest.wait_frame();
    assert_eq!((got.gso_type, got.flags), (0, 0));
    assert!(arrived[54..] == bytes[54..]);
}

#[test]
fn a_flood_is_bounded_by_the_tap_and_the_other_direction_goes_on() {
    let Some((mut host, mut guest)) = tapped(ALL_FEATURES) else {
        return;
    };
    guest.hold_receive_buffers(true);
    for i in 0..5000 {
        let (header, bytes) = tcp(i, 1000);
        host.try_send(&header, &bytes);
        if i % 50 == 0 {
            guest.send(&header, &bytes);
            assert!(host.receive().1 == bytes);
        }
    }
    guest.hold_receive_buffers(false);
    // What the tap has kept comes now, and a new frame as soon as there is room for one.
    let (header, bytes) = tcp(7777, 500);
    let mut kept = 0;
    guest.wait_for("a new frame", |guest| {
        host.try_send(&header, &bytes);
        while let Some((_, arrived)) = guest.receive() {
            if arrived == bytes {
                return Some(());
            }
            kept += 1;
        }
        None
    });
    assert!((1..5000).contains(&kept), "{kept} frames");
}

#[test]
fn what_is_no_tap_is_refused() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let refused = Tap::new(file.into());
    assert!(matches!(refused, Err(TapError::NotATap(_))), "{refused:?}");
    let Ok(tun) = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
    else {
        println!("skipped: /dev/net/tun cannot be opened");
        return;
    };
    // Open, and not yet anything.
    assert!(matches!(Tap::new(tun.into()), Err(TapError::NotATap(_))));
}
