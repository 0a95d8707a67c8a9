//! What a stream promises: bytes in order, ends apart, nothing lost before an end.

use std::io::Write;
use std::net::Shutdown;

use super::*;
use crate::testkit::vsock::State;
use crate::vsock::spec::{SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

#[test]
fn a_host_program_reaches_the_guest() {
    let host = Host::new();
    let mut guest = host.guest();
    let (mut stream, socket) = host.connect(&mut guest, 1024);
    assert!(socket.host_port >= 1 << 30);
    stream.write_all(b"ping").unwrap();
    assert_eq!(guest.receive(socket, 4), b"ping");
    guest.send(socket, b"pong");
    assert_eq!(read_exactly(&stream, 4), b"pong");
}

#[test]
fn the_guest_reaches_a_host_program() {
    let host = Host::new();
    let mut guest = host.guest();
    let (mut stream, socket) = host.accept(&mut guest, 7);
    guest.send(socket, b"ping");
    assert_eq!(read_exactly(&stream, 4), b"ping");
    stream.write_all(b"pong").unwrap();
    assert_eq!(guest.receive(socket, 4), b"pong");
}

#[test]
fn a_port_that_nobody_listens_on_refuses() {
    let host = Host::new();
    let mut guest = host.guest();
    // Nobody in the guest: the caller's socket is closed.
    let stream = host.dial(9);
    guest.wait_for("the refusal", |guest| guest.strays().pop_front());
    assert!(is_at_end(&stream));
    // Nobody on the host: the guest gets a reset.
    assert_eq!(guest.connect(9), None);
    // A socket file that nobody listens on any more.
    drop(host.listen(10));
    assert_eq!(guest.connect(10), None);
    assert!(!guest.driver().needs_reset());
}

#[test]
fn what_a_caller_sends_behind_its_line_waits_for_the_guest() {
    let host = Host::new();
    let mut guest = host.guest();
    guest.listen(5);
    let mut stream = host.dial_silently();
    stream.write_all(b"CONNECT 5\nfirst words").unwrap();
    let socket = guest.accept();
    assert_eq!(guest.receive(socket, 11), b"first words");
    read_ok(&mut stream);
}

#[test]
fn the_guest_shuts_its_sending_side_and_goes_on_receiving() {
    let host = Host::new();
    let mut guest = host.guest();
    let (mut stream, socket) = host.connect(&mut guest, 1);
    guest.send(socket, b"request");
    guest.shutdown_send(socket);
    assert_eq!(read_to_end(&stream), b"request");
    for part in 0..100 {
        stream.write_all(&[part; 1000]).unwrap();
        assert_eq!(guest.receive(socket, 1000), [part; 1000]);
    }
    // The host's close must reach a guest that waits for it.
    drop(stream);
    guest.wait_closed(socket);
}

#[test]
fn a_guest_that_shut_its_sending_side_hears_of_the_hosts_shutdown() {
    let host = Host::new();
    let mut guest = host.guest();
    let (stream, socket) = host.connect(&mut guest, 1);
    guest.shutdown_send(socket);
    assert!(is_at_end(&stream));
    stream.shutdown(Shutdown::Write).unwrap();
    // Both directions are over, though the host program keeps its descriptor.
    guest.wait_closed(socket);
}

#[test]
fn a_host_program_shuts_its_sending_side_and_goes_on_receiving() {
    let host = Host::new();
    let mut guest = host.guest();
    let (mut stream, socket) = host.connect(&mut guest, 1);
    stream.write_all(b"request").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.receive_to_end(socket), b"request");
    assert_eq!(guest.peer_shutdown(socket), SHUTDOWN_SEND);
    for part in 0..100 {
        guest.send(socket, &[part; 1000]);
        assert_eq!(read_exactly(&stream, 1000), [part; 1000]);
    }
    guest.close(socket);
    guest.wait_closed(socket);
    assert!(is_at_end(&stream));
}

#[test]
fn credit_comes_back_after_either_side_has_shut_down() {
    let host = Host::new();
    let mut guest = host.guest();
    let megabyte = vec![0xa5; 1 << 20];
    // Guest to host after the host has shut its sending side.
    let (stream, socket) = host.connect(&mut guest, 1);
    stream.shutdown(Shutdown::Write).unwrap();
    let reader = std::thread::spawn(move || read_to_end(&stream));
    guest.send(socket, &megabyte);
    guest.close(socket);
    guest.wait_closed(socket);
    assert!(reader.join().unwrap() == megabyte);
    // Host to guest after the guest has shut its sending side.
    let (mut stream, socket) = host.connect(&mut guest, 2);
    guest.shutdown_send(socket);
    let data = megabyte.clone();
    let writer = std::thread::spawn(move || stream.write_all(&data).unwrap());
    assert!(guest.receive(socket, megabyte.len()) == megabyte);
    writer.join().unwrap();
    guest.close(socket);
    guest.wait_closed(socket);
}

