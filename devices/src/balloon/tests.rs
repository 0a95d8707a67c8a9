//! Reports of every kind, and what is left of the memory afterwards.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::{Balloon, MAX_RANGES, PAGE_REPORTING, REPORTING};
use crate::testkit::{Driver, MEMORY_SIZE};

const QUEUE: u16 = REPORTING as u16;
/// Above the driver's rings and buffers.
const AT: u64 = 48 << 20;
const PAGE: u64 = 4096;

fn driver() -> Driver {
    Driver::start(Box::new(Balloon), !0)
}

/// Fills so many bytes of guest memory.
fn fill(driver: &Driver, at: u64, len: u64) {
    let bytes = vec![0xa5; len as usize];
    driver
        .memory()
        .write_slice(&bytes, GuestAddress(at))
        .unwrap();
}

/// Which of the pages from there on still have their contents; the others must read as zeros.
fn kept(driver: &Driver, at: u64, pages: u64) -> Vec<bool> {
    let page = |number| {
        let mut bytes = [0; PAGE as usize];
        let at = GuestAddress(at + PAGE * number);
        driver.memory().read_slice(&mut bytes, at).unwrap();
        let first = bytes[0];
        assert!(bytes.iter().all(|byte| *byte == first), "half a page");
        first != 0
    };
    (0..pages).map(page).collect()
}

/// A page may go while it is read: this tells one from the other by a byte.
fn first_byte(driver: &Driver, at: u64) -> u8 {
    driver.memory().read_obj(GuestAddress(at)).unwrap()
}

/// Reports ranges in one chain and waits until they are served.
fn report(driver: &mut Driver, ranges: &[(u64, u32)]) {
    let buffers: Vec<_> = ranges.iter().map(|(at, len)| (*at, *len, true)).collect();
    let head = driver.ring(QUEUE).add(&buffers).unwrap();
    driver.kick(QUEUE);
    assert_eq!(served(driver), (head, 0));
}

fn served(driver: &mut Driver) -> (u16, u32) {
    let start = Instant::now();
    loop {
        if let Some(used) = driver.ring(QUEUE).take_used() {
            return used;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "no answer");
        std::thread::yield_now();
    }
}

fn wait_until_it_needs_a_reset(driver: &Driver) {
    let start = Instant::now();
    while !driver.needs_reset() {
        assert!(start.elapsed() < Duration::from_secs(10), "no fault");
        std::thread::yield_now();
    }
}

/// What the system has in memory of guest memory. The mapping as a whole may be one with that of a test
/// beside this one, so its pages are counted.
fn resident_kib(driver: &Driver) -> u64 {
    /// Bytes of a page's entry in pagemap, and whether it is present.
    const ENTRY: u64 = 8;
    const PRESENT: u64 = 1 << 63;
    let host = driver.memory().get_host_address(GuestAddress(0)).unwrap() as u64;
    let mut entries = vec![0; MEMORY_SIZE / PAGE as usize * ENTRY as usize];
    let pagemap = fs::File::open("/proc/self/pagemap").unwrap();
    pagemap
        .read_exact_at(&mut entries, host / PAGE * ENTRY)
        .unwrap();
    let entries = entries.chunks_exact(ENTRY as usize);
    let present = entries.filter(|entry| {
        let entry = u64::from_ne_bytes((*entry).try_into().unwrap());
        entry & PRESENT != 0
    });
    (present.count() as u64 * PAGE) >> 10
}

#[test]
fn reported_memory_goes_back_to_the_host_and_can_be_used_again() {
    let mut driver = driver();
    fill(&driver, AT, 8 << 20);
    let full = resident_kib(&driver);
    report(&mut driver, &[(AT, 4 << 20), (AT + (4 << 20), 2 << 20)]);
    assert!(full - resident_kib(&driver) >= 6 << 10);
    let half = (6 << 20) / PAGE;
    assert!(kept(&driver, AT, half).iter().all(|kept| !kept));
    assert!(
        kept(&driver, AT + half * PAGE, (2 << 20) / PAGE)
            .iter()
            .all(|kept| *kept)
    );
    fill(&driver, AT, PAGE);
    assert_eq!(kept(&driver, AT, 2), [true, false]);
    assert!(driver.interrupted());
}

#[test]
fn case_09_only_whole_pages_of_a_range_are_given_back() {
    let mut driver = driver();
    for (from, len, left) in [
        (1, 3 * PAGE, [true, false, false, true, true]),
        (0, 2 * PAGE + 1, [false, false, true, true, true]),
        (PAGE - 1, PAGE + 1, [true, false, true, true, true]),
        (1, 2 * PAGE - 2, [true; 5]),
        (PAGE, 1, [true; 5]),
    ] {
        fill(&driver, AT, 5 * PAGE);
        report(&mut driver, &[(AT + from, len as u32)]);
        assert_eq!(kept(&driver, AT, 5), left, "{len} bytes from {from}");
    }
}

