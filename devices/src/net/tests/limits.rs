//! Rate limits of a whole device. How exactly they count is tested beside the buckets.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use super::*;
use crate::rate::Rate;

fn rate(per_second: u64, burst: u64) -> Option<Rate> {
    Some(Rate {
        per_second: NonZeroU64::new(per_second).unwrap(),
        burst: NonZeroU64::new(burst).unwrap(),
    })
}

#[test]
fn a_limited_direction_takes_its_time_and_loses_nothing() {
    let (mut host, backend) = Host::pair();
    let mut config = config();
    config.tx_limit.requests = rate(100, 5);
    let mut guest = GuestNet::start(Box::new(Net::new(config, backend)));
    let start = Instant::now();
    for i in 0..25 {
        guest.send(&plain(), &frame(i, 100));
    }
    // The other direction has no limit.
    for i in 0..200 {
        host.send(&plain(), &frame(i, 100));
        assert_eq!(guest.wait_frame().1, frame(i, 100));
    }
    for i in 0..25 {
        assert_eq!(host.receive().1, frame(i, 100));
    }
    // Five at once, twenty at 10 ms each.
    assert!(start.elapsed() >= Duration::from_millis(199));
}

#[test]
fn a_limited_guest_receives_at_its_rate() {
    let (host, backend) = Host::pair();
    let mut config = config();
    config.rx_limit.bytes = rate(100_000, 10_000);
    let mut guest = GuestNet::start(Box::new(Net::new(config, backend)));
    let start = Instant::now();
    for i in 0..30 {
        host.send(&plain(), &frame(i, 1000));
    }
    for i in 0..30 {
        assert_eq!(guest.wait_frame().1, frame(i, 1000));
    }
    assert!(start.elapsed() >= Duration::from_millis(189));
}

#[test]
fn a_pause_is_no_way_around_a_limit() {
    let (mut host, backend) = Host::pair();
    let mut config = config();
    config.tx_limit.requests = rate(50, 1);
    let mut guest = GuestNet::start(Box::new(Net::new(config, backend)));
    let start = Instant::now();
    for i in 0..6 {
        guest.send(&plain(), &frame(i, 100));
        guest.driver().transport().pause();
        guest.driver().transport().resume();
    }
    for i in 0..6 {
        assert_eq!(host.receive().1, frame(i, 100));
    }
    assert!(start.elapsed() >= Duration::from_millis(99));
}