#[test]
fn a_guest_that_shuts_its_receiving_side_makes_host_writes_fail() {
    let host = Host::new();
    let mut guest = host.guest();
    let (mut stream, socket) = host.connect(&mut guest, 1);
    guest.shutdown_receive(socket);
    guest.send(socket, b"still talking");
    assert_eq!(read_exactly(&stream, 13), b"still talking");
    let error = stream.write_all(b"deaf").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    guest.shutdown_send(socket);
    assert!(is_at_end(&stream));
    guest.wait_closed(socket);
}

#[test]
fn a_guest_hears_that_the_host_does_not_receive_any_more() {
    let host = Host::new();
    let mut guest = host.guest();
    let (mut stream, socket) = host.connect(&mut guest, 1);
    stream.shutdown(Shutdown::Read).unwrap();
    guest.send(socket, b"into the void");
    guest.wait_for("the shutdown", |guest| {
        (guest.peer_shutdown(socket) == SHUTDOWN_RECEIVE).then_some(())
    });
    stream.write_all(b"the other way works").unwrap();
    assert_eq!(guest.receive(socket, 19), b"the other way works");
    drop(stream);
    guest.wait_closed(socket);
}

#[test]
fn all_data_comes_before_the_end_in_both_directions() {
    let host = Host::new();
    let mut guest = host.guest();
    let data: Vec<u8> = (0..200_000_u32).map(|i| i as u8).collect();
    // The guest closes at once behind its data, and nobody has read any of it.
    let (stream, socket) = host.connect(&mut guest, 1);
    guest.send(socket, &data);
    guest.close(socket);
    guest.poll();
    assert!(read_to_end(&stream) == data);
    guest.wait_closed(socket);
    // The host program closes behind its data.
    let (mut stream, socket) = host.connect(&mut guest, 2);
    stream.write_all(&data[..150_000]).unwrap();
    drop(stream);
    assert!(guest.receive_to_end(socket) == data[..150_000]);
    assert_eq!(guest.peer_shutdown(socket), SHUTDOWN_BOTH);
    guest.close(socket);
    guest.wait_closed(socket);
}

#[test]
fn data_outlives_a_guest_that_gives_up_lingering() {
    let host = Host::new();
    let mut guest = host.guest();
    let (stream, socket) = host.connect(&mut guest, 1);
    // More than a Unix socket takes, so some of it is kept back in the device.
    let data: Vec<u8> = (0..400_000_u32).map(|i| (i >> 3) as u8).collect();
    let sent = guest.wait_for("a full window", |guest| {
        let mut sent = 0;
        while guest.credit(socket) > 0 && sent < data.len() {
            sent += guest.try_send(socket, &data[sent..]);
        }
        (sent >= 256 * 1024).then_some(sent)
    });
    guest.shutdown(socket, SHUTDOWN_BOTH);
    // As Linux does when eight seconds have passed.
    let reset = guest.header(socket, 3);
    guest.send_packet(&reset, &[]);
    // The same ports may be used again meanwhile, by a connection of their own.
    assert!(read_to_end(&stream) == data[..sent]);
}

#[test]
fn sixty_four_connections_at_once_each_way() {
    let host = Host::new();
    let mut guest = host.guest();
    let listener = host.listen(80);
    let mut pairs = Vec::new();
    for _ in 0..32 {
        let socket = guest.connect(80).unwrap();
        pairs.push((patient(listener.accept().unwrap().0), socket));
        pairs.push(host.connect(&mut guest, 90));
    }
    let word = |i: usize, round: usize| [i as u8, round as u8, 0x55];
    for round in 0..20 {
        for (i, (stream, socket)) in pairs.iter_mut().enumerate() {
            stream.write_all(&word(i, round)).unwrap();
            guest.send(*socket, &word(i, round + 1));
        }
        for (i, (stream, socket)) in pairs.iter().enumerate() {
            assert_eq!(guest.receive(*socket, 3), word(i, round));
            assert_eq!(read_exactly(stream, 3), word(i, round + 1));
        }
    }
    for (i, (stream, socket)) in pairs.into_iter().enumerate() {
        if i % 2 == 0 {
            drop(stream);
        } else {
            guest.close(socket);
        }
        guest.wait_closed(socket);
        assert_eq!(guest.state(socket), State::Closed);
    }
}
