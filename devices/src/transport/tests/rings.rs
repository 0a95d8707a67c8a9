//! Case 4: rings and descriptors with anything in them.

use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::testkit::Descriptor;

const NEXT: u16 = VRING_DESC_F_NEXT as u16;
const WRITE: u16 = VRING_DESC_F_WRITE as u16;
const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;

fn put(driver: &mut Driver, index: u16, descriptor: Descriptor) {
    driver.ring(0).write_desc(index, descriptor);
}

fn publish(driver: &mut Driver, head: u16) {
    driver.ring(0).publish(head);
    driver.kick(0);
}

fn buffer(flags: u16, next: u16) -> Descriptor {
    Descriptor {
        addr: AT,
        len: 16,
        flags,
        next,
    }
}

#[test]
fn case_04_loops_of_any_length_stop_the_device() {
    for length in [1, 2, 3, 16] {
        let mut driver = driver();
        for i in 0..length {
            put(&mut driver, i, buffer(WRITE | NEXT, (i + 1) % length));
        }
        publish(&mut driver, 0);
        assert_stops(driver);
    }
}

#[test]
fn case_04_indices_outside_the_table_stop_the_device() {
    for next in [16, 17, 0x7fff, 0xffff] {
        let mut driver = driver();
        put(&mut driver, 0, buffer(WRITE | NEXT, next));
        publish(&mut driver, 0);
        assert_stops(driver);
        let mut driver = self::driver();
        publish(&mut driver, next);
        assert_stops(driver);
    }
}

#[test]
fn case_04_buffers_outside_memory_stop_the_device() {
    let end = MEMORY_SIZE as u64;
    for (addr, len) in [
        (end, 1),
        (end - 1, 2),
        (0, u32::MAX),
        (u64::MAX, 1),
        (u64::MAX, 2),
        (u64::MAX - 15, 16),
        (u64::MAX - 15, u32::MAX),
        (1 << 63, 16),
    ] {
        let mut driver = driver();
        put(
            &mut driver,
            0,
            Descriptor {
                addr,
                len,
                flags: WRITE,
                next: 0,
            },
        );
        publish(&mut driver, 0);
        assert_stops(driver);
    }
    // The last byte of memory is memory.
    let mut driver = driver();
    let head = driver.ring(0).add(&[(end - 16, 16, true)]).unwrap();
    driver.kick(0);
    let start = std::time::Instant::now();
    let used = loop {
        if let Some(used) = driver.ring(0).take_used() {
            break used;
        }
        assert!(start.elapsed().as_secs() < 10);
    };
    assert_eq!(used, (head, 16));
}

#[test]
fn case_04_an_available_index_that_jumps_stops_the_device() {
    for jump in [17, 18, 0x8000, 0xffff] {
        let mut driver = driver();
        driver.ring(0).write_avail_idx(jump);
        driver.kick(0);
        assert_stops(driver);
    }
}

#[test]
fn case_04_lengths_that_add_up_beyond_32_bits_stop_the_device() {
    let mut driver = driver();
    let half = Descriptor {
        addr: 0,
        len: MEMORY_SIZE as u32,
        flags: WRITE | NEXT,
        next: 1,
    };
    // 64 times 64 MiB in an indirect table.
    for i in 0..64_u64 {
        write_descriptor(
            &driver,
            AT + 16 * i,
            Descriptor {
                next: i as u16 + 1,
                flags: if i == 63 { WRITE } else { half.flags },
                ..half
            },
        );
    }
    put(&mut driver, 0, table(AT, 64 * 16));
    publish(&mut driver, 0);
    assert_stops(driver);
}

fn write_descriptor(driver: &Driver, at: u64, d: Descriptor) {
    let memory = driver.memory();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&d.addr.to_le_bytes());
    bytes[8..12].copy_from_slice(&d.len.to_le_bytes());
    bytes[12..14].copy_from_slice(&d.flags.to_le_bytes());
    bytes[14..].copy_from_slice(&d.next.to_le_bytes());
    memory.write_slice(&bytes, GuestAddress(at)).unwrap();
}

fn table(addr: u64, len: u32) -> Descriptor {
    Descriptor {
        addr,
        len,
        flags: INDIRECT,
        next: 0,
    }
}

#[test]
fn case_04_indirect_tables_that_break_the_rules_stop_the_device() {
    let end = MEMORY_SIZE as u64;
    let inner = Descriptor {
        addr: AT + 0x1000,
        len: 16,
        flags: WRITE,
        next: 0,
    };
    let looped = Descriptor {
        flags: WRITE | NEXT,
        ..inner
    };
    let outside = Descriptor { next: 2, ..looped };
    for (what, outer, inside) in [
        ("no entries", table(AT, 0), inner),
        ("part of an entry", table(AT, 24), inner),
        ("less than an entry", table(AT, 8), inner),
        ("outside memory", table(end, 16), inner),
        ("half outside memory", table(u64::MAX - 7, 16), inner),
        ("a table in a table", table(AT, 16), table(AT, 16)),
        ("a loop", table(AT, 16), looped),
        ("an index outside", table(AT, 32), outside),
        ("too many entries", table(AT, 16 * 0x1_0000), inner),
    ] {
        let mut driver = driver();
        write_descriptor(&driver, AT, inside);
        put(&mut driver, 0, outer);
        publish(&mut driver, 0);
        eprintln!("{what}");
        assert_stops(driver);
    }
}

#[test]
fn case_04_a_readable_buffer_after_a_writable_one_stops_the_device() {
    let mut driver = driver();
    put(&mut driver, 0, buffer(WRITE | NEXT, 1));
    put(&mut driver, 1, buffer(0, 0));
    publish(&mut driver, 0);
    assert_stops(driver);
}
