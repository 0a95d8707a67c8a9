//! A driver that breaks the rules hurts nobody but itself.

use std::io::Write;

use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

use super::*;
use crate::testkit::vsock::State;
use crate::vsock::spec::{HEADER_SIZE, Header, Op, SHUTDOWN_BOTH};

/// Where hand-made buffers lie.
const AT: u64 = 0x200_0000;

fn is_reset(header: &Header) -> bool {
    header.op.get() == Op::Rst as u16
}

/// Sends `header` as an answerless packet and expects a reset in return.
fn expect_reset(guest: &mut GuestVsock, header: &Header) -> Header {
    guest.send_packet(header, &[]);
    let reply = guest.wait_stray();
    assert!(is_reset(&reply), "{reply:?}");
    assert_eq!(reply.src_port, header.dst_port);
    assert_eq!(reply.dst_port, header.src_port);
    assert_eq!(reply.src_cid, header.dst_cid);
    reply
}

const UNKNOWN: SocketId = SocketId {
    guest_port: 1,
    host_port: 2,
};

#[test]
fn packets_for_nobody_are_answered_with_a_reset() {
    let host = Host::new();
    let mut guest = host.guest();
    for op in [2, 4, 5, 6, 7, 0, 8, 0xffff] {
        let header = guest.header(UNKNOWN, op);
        expect_reset(&mut guest, &header);
    }
    // Another type of socket, another host.
    let mut header = guest.header(UNKNOWN, Op::Request as u16);
    header.type_ = 2.into();
    assert_eq!(expect_reset(&mut guest, &header).type_.get(), 2);
    let mut header = guest.header(UNKNOWN, Op::Request as u16);
    header.dst_cid = 3.into();
    expect_reset(&mut guest, &header);
    assert!(!guest.driver().needs_reset());
}

#[test]
fn resets_and_packets_of_others_are_not_answered() {
    let host = Host::new();
    let mut guest = host.guest();
    for src_cid in [0, 1, 2, 41, 43, u64::MAX, 42 | 1 << 32] {
        let mut header = guest.header(UNKNOWN, Op::Request as u16);
        header.src_cid = src_cid.into();
        guest.send_packet(&header, &[]);
    }
    let header = guest.header(UNKNOWN, Op::Rst as u16);
    guest.send_packet(&header, &[]);
    let mut header = header;
    header.dst_cid = 7.into();
    guest.send_packet(&header, &[]);
    // What is answered comes in order, so this is the first answer of all.
    let header = guest.header(UNKNOWN, Op::CreditUpdate as u16);
    expect_reset(&mut guest, &header);
    assert!(guest.strays().is_empty());
}

#[test]
fn case_06_and_07_packets_out_of_place_end_their_connection_only() {
    let host = Host::new();
    let mut guest = host.guest();
    let (mut other, unharmed) = host.connect(&mut guest, 1);
    type Change = fn(&mut Header);
    let out_of_place: [(&str, Change); 8] = [
        ("a second request", |h| h.op = (Op::Request as u16).into()),
        ("a second response", |h| h.op = (Op::Response as u16).into()),
        ("an unknown operation", |h| h.op = 99.into()),
        ("no operation", |h| h.op = 0.into()),
        ("more taken than was sent", |h| h.fwd_cnt = 1.into()),
        ("less than nothing taken", |h| {
            h.fwd_cnt = 0x7fff_ffff.into()
        }),
        ("data beyond the credit", |h| {
            h.op = (Op::Rw as u16).into();
            h.len = u32::MAX.into();
        }),
        ("data beyond the packet", |h| {
            h.op = (Op::Rw as u16).into();
            h.len = 8.into();
        }),
    ];
    for (what, change) in out_of_place {
        let (stream, socket) = host.connect(&mut guest, 2);
        let mut header = guest.header(socket, Op::CreditUpdate as u16);
        change(&mut header);
        guest.send_packet(&header, b"payload");
        guest.wait_for(what, |guest| {
            (guest.state(socket) == State::Closed).then_some(())
        });
        assert!(is_at_end(&stream), "{what}");
    }
    other.write_all(b"unharmed").unwrap();
    assert_eq!(guest.receive(unharmed, 8), b"unharmed");
    assert!(!guest.driver().needs_reset());
}

