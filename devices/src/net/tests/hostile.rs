//! Drivers that are against us.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

use super::*;
use crate::Memory;
use crate::net::spec::{F_MRG_RXBUF, HEADER_SIZE};
use crate::testkit::net::{ALL_FEATURES, RX, TX};
use crate::testkit::{Descriptor, Driver};

/// A driver that offers nothing by itself.
fn bare(host_too: bool) -> (Option<Host>, Driver) {
    let (host, backend) = Host::pair();
    let driver = Driver::start(device(backend), ALL_FEATURES);
    (host_too.then_some(host), driver)
}

fn wait_for_fault(driver: &Driver) {
    for _ in 0..10_000 {
        if driver.needs_reset() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("the device went on");
}

/// The device works after what came before.
fn works_after_reset(driver: Driver, mut host: Host) {
    let mut driver = driver;
    driver.bring_up(ALL_FEATURES);
    assert!(!driver.needs_reset());
    let data = frame(1, 100);
    driver.request(TX, &[plain().as_bytes(), &data], &[]);
    while host.receive().1 != data {}
}

#[test]
fn case_04_broken_chains_stop_the_device_and_nothing_else() {
    for queue in [RX, TX] {
        let (host, mut driver) = bare(true);
        // A loop of two.
        let ring = driver.ring(queue);
        for (index, next) in [(0, 1), (1, 0)] {
            ring.write_desc(
                index,
                Descriptor {
                    addr: 0x40_0000,
                    len: 64,
                    flags: 1 | if queue == RX { 2 } else { 0 },
                    next,
                },
            );
        }
        ring.publish(0);
        driver.kick(queue);
        wait_for_fault(&driver);
        works_after_reset(driver, host.unwrap());
    }
}

#[test]
fn case_07_chains_without_room_for_a_header_stop_the_device() {
    // Frames that end within their header.
    for len in 1..HEADER_SIZE {
        let (host, mut driver) = bare(true);
        driver.post(TX, &[&vec![0; len]], &[]);
        wait_for_fault(&driver);
        works_after_reset(driver, host.unwrap());
    }
    // Receive buffers that cannot hold one, or that are not to be written to.
    for (readable, writable) in [
        (&[][..], &[11_u32][..]),
        (&[], &[1, 1, 1]),
        (&[&[0; 64][..]], &[]),
        (&[&[0; 64][..]], &[2048]),
    ] {
        let (host, mut driver) = bare(true);
        driver.post(RX, readable, writable);
        wait_for_fault(&driver);
        works_after_reset(driver, host.unwrap());
    }
}

#[test]
fn case_07_a_frame_is_cut_to_its_buffer_and_nothing_beside_it_is_touched() {
    let (host, backend) = Host::pair();
    let mut driver = Driver::start(device(backend), 1 << 32);
    let memory = Memory::clone(driver.memory());
    let guard = [0xa5_u8; 4096];
    memory.write_slice(&guard, GuestAddress(0x40_0000)).unwrap();
    driver.ring(RX).add(&[(0x40_0400, 100, true)]).unwrap();
    driver.kick(RX);
    host.send(&plain(), &frame(1, 1000));
    host.send(&plain(), &frame(2, 80));
    while driver.ring(RX).take_used().is_none() {
        std::thread::yield_now();
    }
    let mut after = [0; 4096];
    memory
        .read_slice(&mut after, GuestAddress(0x40_0000))
        .unwrap();
    assert_eq!(after[..1024], guard[..1024]);
    assert_eq!(after[1024 + 12..1024 + 92], frame(2, 80));
    assert_eq!(after[1124..], guard[1124..]);
}

#[test]
fn case_06_a_header_that_changes_is_the_copy_that_was_checked() {
    let (mut host, backend) = Host::pair();
    let mut driver = Driver::start(device(backend), ALL_FEATURES);
    let memory = Memory::clone(driver.memory());
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    let at = GuestAddress(0x40_0000);
    let bad = Header {
        csum_start: u16::MAX.into(),
        hdr_len: u16::MAX.into(),
        gso_type: 0x7f,
        ..large()
    };
    // Two headers take turns in the same place.
    let racer = std::thread::spawn(move || {
        while !seen.load(Ordering::Relaxed) {
            for header in [large(), bad] {
                memory.write_slice(header.as_bytes(), at).unwrap();
            }
        }
    });
    let mut passed = 0;
    for _ in 0..20_000 {
        driver
            .ring(TX)
            .add(&[(at.0, 12, false), (at.0 + 64, 2000, false)])
            .unwrap();
        driver.kick(TX);
        while driver.ring(TX).take_used().is_none() {
            std::thread::yield_now();
        }
        while let Some((header, len)) = host.try_receive() {
            let end = usize::from(header.csum_start) + usize::from(header.csum_offset) + 2;
            assert!(end <= len, "{header:?}");
            assert!(usize::from(header.hdr_len) <= len, "{header:?}");
            assert!([1, 4, 5].contains(&header.gso_type), "{header:?}");
            passed += 1;
        }
    }
    stop.store(true, Ordering::Relaxed);
    racer.join().unwrap();
    assert!(passed > 0, "some were good");
    assert!(!driver.needs_reset());
}

#[test]
fn case_08_a_frame_in_many_parts_costs_no_more_than_one_call_takes() {
    let (mut host, mut driver) = bare(true);
    // 256 descriptors, each a table of 256: 65,536 parts.
    let memory = Memory::clone(driver.memory());
    let table = 0x40_0000;
    for i in 0..256_u64 {
        let mut entry = [0; 16];
        entry[..8].copy_from_slice(&0x50_0000_u64.to_le_bytes());
        entry[8] = if i == 0 { 12 } else { 1 };
        entry[12] = u8::from(i < 255);
        entry[14..].copy_from_slice(&(i as u16 + 1).to_le_bytes());
        memory
            .write_slice(&entry, GuestAddress(table + 16 * i))
            .unwrap();
    }
    let indirect = Descriptor {
        addr: table,
        len: 256 * 16,
        flags: 4,
        next: 0,
    };
    driver.ring(TX).write_desc(0, indirect);
    driver.ring(TX).publish(0);
    driver.kick(TX);
    // 12 bytes of header and 255 of one byte each.
    let host = host.as_mut().unwrap();
    assert_eq!(host.receive().1.len(), 255);
    assert!(!driver.needs_reset());
}

#[test]
fn case_08_receive_buffers_of_many_small_parts_hold_what_they_can() {
    let (host, backend) = Host::pair();
    let mut driver = Driver::start(device(backend), ALL_FEATURES & !F_MRG_RXBUF);
    let buffers: Vec<_> = (0..200_u64).map(|i| (0x40_0000 + 2 * i, 2, true)).collect();
    driver.ring(RX).add(&buffers).unwrap();
    driver.kick(RX);
    host.send(&plain(), &frame(3, 300));
    while driver.ring(RX).take_used().is_none() {
        std::thread::yield_now();
    }
    let mut bytes = [0; 312];
    driver
        .memory()
        .read_slice(&mut bytes, GuestAddress(0x40_0000))
        .unwrap();
    assert_eq!(bytes[10..12], [1, 0], "num_buffers, across two parts");
    assert_eq!(bytes[12..], frame(3, 300));
}

#[test]
fn a_driver_that_offers_one_byte_at_a_time_is_served() {
    // As few bytes as are allowed in each buffer, and frames that span dozens of them.
    let (host, backend) = Host::pair();
    let mut guest = GuestNet::with(device(backend), ALL_FEATURES, 12);
    for i in 0..50 {
        host.send(&plain(), &frame(i, 14 + 40 * i));
        let (header, bytes) = guest.wait_frame();
        assert_eq!(bytes, frame(i, 14 + 40 * i));
        assert_eq!(
            usize::from(header.num_buffers.get()),
            (26 + 40 * i).div_ceil(12)
        );
    }
}
