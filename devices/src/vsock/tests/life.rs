//! Reset, pause and restore with streams in use.

use std::io::Write;

use super::*;
use crate::Memory;
use crate::testkit::vsock::State;
use crate::testkit::{self, Driver};
use crate::transport::MmioTransport;
use crate::vsock::VsockStateV1;
use crate::vsock::spec::EVENT_TRANSPORT_RESET;
use vmm_sys_util::eventfd::EventFd;

#[test]
fn the_configuration_space_has_the_address() {
    let host = Host::new();
    let mut guest = host.guest();
    assert_eq!(guest.cid(), 42);
    // Wider, narrower and overhanging reads.
    let transport = guest.driver().transport();
    for (offset, expected) in [(0x100, &[42][..]), (0x104, &[0; 8]), (0x107, &[0; 2])] {
        let mut bytes = vec![0xff; expected.len()];
        transport.read(offset, &mut bytes);
        assert_eq!(bytes, expected);
    }
}

#[test]
fn case_05_a_reset_with_io_in_flight_closes_everything_and_the_device_starts_again() {
    let host = Host::new();
    let mut guest = host.guest();
    for round in 0..5 {
        let (mut stream, socket) = host.connect(&mut guest, 1);
        let pending = host.dial(77);
        let partial = host.dial_silently();
        // Data on its way in both directions, more than fits anywhere.
        let writer = std::thread::spawn(move || {
            let data = vec![round; 1 << 20];
            let result = stream.write_all(&data);
            (stream, result)
        });
        while guest.try_send(socket, &[round; 60_000]) > 0 {}
        guest = guest.restart();
        let (stream, result) = writer.join().unwrap();
        assert!(result.is_err(), "the stream was cut");
        drop(stream);
        // Everybody who waited is let go.
        for stream in [pending, partial] {
            let end = (&stream).read(&mut [0]);
            assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        }
        assert_eq!(guest.state(socket), State::Closed);
    }
    let (mut stream, socket) = host.connect(&mut guest, 2);
    stream.write_all(b"alive").unwrap();
    assert_eq!(guest.receive(socket, 5), b"alive");
}

#[test]
fn a_pause_keeps_connections() {
    let host = Host::new();
    let mut guest = host.guest();
    let (mut stream, socket) = host.connect(&mut guest, 1);
    guest.send(socket, b"before");
    guest.driver().transport().pause();
    // While nobody works: data in both directions, and a caller.
    stream.write_all(b"meanwhile").unwrap();
    guest.send(socket, b" and after");
    guest.listen(2);
    let mut caller = host.dial(2);
    guest.driver().transport().resume();
    assert_eq!(guest.receive(socket, 9), b"meanwhile");
    assert_eq!(read_exactly(&stream, 16), b"before and after");
    let called = guest.accept();
    assert_eq!(read_ok(&mut caller), called.host_port);
    assert!(guest.events().is_empty(), "nothing was lost");
}

#[test]
fn a_reset_while_paused_lets_go_of_connections() {
    let host = Host::new();
    let mut guest = host.guest();
    let (stream, _) = host.connect(&mut guest, 1);
    guest.driver().transport().pause();
    guest.driver().write(0x70, 0);
    assert!(is_at_end(&stream));
}

#[test]
fn a_restored_guest_is_told_that_its_connections_are_lost() {
    let host = Host::new();
    let mut guest = host.guest();
    let (stream, socket) = host.connect(&mut guest, 1);
    guest.driver().transport().pause();
    let saved = guest.driver().transport().save();
    // Another process, another device over the same memory.
    let other = Host::new();
    guest.restore_into(other.device(), saved.clone());
    assert_eq!(
        guest.driver().transport().save(),
        saved,
        "save, restore, save"
    );
    drop(host);
    guest.driver().transport().resume();
    guest.wait_for("the event", |guest| {
        (!guest.events().is_empty()).then_some(())
    });
    assert_eq!(guest.events(), [EVENT_TRANSPORT_RESET]);
    assert_eq!(guest.state(socket), State::Closed);
    drop(stream);
    // New connections work, from ports that the guest has not seen.
    let (mut stream, again) = other.connect(&mut guest, 1);
    assert!(again.host_port > socket.host_port);
    stream.write_all(b"hello").unwrap();
    assert_eq!(guest.receive(again, 5), b"hello");
    // The event came once.
    guest.driver().transport().pause();
    guest.driver().transport().resume();
    guest.send(again, b"x");
    assert_eq!(read_exactly(&stream, 1), b"x");
    assert_eq!(guest.events().len(), 1);
}

