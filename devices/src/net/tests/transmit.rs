//! Frames of the guest.

use super::*;
use crate::net::spec::{F_CSUM, F_HOST_TSO4, MAX_FRAME};
use crate::testkit::net::ALL_FEATURES;

#[test]
fn frames_arrive_whole_and_in_order() {
    let (mut host, mut guest) = pair();
    for i in 0..500 {
        let len = 14 + i * 3 % 1505;
        guest.send(&plain(), &frame(i, len));
        if i % 7 == 0 || i == 499 {
            continue;
        }
        let (header, bytes) = host.receive();
        let sent = if i % 7 == 1 { i - 1 } else { i };
        assert_eq!(
            (header, bytes),
            (plain(), frame(sent, 14 + sent * 3 % 1505))
        );
        if sent != i {
            assert_eq!(host.receive().1, frame(i, len));
        }
    }
}

#[test]
fn a_frame_may_be_cut_anywhere() {
    let (mut host, mut guest) = pair();
    let data = frame(1, 300);
    guest.send_parts(
        &plain(),
        &[&data[..1], &data[1..14], &data[14..299], &data[299..]],
    );
    assert_eq!(host.receive().1, data);
    // The header in pieces, and together with the data.
    let mut all = vec![0; 12];
    all.extend_from_slice(&data);
    guest.send_chain(&[&all[..1], &all[1..11], &all[11..13], &all[13..]]);
    assert_eq!(host.receive().1, data);
    guest.send_chain(&[&all]);
    assert_eq!(host.receive().1, data);
}

#[test]
fn large_segments_and_open_checksums_pass_with_their_headers() {
    let (mut host, mut guest) = pair();
    for len in [1519, 9000, 65_000, MAX_FRAME] {
        guest.send(&large(), &frame(len, len));
        let (header, bytes) = host.receive();
        assert_eq!(header, large());
        assert!(bytes == frame(len, len));
    }
}

#[test]
fn a_full_host_holds_frames_back_and_loses_none() {
    for features in [ALL_FEATURES, !EVENT_IDX] {
        let (mut host, backend) = Host::pair();
        let mut guest = GuestNet::with(device(backend), features, 2048);
        let mut sent = 0;
        // More than the socket and the queue take.
        while guest.try_send(&plain(), &frame(sent, 1400)) {
            sent += 1;
            if guest.tx_pending() > 100 {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        assert!(sent > 128, "{sent} frames");
        // The other direction goes on.
        host.send(&plain(), &frame(7, 600));
        assert_eq!(guest.wait_frame().1, frame(7, 600));
        for i in 0..sent {
            assert_eq!(host.receive().1, frame(i, 1400), "frame {i} of {sent}");
        }
        guest.wait_sent();
        assert!(!guest.driver().needs_reset());
    }
}

#[test]
fn what_the_host_must_not_be_given_is_dropped_and_counted() {
    let (mut host, backend) = Host::pair();
    let net = device(backend);
    let counters = net.counters();
    // Without the offloads.
    let mut guest = GuestNet::with(net, !(F_CSUM | F_HOST_TSO4), 2048);
    guest.send(&large(), &frame(1, 3000));
    guest.send(&plain(), &frame(2, 13));
    guest.send(&plain(), &frame(3, 1519));
    guest.send(&plain(), &frame(4, 1518));
    assert_eq!(host.receive().1, frame(4, 1518));
    guest.wait_sent();
    let usage = counters.usage();
    assert_eq!(
        (usage.tx_dropped, usage.tx_frames, usage.tx_bytes),
        (3, 1, 1518)
    );
}

#[test]
fn a_network_that_is_gone_loses_frames_and_stops_nothing() {
    let (host, backend) = Host::pair();
    let net = device(backend);
    let counters = net.counters();
    let mut guest = GuestNet::start(net);
    drop(host);
    for i in 0..300 {
        guest.send(&plain(), &frame(i, 100));
    }
    guest.wait_sent();
    assert_eq!(counters.usage().tx_dropped, 300);
    assert!(!guest.driver().needs_reset());
}
