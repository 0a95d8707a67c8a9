//! A driver that keeps the rules, and drivers that do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};
use zerocopy::{FromBytes, IntoBytes};

use super::spec::{
    Config, F_UNPLUGGED_INACCESSIBLE, REQ_PLUG, REQ_STATE, REQ_UNPLUG, REQ_UNPLUG_ALL, RESP_ACK,
    RESP_BUSY, RESP_ERROR, RESP_NACK, Request, Response, STATE_MIXED, STATE_PLUGGED,
    STATE_UNPLUGGED,
};
use super::{BLOCK, Mem, MemHandle, MemRegion, MemSize};
use crate::testkit::Driver;

/// Above the driver's rings and buffers; pieces of four blocks.
const START: u64 = 32 << 20;
const PIECE: u64 = 4 * BLOCK;
const SIZE: u64 = 4 * PIECE;

fn region() -> MemRegion {
    MemRegion::new(START, SIZE, PIECE).unwrap()
}

/// A device of which so many pieces are provided and so many bytes wanted.
fn start(pieces: usize, bytes: u64) -> (Driver, MemHandle) {
    let device = Mem::new(region());
    let handle = device.handle();
    handle.provide(0..pieces);
    handle.request(bytes);
    (Driver::start(Box::new(device), !0), handle)
}

/// Sends a request about `blocks` blocks from block `first` on: what was answered.
fn ask(driver: &mut Driver, kind: u16, first: u64, blocks: u16) -> (u16, u16) {
    ask_at(driver, kind, START + first * BLOCK, blocks)
}

fn ask_at(driver: &mut Driver, kind: u16, addr: u64, blocks: u16) -> (u16, u16) {
    let request = Request {
        kind: kind.into(),
        padding: Default::default(),
        addr: addr.into(),
        blocks: blocks.into(),
        padding_after: Default::default(),
    };
    let reply = driver.request(0, &[request.as_bytes()], &[size_of::<Response>() as u32]);
    let response = Response::read_from_bytes(&reply).unwrap();
    (response.kind.get(), response.state.get())
}

fn config(driver: &Driver) -> Config {
    let words: Vec<_> = (0..size_of::<Config>() as u64 / 4)
        .flat_map(|word| driver.read(0x100 + 4 * word).to_le_bytes())
        .collect();
    Config::read_from_bytes(&words).unwrap()
}

fn size(requested: u64, plugged: u64) -> MemSize {
    MemSize { requested, plugged }
}

fn fill(driver: &Driver, block: u64) {
    let bytes = vec![0xa5; BLOCK as usize];
    let at = GuestAddress(START + block * BLOCK);
    driver.memory().write_slice(&bytes, at).unwrap();
}

/// Whether a block has its contents; if not it must read as zeros.
fn is_kept(driver: &Driver, block: u64) -> bool {
    let mut bytes = vec![0; BLOCK as usize];
    let at = GuestAddress(START + block * BLOCK);
    driver.memory().read_slice(&mut bytes, at).unwrap();
    let first = bytes[0];
    assert!(bytes.iter().all(|byte| *byte == first), "half a block");
    first != 0
}

#[test]
fn what_is_wanted_is_plugged_and_given_back() {
    let (mut driver, handle) = start(2, 6 * BLOCK);
    assert_eq!(ask(&mut driver, REQ_PLUG, 0, 6), (RESP_ACK, 0));
    assert_eq!(handle.size(), size(6 * BLOCK, 6 * BLOCK));
    (0..6).for_each(|block| fill(&driver, block));
    assert_eq!(ask(&mut driver, REQ_STATE, 0, 6), (RESP_ACK, STATE_PLUGGED));
    assert_eq!(ask(&mut driver, REQ_STATE, 5, 2), (RESP_ACK, STATE_MIXED));
    assert_eq!(
        ask(&mut driver, REQ_STATE, 6, 2),
        (RESP_ACK, STATE_UNPLUGGED)
    );

    handle.request(0);
    assert_eq!(ask(&mut driver, REQ_UNPLUG, 2, 3), (RESP_ACK, 0));
    let kept: Vec<_> = (0..6).map(|block| is_kept(&driver, block)).collect();
    assert_eq!(kept, [true, true, false, false, false, true]);
    assert_eq!(ask(&mut driver, REQ_UNPLUG_ALL, 0, 0), (RESP_ACK, 0));
    assert!((0..6).all(|block| !is_kept(&driver, block)));
    assert_eq!(handle.size(), size(0, 0));
}

