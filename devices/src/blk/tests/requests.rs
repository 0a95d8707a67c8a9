//! What honest drivers ask for.

use super::*;
use crate::blk::spec::{UNMAP, feature};

#[test]
fn what_was_written_is_read_and_lies_where_it_should() {
    let file = disk();
    let mut driver = start(settings(), &file);
    let data: Vec<u8> = (0..3 * SECTOR).map(|at| (at / 7) as u8).collect();
    assert_eq!(write(&mut driver, 5, &data), OK);
    let reply = read(&mut driver, 5, 3 * SECTOR as u32);
    assert_eq!(reply, Reply { status: OK, data });
    assert_eq!(contents(&file, 4), [4; SECTOR]);
    assert_eq!(contents(&file, 8), [8; SECTOR]);
}

#[test]
fn buffers_may_be_cut_anywhere() {
    let file = disk();
    let mut driver = start(settings(), &file);
    let asked = header(0, 1);
    let room = [1, 510, 500, 13];
    let reply = request(&mut driver, &[&asked[..3], &asked[3..]], &room);
    assert_eq!(reply.status, OK);
    assert_eq!(reply.data, [[1; SECTOR], [2; SECTOR]].concat());
    let asked = header(1, 9);
    let parts: [&[u8]; 4] = [&asked[..15], &[asked[15], 7], &[7; 500], &[7; 11]];
    assert_eq!(request(&mut driver, &parts, &[]).status, OK);
    assert_eq!(contents(&file, 9), [7; SECTOR]);
    // The status in one buffer with the data: 512 bytes and one.
    let bytes = driver.request(0, &[&header(0, 3)], &[513]);
    assert_eq!((bytes.len(), bytes[512], bytes[0]), (513, OK, 3));
}

#[test]
fn a_flush_is_answered_and_writes_go_through_for_who_cannot_ask_for_one() {
    for features in [!0, !feature::FLUSH] {
        let file = disk();
        let mut driver = start_with(settings(), &file, features);
        assert_eq!(write(&mut driver, 0, &[9; SECTOR]), OK);
        assert_eq!(request(&mut driver, &[&header(4, 0)], &[]).status, OK);
        let cleared = request(&mut driver, &[&header(11, 0), &range(8, 8, 0)], &[]);
        assert_eq!(cleared.status, OK);
        assert_eq!(contents(&file, 0), [9; SECTOR]);
        assert_eq!(contents(&file, 8), [0; SECTOR]);
    }
}

#[test]
fn the_disk_tells_its_name() {
    let mut driver = start(settings(), &disk());
    let reply = request(&mut driver, &[&header(8, 0)], &[20]);
    assert_eq!(reply.data, b"disk of a test\0\0\0\0\0\0");
    let short = request(&mut driver, &[&header(8, 0)], &[19]);
    assert_eq!(short.status, IOERR);
}

#[test]
fn a_part_is_forgotten_or_cleared() {
    let file = disk();
    let mut driver = start(settings(), &file);
    let forget = request(&mut driver, &[&header(11, 0), &range(8, 16, 0)], &[]);
    assert_eq!(forget.status, OK);
    let clear = request(&mut driver, &[&header(13, 0), &range(40, 1, UNMAP)], &[]);
    assert_eq!(clear.status, OK);
    for (sector, value) in [
        (7, 7),
        (8, 0),
        (23, 0),
        (24, 24),
        (39, 39),
        (40, 0),
        (41, 41),
    ] {
        assert_eq!(contents(&file, sector), [value; SECTOR], "{sector}");
    }
    // A memfd cannot clear without giving the room back.
    let refused = request(&mut driver, &[&header(13, 0), &range(40, 1, 0)], &[]);
    assert_eq!(refused.status, IOERR);
}

#[test]
fn what_is_not_offered_is_not_understood() {
    let file = disk();
    let mut with = settings();
    with.geometry.can_discard = false;
    with.geometry.can_write_zeroes = false;
    let mut driver = start(with, &file);
    for kind in [2, 3, 7, 10, 11, 13, 14, u32::MAX] {
        let reply = request(&mut driver, &[&header(kind, 0), &range(8, 8, 0)], &[]);
        assert_eq!(reply.status, UNSUPP, "{kind}");
    }
    assert_eq!(contents(&file, 8), [8; SECTOR]);
}

#[test]
fn a_disk_that_is_read_only_is_read() {
    let file = disk();
    let mut with = settings();
    with.read_only = true;
    let mut driver = start(with, &file);
    assert_eq!(read(&mut driver, 6, 512).data, [6; SECTOR]);
    assert_eq!(request(&mut driver, &[&header(4, 0)], &[]).status, OK);
}

#[test]
fn the_configuration_space_says_what_the_disk_is() {
    let mut driver = start(settings(), &disk());
    let mut space = [0; 60];
    driver.transport().read(0x100, &mut space);
    let word = |at: usize| u32::from_le_bytes(space[at..at + 4].try_into().expect("4 bytes"));
    assert_eq!(word(0), SECTORS as u32, "capacity");
    assert_eq!((word(8), word(12)), (65536, 254), "size_max, seg_max");
    assert_eq!((word(20), space[24]), (512, 3), "blk_size, physical");
    assert_eq!((word(36), word(40), word(44)), (65536, 1, 1), "discard");
    assert_eq!((word(48), word(52), space[56]), (65536, 1, 1), "zeroes");
}

#[test]
fn a_disk_that_has_become_shorter_fails_where_nothing_is() {
    let file = disk();
    let mut driver = start(settings(), &file);
    file.set_len(10 * SECTOR as u64).expect("shorter");
    let reply = read(&mut driver, 8, 4 * SECTOR as u32);
    assert_eq!((reply.status, reply.data.len()), (IOERR, 0));
    assert_eq!(read(&mut driver, 9, SECTOR as u32).status, OK);
    assert!(!driver.needs_reset());
}