#[test]
fn case_09_a_range_outside_memory_gives_nothing_back() {
    let mut driver = driver();
    let end = MEMORY_SIZE as u64;
    fill(&driver, end - 2 * PAGE, 2 * PAGE);
    for (at, len) in [
        (end - PAGE, 2 * PAGE),
        (end, PAGE),
        (u64::MAX - PAGE, 2 * PAGE),
    ] {
        // A range that is as it should be comes first: a chain is served whole or not at all.
        let buffers = [(end - 2 * PAGE, PAGE as u32, true), (at, len as u32, true)];
        driver.ring(QUEUE).add(&buffers).unwrap();
        driver.kick(QUEUE);
        wait_until_it_needs_a_reset(&driver);
        assert_eq!(kept(&driver, end - 2 * PAGE, 2), [true, true]);
        driver.bring_up(!0);
    }
}

#[test]
fn case_09_readable_buffers_are_no_report() {
    let mut driver = driver();
    fill(&driver, AT, 2 * PAGE);
    let buffers = [(AT, PAGE as u32, false), (AT + PAGE, PAGE as u32, true)];
    driver.ring(QUEUE).add(&buffers).unwrap();
    driver.kick(QUEUE);
    served(&mut driver);
    assert_eq!(kept(&driver, AT, 2), [true, false]);
}

#[test]
fn case_09_a_driver_that_reports_its_own_rings_hurts_itself() {
    let mut driver = driver();
    for ring in 0..=QUEUE {
        let at = driver.ring(ring).desc();
        driver.ring(QUEUE).add(&[(at, 64 << 10, true)]).unwrap();
        driver.kick(QUEUE);
    }
    driver.bring_up(!0);
    fill(&driver, AT, PAGE);
    report(&mut driver, &[(AT, PAGE as u32)]);
    assert_eq!(kept(&driver, AT, 1), [false]);
}

#[test]
fn case_09_reports_are_served_at_a_bounded_rate() {
    const RANGES: u64 = 32;
    let mut driver = driver();
    let burst = MAX_RANGES.get() / 10;
    let start = Instant::now();
    let mut reported = 0;
    while reported < 3 * burst {
        report(&mut driver, &[(AT, PAGE as u32); RANGES as usize]);
        reported += RANGES;
    }
    // A burst is free, and so is the chain that overdraws it; two tenths of a second's worth are not.
    assert!(
        start.elapsed() >= Duration::from_millis(190),
        "{:?}",
        start.elapsed()
    );
    // The end does not wait for the rate.
    let start = Instant::now();
    driver.bring_up(!0);
    assert!(
        start.elapsed() < Duration::from_millis(90),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn case_09_nothing_is_asked_for_and_nothing_is_taken() {
    let mut driver = driver();
    for register in [0x100, 0x104] {
        driver.write(register, u32::MAX);
        assert_eq!(driver.read(register), 0);
    }
    fill(&driver, AT, PAGE);
    let page = ((AT / PAGE) as u32).to_le_bytes();
    for queue in [0, 1] {
        driver.post(queue, &[&page], &[]);
    }
    report(&mut driver, &[(AT + PAGE, PAGE as u32)]);
    assert_eq!(driver.poll(0), None);
    assert_eq!(driver.poll(1), None);
    assert_eq!(kept(&driver, AT, 1), [true]);
    assert!(!driver.needs_reset());
}

#[test]
fn a_driver_that_reports_nothing_is_served_nothing() {
    let mut driver = Driver::start(Box::new(Balloon), !PAGE_REPORTING);
    fill(&driver, AT, PAGE);
    driver.ring(QUEUE).add(&[(AT, PAGE as u32, true)]).unwrap();
    driver.kick(QUEUE);
    driver.transport().pause();
    assert_eq!(kept(&driver, AT, 1), [true]);
    driver.transport().resume();
    assert!(!driver.needs_reset());
}

#[test]
fn a_paused_device_goes_on_where_it_was() {
    let mut driver = driver();
    report(&mut driver, &[(AT, PAGE as u32)]);
    driver.transport().pause();
    fill(&driver, AT, PAGE);
    let head = driver.ring(QUEUE).add(&[(AT, PAGE as u32, true)]).unwrap();
    let saved = driver.transport().save();
    driver.replace(Box::new(Balloon), saved.clone());
    assert_eq!(driver.transport().save(), saved);
    assert_eq!(kept(&driver, AT, 1), [true]);
    driver.transport().resume();
    assert_eq!(served(&mut driver), (head, 0));
    assert_eq!(kept(&driver, AT, 1), [false]);
}

#[test]
fn case_05_a_reset_while_a_report_is_served_waits_for_its_end() {
    const LEN: u64 = 15 << 20;
    let mut driver = driver();
    let last = AT + LEN - PAGE;
    for _ in 0..20 {
        fill(&driver, AT, LEN);
        let mut ranges = vec![(AT, PAGE as u32, true)];
        ranges.extend((0..15).map(|mib| (AT + (mib << 20), 1 << 20, true)));
        driver.ring(QUEUE).add(&ranges).unwrap();
        driver.kick(QUEUE);
        // The device is at it.
        let start = Instant::now();
        while first_byte(&driver, AT) != 0 {
            assert!(start.elapsed() < Duration::from_secs(10), "no answer");
        }
        driver.bring_up(!0);
        assert_eq!(driver.ring(QUEUE).take_used(), None, "an old answer");
        fill(&driver, last, PAGE);
        report(&mut driver, &[(AT, PAGE as u32); 32]);
        assert_eq!(kept(&driver, last, 1), [true], "it is in use again");
    }
}
