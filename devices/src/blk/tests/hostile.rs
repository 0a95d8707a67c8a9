//! Drivers that are against us.

use super::*;
use crate::blk::{MAX_CLEARED, MAX_DATA};
use crate::testkit::Descriptor;

/// The disk is as it was.
fn assert_untouched(file: &File) {
    for sector in 0..SECTORS {
        assert_eq!(contents(file, sector), [sector as u8; SECTOR], "{sector}");
    }
    let len = file.metadata().expect("its length").len();
    assert_eq!(len, SECTORS * SECTOR as u64);
}

#[test]
fn case_07_nothing_outside_the_disk_is_read_or_written() {
    let file = disk();
    let mut driver = start(settings(), &file);
    let past = u64::MAX / SECTOR as u64;
    for (sector, sectors) in [
        (SECTORS, 1),
        (SECTORS - 1, 2),
        (0, SECTORS as usize + 1),
        (u64::MAX, 1),
        (u64::MAX, 0),
        (past, 1),
        (past + 1, 1),
        (1 << 55, 1),
    ] {
        let len = sectors * SECTOR;
        let reply = read(&mut driver, sector, len as u32);
        assert_eq!((reply.status, reply.data.len()), (IOERR, 0), "{sector}");
        assert_eq!(write(&mut driver, sector, &vec![0xff; len]), IOERR);
        for kind in [11, 13] {
            let asked = range(sector, sectors as u32, 1);
            let reply = request(&mut driver, &[&header(kind, 0), &asked], &[]);
            assert_ne!(reply.status, OK, "{kind} of {sectors} at {sector}");
        }
    }
    assert_untouched(&file);
    assert!(!driver.needs_reset());
}

#[test]
fn case_07_what_the_host_has_behind_the_disk_stays_its_own() {
    let file = disk();
    let mut with = settings();
    with.geometry.bytes = 10 * SECTOR as u64 + 511;
    let mut driver = start(with, &file);
    assert_eq!(read(&mut driver, 9, 512).status, OK);
    assert_eq!(read(&mut driver, 10, 512).status, IOERR);
    assert_eq!(write(&mut driver, 9, &[1; 2 * SECTOR]), IOERR);
    assert_untouched(&file);
}

#[test]
fn case_07_parts_of_sectors_are_refused() {
    let file = disk();
    let mut driver = start(settings(), &file);
    for len in [1, 511, 513, 1000] {
        assert_eq!(read(&mut driver, 0, len).status, IOERR, "{len}");
        assert_eq!(write(&mut driver, 0, &vec![0xff; len as usize]), IOERR);
    }
    assert_untouched(&file);
}

#[test]
fn case_13_a_read_only_disk_is_not_changed() {
    let file = disk();
    let mut with = settings();
    with.read_only = true;
    let mut driver = start(with, &file);
    assert_eq!(write(&mut driver, 0, &[0xff; SECTOR]), IOERR);
    for kind in [11, 13] {
        let reply = request(&mut driver, &[&header(kind, 0), &range(0, 1, 0)], &[]);
        assert_eq!(reply.status, IOERR, "{kind}");
    }
    assert_untouched(&file);
}

#[test]
fn case_08_a_request_has_a_size_that_can_be_waited_for() {
    let file = disk();
    let mut with = settings();
    with.geometry.bytes = 1 << 40;
    let mut driver = start(with, &file);
    file.set_len(1 << 40).expect("a hole");
    // One buffer of guest memory, named again and again, behind a header and in front of a status.
    let (at, len) = (0x200_0000, 1 << 20);
    let memory = driver.memory().clone();
    memory
        .write_slice(&header(0, 0), GuestAddress(at))
        .expect("in memory");
    let parts = MAX_DATA.div_ceil(len) + 1;
    let buffers: Vec<_> = std::iter::once((at, 16, false))
        .chain((0..parts).map(|_| (at, len as u32, true)))
        .chain([(at + len, 1, true)])
        .collect();
    let ring = driver.ring(0);
    ring.add(&buffers).expect("room");
    driver.kick(0);
    let begun = std::time::Instant::now();
    let written = loop {
        if let Some((_, written)) = driver.ring(0).take_used() {
            break written;
        }
        assert!(begun.elapsed().as_secs() < 10, "answered");
        std::thread::yield_now();
    };
    let status: u8 = memory.read_obj(GuestAddress(at + len)).expect("in memory");
    assert_eq!((written, status), (0, IOERR));
    let most = (MAX_CLEARED / SECTOR as u64) as u32;
    for (sectors, status) in [(most + 1, IOERR), (u32::MAX, IOERR), (0, IOERR), (most, OK)] {
        let asked = [&header(11, 0)[..], &range(0, sectors, 0)];
        let reply = request(&mut driver, &asked, &[]);
        assert_eq!(reply.status, status, "{sectors}");
    }
}

#[test]
fn case_04_ranges_that_are_not_one_or_have_other_flags_are_refused() {
    let file = disk();
    let mut driver = start(settings(), &file);
    let one = range(8, 8, 0);
    for (kind, ranges, status) in [
        (11, &[][..], IOERR),
        (11, &one[..15], IOERR),
        (11, &[one, one].concat()[..], IOERR),
        (11, &range(8, 8, 1), UNSUPP),
        (11, &range(8, 8, 2), UNSUPP),
        (13, &[][..], IOERR),
        (13, &[one, one].concat()[..], IOERR),
        (13, &range(8, 8, 2), UNSUPP),
        (13, &range(8, 8, 3), UNSUPP),
    ] {
        let reply = request(&mut driver, &[&header(kind, 0), ranges], &[]);
        assert_eq!(reply.status, status, "{kind} {ranges:?}");
    }
    assert_untouched(&file);
}

#[test]
fn case_04_a_chain_without_header_or_status_stops_the_device() {
    for (readable, writable) in [
        (&[][..], &[1][..]),
        (&[&[0; 15][..]], &[513]),
        (&[&[0; 16]], &[]),
        (&[&[0; 16], &[0; 512]], &[]),
    ] {
        let file = disk();
        let mut driver = start(settings(), &file);
        driver.post(0, readable, writable);
        let begun = std::time::Instant::now();
        while !driver.needs_reset() {
            assert!(begun.elapsed().as_secs() < 10, "{readable:?} {writable:?}");
            std::thread::yield_now();
        }
        assert_untouched(&file);
        driver.bring_up(!0);
        assert_eq!(read(&mut driver, 3, 512).data, [3; SECTOR]);
    }
}

#[test]
fn case_04_data_outside_memory_stops_the_device() {
    let file = disk();
    let mut driver = start(settings(), &file);
    let memory = driver.memory().clone();
    let at = 0x200_0000;
    memory
        .write_slice(&header(1, 0), GuestAddress(at))
        .expect("in memory");
    let ring = driver.ring(0);
    let (next, write) = (1, 2);
    for (index, (addr, len, flags)) in [(at, 16, next), (1 << 60, 512, next), (at + 512, 1, write)]
        .into_iter()
        .enumerate()
    {
        let next = index as u16 + 1;
        ring.write_desc(
            index as u16,
            Descriptor {
                addr,
                len,
                flags,
                next,
            },
        );
    }
    ring.publish(0);
    driver.kick(0);
    let begun = std::time::Instant::now();
    while !driver.needs_reset() {
        assert!(begun.elapsed().as_secs() < 10, "it stops");
        std::thread::yield_now();
    }
    assert_untouched(&file);
}