#[test]
fn case_07_data_beyond_the_credit_ends_its_connection() {
    let host = Host::new();
    let limits = Limits {
        buffer: 4096,
        ..Limits::default()
    };
    let mut guest = GuestVsock::start(host.device_with(limits));
    let (stream, socket) = host.connect(&mut guest, 1);
    let mut header = guest.header(socket, Op::Rw as u16);
    header.len = 4097.into();
    guest.send_packet(&header, &[0; 4097]);
    guest.wait_closed(socket);
    assert!(is_at_end(&stream));
    // Exactly the credit is fine.
    let (stream, socket) = host.connect(&mut guest, 1);
    assert_eq!(guest.credit(socket), 4096);
    guest.send(socket, &[7; 4096]);
    assert_eq!(read_exactly(&stream, 4096), [7; 4096]);
}

#[test]
fn case_06_data_after_the_end_of_data_ends_the_connection() {
    let host = Host::new();
    let mut guest = host.guest();
    let (stream, socket) = host.connect(&mut guest, 1);
    guest.shutdown_send(socket);
    let mut header = guest.header(socket, Op::Rw as u16);
    header.len = 1.into();
    guest.send_packet(&header, b"x");
    guest.wait_closed(socket);
    assert!(is_at_end(&stream));
}

/// Puts a packet on the transmit queue in pieces of `sizes` bytes.
fn send_in_pieces(guest: &mut GuestVsock, header: &Header, payload: &[u8], sizes: &[usize]) {
    let packet = [header.as_bytes(), payload].concat();
    let mut buffers = Vec::new();
    let mut from = 0;
    // A gap between the pieces, so that none runs into the next one by chance.
    for (i, size) in sizes.iter().enumerate() {
        let at = AT + 0x1_0000 * i as u64;
        guest
            .driver()
            .memory()
            .write_slice(&packet[from..from + size], GuestAddress(at))
            .unwrap();
        buffers.push((at, *size as u32, false));
        from += size;
    }
    guest.driver().ring(1).add(&buffers).unwrap();
    guest.driver().kick(1);
}

#[test]
fn case_06_a_packet_may_be_spread_over_descriptors() {
    let host = Host::new();
    let mut guest = host.guest();
    let (stream, socket) = host.connect(&mut guest, 1);
    let mut header = guest.header(socket, Op::Rw as u16);
    header.len = 10.into();
    for sizes in [
        &[HEADER_SIZE + 10][..],
        &[1, HEADER_SIZE + 9],
        &[HEADER_SIZE - 1, 11],
        &[10, 10, 10, 14, 3, 7],
        &[HEADER_SIZE + 3, 7],
    ] {
        send_in_pieces(&mut guest, &header, b"0123456789", sizes);
        assert_eq!(read_exactly(&stream, 10), b"0123456789", "{sizes:?}");
    }
    // More pieces than one system call takes.
    let mut sizes = vec![1; HEADER_SIZE + 50];
    sizes.push(1);
    header.len = 51.into();
    let payload: Vec<u8> = (0..51).collect();
    send_in_pieces(&mut guest, &header, &payload, &sizes);
    assert_eq!(read_exactly(&stream, 51), payload);
    // Bytes behind the payload are nobody's.
    header.len = 2.into();
    send_in_pieces(&mut guest, &header, b"0123456789", &[HEADER_SIZE, 10]);
    assert_eq!(read_exactly(&stream, 2), b"01");
    assert!(!guest.driver().needs_reset());
}

/// A device that has stopped starts again after a reset.
fn expect_stopped(host: &Host, mut guest: GuestVsock) {
    guest.wait_for("the device to stop", |guest| {
        guest.driver().needs_reset().then_some(())
    });
    let mut guest = guest.restart();
    let (mut stream, socket) = host.connect(&mut guest, 1);
    stream.write_all(b"again").unwrap();
    assert_eq!(guest.receive(socket, 5), b"again");
}

#[test]
fn case_07_a_packet_shorter_than_its_header_stops_the_device() {
    let host = Host::new();
    let mut guest = host.guest();
    let (stream, socket) = host.connect(&mut guest, 1);
    let header = guest.header(socket, Op::CreditUpdate as u16);
    send_in_pieces(&mut guest, &header, &[], &[HEADER_SIZE - 1]);
    assert!(is_at_end(&stream), "nobody waits for a stopped device");
    expect_stopped(&host, guest);
}

