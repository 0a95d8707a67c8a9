//! Frames for the guest.

use rustix::event::PollFlags;

use super::*;
use crate::net::Offloads;
use crate::net::spec::{
    F_GUEST_CSUM, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_USO4, F_GUEST_USO6, F_MRG_RXBUF, HEADER_SIZE,
    MAX_FRAME,
};
use crate::testkit::net::{ALL_FEATURES, RX_BUFFER};

/// Features by which a frame is longer than the MTU says.
const LARGE: u64 = F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_USO4 | F_GUEST_USO6;

#[test]
fn frames_arrive_whole_and_in_order() {
    let (host, mut guest) = pair();
    for i in 0..500 {
        let len = 14 + i * 131 % 9000;
        host.send(&plain(), &frame(i, len));
        let (header, bytes) = guest.wait_frame();
        assert!(bytes == frame(i, len));
        let buffers = (HEADER_SIZE + len).div_ceil(RX_BUFFER as usize);
        assert_eq!(usize::from(header.num_buffers.get()), buffers);
    }
}

#[test]
fn a_burst_is_taken_as_the_guest_makes_room() {
    for features in [ALL_FEATURES, !EVENT_IDX] {
        let (host, backend) = Host::pair();
        let mut guest = GuestNet::with(device(backend), features, RX_BUFFER);
        let sender = std::thread::spawn(move || {
            for i in 0..2000 {
                host.send(&plain(), &frame(i, 60 + i % 1400));
            }
            host
        });
        for i in 0..2000 {
            let (_, bytes) = guest.wait_frame();
            assert!(bytes == frame(i, 60 + i % 1400), "frame {i}");
        }
        drop(sender.join().unwrap());
    }
}

#[test]
fn large_segments_span_buffers_and_keep_their_headers() {
    let (host, mut guest) = pair();
    for len in [RX_BUFFER as usize - HEADER_SIZE, 1525, 30_000, MAX_FRAME] {
        for _ in 0..20 {
            host.send(&large(), &frame(len, len));
            let (header, bytes) = guest.wait_frame();
            let num_buffers = header.num_buffers;
            assert_eq!(
                header,
                Header {
                    num_buffers,
                    ..large()
                }
            );
            assert!(bytes == frame(len, len));
        }
    }
}

#[test]
fn a_frame_in_many_buffers_is_seen_whole_or_not_at_all() {
    let (host, mut guest) = pair();
    let bytes = frame(1, 50_000);
    for _ in 0..3000 {
        host.send(&large(), &bytes);
        // Without sleep: the kit fails when it finds a part of a frame.
        while guest.receive().is_none() {
            std::hint::spin_loop();
        }
    }
}

#[test]
fn without_merging_each_frame_has_one_buffer() {
    let (host, backend) = Host::pair();
    let mut guest = GuestNet::with(device(backend), !F_MRG_RXBUF, 65_600);
    for len in [60, 1500, MAX_FRAME] {
        host.send(&plain(), &frame(len, len));
        let (header, bytes) = guest.wait_frame();
        assert_eq!(header.num_buffers.get(), 1);
        assert!(bytes == frame(len, len));
    }
}

#[test]
fn a_frame_that_does_not_fit_is_dropped_and_the_next_one_comes() {
    let (host, backend) = Host::pair();
    let net = device(backend);
    let counters = net.counters();
    let mut guest = GuestNet::with(net, !(F_MRG_RXBUF | LARGE), 1600);
    host.send(&plain(), &frame(1, 1600 - HEADER_SIZE + 1));
    host.send(&plain(), &frame(2, 1600 - HEADER_SIZE));
    assert_eq!(guest.wait_frame().1, frame(2, 1600 - HEADER_SIZE));
    let usage = counters.usage();
    assert_eq!((usage.rx_dropped, usage.rx_frames), (1, 1));
    assert_eq!(usage.rx_bytes, 1600 - HEADER_SIZE as u64);
}

#[test]
fn what_is_no_frame_is_dropped() {
    let (host, backend) = Host::pair();
    let net = device(backend);
    let counters = net.counters();
    let mut guest = GuestNet::start(net);
    host.send(&plain(), &[]);
    host.send(&plain(), &[1; 13]);
    host.send(&plain(), &frame(3, 14));
    assert_eq!(guest.wait_frame().1, frame(3, 14));
    assert_eq!(counters.usage().rx_dropped, 2);
}

#[test]
fn a_guest_without_buffers_gets_its_frames_when_it_has_some() {
    let (mut host, backend) = Host::pair();
    let mut guest = GuestNet::with(device(backend), !LARGE, RX_BUFFER);
    guest.hold_receive_buffers(true);
    // Until all buffers and the socket are full.
    let mut sent = 0;
    let mut waits = 0;
    while waits < 20 {
        if host.try_send(&plain(), &frame(sent, 1000)) {
            sent += 1;
            waits = 0;
        } else {
            host.sleep(PollFlags::OUT);
            waits += 1;
        }
    }
    assert!(sent > 280, "{sent} frames");
    let mut received = 0;
    let mut take = |guest: &mut GuestNet| {
        while let Some((_, bytes)) = guest.receive() {
            assert_eq!(bytes, frame(received, 1000));
            received += 1;
        }
        received
    };
    guest.wait_for("frames for all buffers", |guest| {
        (take(guest) == 256).then_some(())
    });
    // The other direction goes on.
    guest.send(&plain(), &frame(9, 60));
    assert_eq!(host.receive().1, frame(9, 60));
    guest.offer(10);
    guest.wait_for("ten more", |guest| (take(guest) == 266).then_some(()));
    guest.hold_receive_buffers(false);
    guest.wait_for("the rest", |guest| (take(guest) == sent).then_some(()));
}

#[test]
fn buffers_too_few_for_a_large_segment_still_get_small_frames() {
    let (host, mut guest) = pair();
    guest.hold_receive_buffers(true);
    // Down to buffers for less than 64 KiB, and then to the last one.
    for i in 0..256 {
        host.send(&plain(), &frame(i, 500));
        assert_eq!(guest.wait_frame().1, frame(i, 500));
    }
    assert_eq!(guest.free_receive_buffers(), 256);
    guest.offer(1);
    host.send(&plain(), &frame(1, 500));
    assert_eq!(guest.wait_frame().1, frame(1, 500));
}

#[test]
fn the_host_is_told_what_the_guest_takes() {
    let all = Offloads {
        checksum: true,
        tso4: true,
        tso6: true,
        uso: true,
    };
    let none = Offloads::default();
    for (features, expected) in [
        (ALL_FEATURES, all),
        (!F_GUEST_CSUM, none),
        (
            !LARGE,
            Offloads {
                uso: false,
                tso4: false,
                tso6: false,
                ..all
            },
        ),
        (!F_GUEST_TSO4, Offloads { tso4: false, ..all }),
        (!F_GUEST_USO6, Offloads { uso: false, ..all }),
        (1 << 32, none),
    ] {
        let (host, backend) = Host::pair();
        let guest = GuestNet::with(device(backend), features, RX_BUFFER);
        assert_eq!(host.guest_offloads(), expected, "{features:#x}");
        drop(guest);
    }
}
