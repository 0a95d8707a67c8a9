//! Host programs that are slow, wrong, many or gone.

use std::io::Write;

use super::*;
use crate::testkit::vsock::State;

#[test]
fn a_line_may_come_in_pieces() {
    let host = Host::new();
    let mut guest = host.guest();
    guest.listen(12);
    let mut stream = host.dial_silently();
    for byte in b"CONNECT 12\n" {
        stream.write_all(&[*byte]).unwrap();
        guest.poll();
    }
    let socket = guest.accept();
    assert_eq!(read_ok(&mut stream), socket.host_port);
}

#[test]
fn nonsense_is_answered_by_closing() {
    let host = Host::new();
    let mut guest = host.guest();
    guest.listen(1);
    let long = [b'C'; 64];
    for nonsense in [
        &b"\n"[..],
        b"GET / HTTP/1.1\r\n",
        b"CONNECT\n",
        b"CONNECT -1\n",
        b"CONNECT 4294967296\n",
        b"CONNECT 1 2\n",
        &long,
    ] {
        let mut stream = host.dial_silently();
        stream.write_all(nonsense).unwrap();
        // Bytes that nobody read may turn the end into a reset.
        let end = stream.read(&mut [0]);
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    assert_eq!(guest.try_accept(), None);
}

#[test]
fn callers_that_say_nothing_keep_nobody_out_who_leaves() {
    let host = Host::new();
    let mut guest = host.guest();
    // More than the lobby holds.
    let silent: Vec<_> = (0..100).map(|_| host.dial_silently()).collect();
    drop(silent);
    host.connect(&mut guest, 3);
}

#[test]
fn a_caller_that_leaves_before_the_answer_leaves_nothing_behind() {
    let host = Host::new();
    let mut guest = host.guest();
    guest.hold_receive_buffers(true);
    for _ in 0..10 {
        drop(host.dial(3));
    }
    guest.hold_receive_buffers(false);
    guest.listen(3);
    guest.listen(4);
    let mut stream = host.dial(4);
    // Whoever got through to port 3 is ended in good order.
    let socket = loop {
        let socket = guest.accept();
        if socket.guest_port == 4 {
            break socket;
        }
        guest.wait_closed(socket);
    };
    read_ok(&mut stream);
    stream.write_all(b"hello").unwrap();
    assert_eq!(guest.receive(socket, 5), b"hello");
}

#[test]
fn hundreds_of_connections_come_and_go() {
    let host = Host::new();
    let mut guest = host.guest();
    let listener = host.listen(80);
    for round in 0..200_u8 {
        let (mut stream, socket) = host.connect(&mut guest, 1);
        stream.write_all(&[round]).unwrap();
        assert_eq!(guest.receive(socket, 1), [round]);
        drop(stream);
        guest.wait_closed(socket);
        let socket = guest.connect(80).unwrap();
        let (stream, _) = listener.accept().unwrap();
        guest.send(socket, &[round]);
        guest.close(socket);
        assert_eq!(read_to_end(&patient(stream)), [round]);
        guest.wait_closed(socket);
    }
}

#[test]
fn a_connector_stands_for_the_host() {
    let host = Host::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let device = Vsock::new(VsockConfig {
        guest_cid: GuestCid::try_from(3).unwrap(),
        listener: UnixListener::bind(host.dir.join("pod")).unwrap(),
        host_ports: HostPorts::Connector(Box::new(move |port| match port {
            7 => theirs.try_clone(),
            _ => Err(std::io::ErrorKind::ConnectionRefused.into()),
        })),
        limits: Limits::default(),
    });
    let mut guest = GuestVsock::start(Box::new(device.unwrap()));
    assert_eq!(guest.connect(8), None);
    let socket = guest.connect(7).unwrap();
    guest.send(socket, b"hello");
    assert_eq!(read_exactly(&patient(ours), 5), b"hello");
}

#[test]
fn closed_host_ports_refuse() {
    let host = Host::new();
    let device = Vsock::new(VsockConfig {
        guest_cid: GuestCid::try_from(3).unwrap(),
        listener: UnixListener::bind(host.dir.join("pod")).unwrap(),
        host_ports: HostPorts::Closed,
        limits: Limits::default(),
    });
    let _listener = host.listen(7);
    let mut guest = GuestVsock::start(Box::new(device.unwrap()));
    assert_eq!(guest.connect(7), None);
}

#[test]
fn a_guest_without_credit_gets_the_rest_when_it_has_read() {
    let host = Host::new();
    let mut guest = host.guest();
    guest.set_buffer(1000);
    let (mut stream, socket) = host.connect(&mut guest, 1);
    let data: Vec<u8> = (0..20_000_u32).map(|i| (i / 7) as u8).collect();
    stream.write_all(&data).unwrap();
    drop(stream);
    // The kit fails if more than 1000 bytes come at once.
    guest.wait_for("a full buffer", |guest| {
        (guest.queued(socket) == 1000).then_some(())
    });
    assert_eq!(guest.state(socket), State::Connected);
    assert_eq!(guest.receive_to_end(socket), data);
}