#[test]
fn case_07_a_receive_buffer_shorter_than_a_header_stops_the_device() {
    for (len, readable) in [(HEADER_SIZE - 1, false), (HEADER_SIZE, false), (4096, true)] {
        let host = Host::new();
        let mut guest = host.guest();
        guest.hold_receive_buffers(true);
        // Uses up the buffers that are there: 128 of them.
        let header = guest.header(UNKNOWN, Op::CreditUpdate as u16);
        for _ in 0..128 {
            guest.send_packet(&header, &[]);
            guest.wait_stray();
        }
        let mut buffers = vec![(AT, len as u32, true)];
        if readable {
            buffers.insert(0, (AT + 0x1_0000, 16, false));
        }
        guest.driver().ring(0).add(&buffers).unwrap();
        guest.driver().kick(0);
        guest.send_packet(&header, &[]);
        expect_stopped(&host, guest);
    }
}

#[test]
fn a_flood_of_requests_without_receive_buffers_is_held_back() {
    let host = Host::new();
    let mut guest = host.guest();
    let _listener = host.listen(5);
    guest.hold_receive_buffers(true);
    // Each would get a reset; those that find no room keep the transmit queue waiting.
    let mut sent = 0;
    let mut quiet = 0;
    while quiet < 100 {
        if guest.has_tx_room() {
            let id = SocketId {
                guest_port: sent,
                host_port: 6,
            };
            let header = guest.header(id, Op::Request as u16);
            guest.send_packet(&header, &[]);
            sent += 1;
            quiet = 0;
        } else {
            quiet += 1;
            std::thread::yield_now();
        }
        assert!(sent < 128 + 256 + 64 + 64, "the device takes without end");
    }
    guest.hold_receive_buffers(false);
    for expected in 0..sent {
        let reply = guest.wait_stray();
        assert!(is_reset(&reply));
        assert_eq!(reply.dst_port.get(), expected, "in order, none lost");
    }
    // Everybody is served again.
    let (mut stream, socket) = host.connect(&mut guest, 1);
    stream.write_all(b"hello").unwrap();
    assert_eq!(guest.receive(socket, 5), b"hello");
}

#[test]
fn connections_are_limited() {
    let host = Host::new();
    let limits = Limits {
        connections: 8,
        ..Limits::default()
    };
    let mut guest = GuestVsock::start(host.device_with(limits));
    let listener = host.listen(5);
    let mut held = Vec::new();
    for _ in 0..8 {
        let socket = guest.connect(5).unwrap();
        held.push((listener.accept().unwrap().0, socket));
    }
    assert_eq!(guest.connect(5), None);
    // A host program's request finds no room either.
    assert!(is_at_end(&host.dial(1)));
    let (stream, socket) = held.pop().unwrap();
    drop(stream);
    guest.wait_closed(socket);
    guest.connect(5).unwrap();
    // Opening and closing for ever fits too.
    let (stream, _) = listener.accept().unwrap();
    drop(stream);
    for _ in 0..500 {
        let socket = guest.wait_for("room", |guest| guest.connect(5));
        drop(listener.accept().unwrap());
        guest.close(socket);
        guest.wait_closed(socket);
    }
}

#[test]
fn a_guest_that_opens_and_resets_without_reading_answers_uses_up_nothing() {
    let host = Host::new();
    let mut guest = host.guest();
    let listener = host.listen(5);
    listener.set_nonblocking(true).unwrap();
    guest.hold_receive_buffers(true);
    for port in 0..3000 {
        let id = SocketId {
            guest_port: port,
            host_port: 5,
        };
        for op in [Op::Request, Op::Rst] {
            let header = guest.header(id, op as u16);
            guest.send_packet(&header, &[]);
        }
        while listener.accept().is_ok() {}
    }
    guest.hold_receive_buffers(false);
    host.connect(&mut guest, 1);
}

#[test]
fn shutdowns_in_any_order_and_number_are_harmless() {
    let host = Host::new();
    let mut guest = host.guest();
    for flags in [
        [0, 1, 2],
        [2, 2, 1],
        [0xffff_fffc, 3, 3],
        [3, 3, 3],
        [1, 0, 2],
    ] {
        let (stream, socket) = host.connect(&mut guest, 1);
        for flags in flags {
            let mut header = guest.header(socket, Op::Shutdown as u16);
            header.flags = flags.into();
            guest.send_packet(&header, &[]);
        }
        guest.wait_closed(socket);
        assert_eq!(guest.peer_shutdown(socket), SHUTDOWN_BOTH);
        assert!(is_at_end(&stream));
    }
    assert!(!guest.driver().needs_reset());
}