#[test]
fn the_driver_hears_of_each_change_and_reads_what_is_true() {
    let (mut driver, handle) = start(1, 0);
    assert!(driver.interrupted(), "there may be something to read");
    driver.write(0x64, 2);
    let before = driver.read(0xfc);
    handle.provide(0..2);
    handle.request(PIECE + BLOCK + 1);
    assert!(driver.interrupted());
    assert_eq!(driver.read(0x60), 2, "a change of the configuration");
    assert_ne!(driver.read(0xfc), before, "another generation");
    let read = config(&driver);
    assert_eq!((read.block_size.get(), read.addr.get()), (BLOCK, START));
    assert_eq!(read.region_size.get(), SIZE);
    assert_eq!(read.requested_size.get(), PIECE + BLOCK, "whole blocks");
    assert_eq!(read.usable_region_size.get(), 2 * PIECE, "whole pieces");
    assert_eq!(read.plugged_size.get(), 0);
    assert_eq!(ask(&mut driver, REQ_PLUG, 1, 3), (RESP_ACK, 0));
    assert_eq!(config(&driver).plugged_size.get(), 3 * BLOCK);
    handle.request(u64::MAX);
    assert_eq!(config(&driver).requested_size.get(), SIZE, "the region");
}

#[test]
fn what_the_host_wanted_before_there_was_a_driver_is_read() {
    let (driver, _) = start(1, 2 * BLOCK);
    assert_eq!(config(&driver).requested_size.get(), 2 * BLOCK);
}

#[test]
fn case_09_nothing_is_plugged_beyond_what_the_host_wants() {
    let (mut driver, handle) = start(4, 3 * BLOCK);
    assert_eq!(ask(&mut driver, REQ_PLUG, 0, 4), (RESP_NACK, 0));
    assert_eq!(ask(&mut driver, REQ_PLUG, 0, 2), (RESP_ACK, 0));
    assert_eq!(ask(&mut driver, REQ_PLUG, 2, 2), (RESP_NACK, 0));
    assert_eq!(ask(&mut driver, REQ_PLUG, 2, 1), (RESP_ACK, 0));
    assert_eq!(handle.size(), size(3 * BLOCK, 3 * BLOCK));
    // Less is wanted: what is plugged stays, and nothing comes to it.
    handle.request(BLOCK);
    assert_eq!(ask(&mut driver, REQ_UNPLUG, 0, 1), (RESP_ACK, 0));
    assert_eq!(ask(&mut driver, REQ_PLUG, 0, 1), (RESP_NACK, 0));
    assert_eq!(handle.size(), size(BLOCK, 2 * BLOCK));
}

#[test]
fn case_09_nothing_is_plugged_where_the_host_has_no_memory() {
    let (mut driver, handle) = start(1, 2 * PIECE);
    assert_eq!(ask(&mut driver, REQ_PLUG, 3, 2), (RESP_BUSY, 0));
    assert_eq!(ask(&mut driver, REQ_PLUG, 0, 4), (RESP_ACK, 0));
    assert_eq!(ask(&mut driver, REQ_PLUG, 4, 1), (RESP_BUSY, 0));
    handle.provide(1..2);
    assert_eq!(ask(&mut driver, REQ_PLUG, 4, 1), (RESP_ACK, 0));
    assert_eq!(handle.size().plugged, 5 * BLOCK);
}