#[test]
fn a_restored_guest_may_have_another_address() {
    let state = VsockStateV1 {
        guest_cid: 99.into(),
        next_host_port: u32::MAX.into(),
    };
    // A port counter at its end goes on at its beginning.
    assert!(VsockStateV1::restore(&state.save()).is_some());
    let host = Host::new();
    let mut guest = host.guest();
    guest.driver().transport().pause();
    let saved = guest.driver().transport().save();
    let other = Host::new();
    guest.restore_into(other.device(), saved);
    guest.driver().transport().resume();
    assert_eq!(guest.cid(), 42);
    let (_, socket) = other.connect(&mut guest, 3);
    assert!(socket.host_port >= 1 << 30);
}

#[test]
fn case_21_a_state_that_is_none_stops_the_device_only() {
    let host = Host::new();
    let mut guest = host.guest();
    guest.driver().transport().pause();
    let saved = guest.driver().transport().save();
    let mut json = serde_json::to_value(&saved).unwrap();
    json["live"]["device"]["payload"] = serde_json::json!([1, 2, 3]);
    let other = Host::new();
    guest.restore_into(other.device(), serde_json::from_value(json).unwrap());
    guest.driver().transport().resume();
    assert!(guest.driver().needs_reset());
    let mut guest = guest.restart();
    other.connect(&mut guest, 1);
}

#[test]
fn a_driver_without_queues_gets_no_device() {
    let host = Host::new();
    let line = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let memory = testkit::memory();
    let mut transport = MmioTransport::new(host.device(), Memory::clone(&memory), line).unwrap();
    let mut write = |offset: u64, value: u32| transport.write(offset, &value.to_le_bytes());
    for status in [1, 3] {
        write(0x70, status);
    }
    write(0x24, 1);
    write(0x20, 1);
    write(0x70, 11);
    write(0x70, 15);
    let mut status = [0; 4];
    transport.read(0x70, &mut status);
    assert_eq!(u32::from_le_bytes(status) & 0x40, 0x40);
}

#[test]
fn callers_may_come_before_the_guests_driver() {
    let host = Host::new();
    let device = host.device();
    let mut stream = host.dial(1024);
    // Without the event index, too: doorbells and interrupts by flags alone.
    let mut guest = GuestVsock::with_features(device, 1 << 32);
    guest.listen(1024);
    let socket = guest.accept();
    assert_eq!(read_ok(&mut stream), socket.host_port);
    let data = vec![0x5a; 1 << 20];
    let sent = data.clone();
    let mut reader = stream.try_clone().unwrap();
    let echo = std::thread::spawn(move || std::io::copy(&mut reader, &mut stream));
    let mut received = Vec::new();
    let mut chunk = vec![0; 65536];
    let mut done = 0;
    guest.wait_for("the echo", |guest| {
        done += guest.try_send(socket, &sent[done..]);
        let len = guest.try_receive(socket, &mut chunk);
        received.extend_from_slice(&chunk[..len]);
        (received.len() == data.len()).then_some(())
    });
    assert!(received == data);
    guest.close(socket);
    echo.join().unwrap().unwrap();
}

#[test]
fn a_device_is_dropped_in_any_state() {
    let host = Host::new();
    drop(host.device());
    drop(Driver::idle(host.device()));
    let mut guest = host.guest();
    let (stream, _) = host.connect(&mut guest, 1);
    drop(guest);
    assert!(is_at_end(&stream));
}