#[test]
fn case_09_ranges_that_are_none_are_refused() {
    let (mut driver, handle) = start(4, 2 * PIECE);
    for (addr, blocks) in [
        (START, 0),
        (START + 1, 1),
        (START + BLOCK / 2, 1),
        (START - BLOCK, 1),
        (START - BLOCK, 2),
        (0, 1),
        (START + 2 * PIECE, 1),
        (START + 2 * PIECE - BLOCK, 2),
        (START + SIZE, 1),
        (START, u16::MAX),
        (u64::MAX - BLOCK + 1, 1),
        (u64::MAX, u16::MAX),
    ] {
        for kind in [REQ_PLUG, REQ_UNPLUG, REQ_STATE] {
            let answer = ask_at(&mut driver, kind, addr, blocks);
            assert_eq!(answer, (RESP_ERROR, 0), "{kind} {addr:#x} {blocks}");
        }
    }
    for kind in [4, 5, u16::MAX] {
        assert_eq!(ask(&mut driver, kind, 0, 1), (RESP_ERROR, 0));
    }
    assert_eq!(handle.size().plugged, 0);
    assert!(!driver.needs_reset());
}

#[test]
fn case_09_blocks_are_plugged_once_and_unplugged_once() {
    let (mut driver, handle) = start(4, SIZE);
    assert_eq!(ask(&mut driver, REQ_PLUG, 1, 2), (RESP_ACK, 0));
    for (kind, first, blocks) in [
        (REQ_PLUG, 0, 2),
        (REQ_PLUG, 2, 1),
        (REQ_UNPLUG, 0, 2),
        (REQ_UNPLUG, 2, 2),
        (REQ_UNPLUG, 3, 1),
    ] {
        assert_eq!(ask(&mut driver, kind, first, blocks), (RESP_ERROR, 0));
    }
    assert_eq!(handle.size().plugged, 2 * BLOCK);
}

#[test]
fn case_07_requests_of_odd_lengths_stop_the_device() {
    let request = [0; size_of::<Request>()];
    for (readable, room) in [(23, 10), (0, 10), (24, 9), (24, 0)] {
        let (mut driver, handle) = start(1, PIECE);
        driver.post(0, &[&request[..readable]], &[room]);
        let began = Instant::now();
        while !driver.needs_reset() {
            assert!(
                began.elapsed() < Duration::from_secs(10),
                "{readable} {room}"
            );
            std::thread::yield_now();
        }
        assert_eq!(handle.size().plugged, 0);
        driver.bring_up(!0);
        assert_eq!(ask(&mut driver, REQ_PLUG, 0, 1), (RESP_ACK, 0));
    }
}

#[test]
fn a_driver_that_reads_what_is_unplugged_is_not_served() {
    let driver = Driver::start(Box::new(Mem::new(region())), !F_UNPLUGGED_INACCESSIBLE);
    assert!(driver.needs_reset());
}

#[test]
fn pieces_that_are_empty_and_not_wanted_are_withdrawn() {
    let (mut driver, handle) = start(4, SIZE);
    let told = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&told);
    handle.on_surplus(Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    }));
    assert_eq!(ask(&mut driver, REQ_PLUG, 0, 16), (RESP_ACK, 0));
    assert!(handle.withdraw().is_empty(), "all are wanted");
    handle.request(PIECE + BLOCK);
    assert!(handle.withdraw().is_empty(), "all are in use");
    assert_eq!(ask(&mut driver, REQ_UNPLUG, 8, 3), (RESP_ACK, 0));
    assert_eq!(told.load(Ordering::SeqCst), 0, "one block of it is left");
    assert_eq!(ask(&mut driver, REQ_UNPLUG, 11, 1), (RESP_ACK, 0));
    assert_eq!(told.load(Ordering::SeqCst), 1);
    assert_eq!(handle.withdraw(), [2]);
    assert!(handle.withdraw().is_empty(), "it has gone");
    // What the driver may plug again is a block of a piece that is there.
    assert_eq!(ask(&mut driver, REQ_UNPLUG, 12, 2), (RESP_ACK, 0));
    handle.request(SIZE);
    assert_eq!(ask(&mut driver, REQ_PLUG, 8, 1), (RESP_BUSY, 0));
    assert_eq!(ask(&mut driver, REQ_PLUG, 12, 1), (RESP_ACK, 0));
}

#[test]
fn what_a_driver_believes_to_be_usable_stays_so_until_it_unplugs_all() {
    let (mut driver, handle) = start(4, SIZE);
    assert_eq!(ask(&mut driver, REQ_PLUG, 15, 1), (RESP_ACK, 0));
    handle.request(PIECE);
    assert_eq!(config(&driver).usable_region_size.get(), SIZE);
    assert_eq!(ask(&mut driver, REQ_UNPLUG_ALL, 0, 0), (RESP_ACK, 0));
    assert_eq!(config(&driver).usable_region_size.get(), PIECE);
    assert_eq!(handle.withdraw(), [1, 2, 3]);
}

#[test]
fn what_is_plugged_outlives_a_reset() {
    let (mut driver, handle) = start(1, PIECE);
    assert_eq!(ask(&mut driver, REQ_PLUG, 1, 1), (RESP_ACK, 0));
    fill(&driver, 1);
    driver.bring_up(!0);
    assert_eq!(handle.size().plugged, BLOCK);
    assert!(is_kept(&driver, 1));
    assert_eq!(ask(&mut driver, REQ_PLUG, 1, 1), (RESP_ERROR, 0));
}

#[test]
fn a_paused_device_goes_on_where_it_was() {
    let (mut driver, handle) = start(2, 2 * PIECE);
    assert_eq!(ask(&mut driver, REQ_PLUG, 3, 2), (RESP_ACK, 0));
    driver.transport().pause();
    // The host may want something else meanwhile.
    handle.request(PIECE);
    let saved = driver.transport().save();
    let device = Mem::new(region());
    let handle = device.handle();
    handle.provide(0..2);
    handle.request(PIECE);
    driver.replace(Box::new(device), saved.clone());
    assert_eq!(driver.transport().save(), saved);
    driver.transport().resume();
    assert_eq!(ask(&mut driver, REQ_STATE, 3, 2), (RESP_ACK, STATE_PLUGGED));
    assert_eq!(handle.size(), size(PIECE, 2 * BLOCK));
    assert_eq!(config(&driver).requested_size.get(), PIECE);
}

#[test]
fn case_21_a_state_that_does_not_fit_is_refused() {
    let (mut driver, _) = start(2, 2 * PIECE);
    assert_eq!(ask(&mut driver, REQ_PLUG, 4, 1), (RESP_ACK, 0));
    driver.transport().pause();
    let saved = driver.transport().save();
    let elsewhere = MemRegion::new(START, SIZE - PIECE, PIECE).unwrap();
    for (region, pieces, fits) in [
        (region(), 2, true),
        (region(), 1, false),
        (elsewhere, 2, false),
    ] {
        let device = Mem::new(region);
        device.handle().provide(0..pieces);
        driver.replace(Box::new(device), saved.clone());
        driver.transport().resume();
        assert_eq!(!driver.needs_reset(), fits, "{region:?} {pieces}");
    }
}

#[test]
fn case_05_a_reset_while_requests_are_served_waits_for_their_end() {
    let (mut driver, handle) = start(4, SIZE);
    for _ in 0..50 {
        assert_eq!(ask(&mut driver, REQ_UNPLUG_ALL, 0, 0), (RESP_ACK, 0));
        assert_eq!(ask(&mut driver, REQ_PLUG, 0, 16), (RESP_ACK, 0));
        (0..16).for_each(|block| fill(&driver, block));
        let request = Request {
            kind: REQ_UNPLUG_ALL.into(),
            padding: Default::default(),
            addr: 0.into(),
            blocks: 0.into(),
            padding_after: Default::default(),
        };
        driver.post(0, &[request.as_bytes()], &[size_of::<Response>() as u32]);
        driver.bring_up(!0);
        let plugged = handle.size().plugged;
        assert!(plugged == 0 || plugged == SIZE, "all or nothing");
        // Nobody gives anything back any more.
        fill(&driver, 15);
        assert!(is_kept(&driver, 15));
    }
}
