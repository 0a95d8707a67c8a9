//! Attack cases 1 to 4: registers and rings written with anything, in any order.
//!
//! The device is the entropy device: whatever its one queue says shows up as random bytes or not at
//! all.

mod life;
mod registers;
mod rings;

use super::{MmioTransport, SavedTransport};
use crate::Memory;
use crate::rng::Rng;
use crate::testkit::{self, Driver, MEMORY_SIZE, Ring};

const STATUS: u64 = 0x70;
const NEEDS_RESET: u32 = 0x40;
/// Memory that no ring uses.
const AT: u64 = 0x200_0000;

fn driver() -> Driver {
    Driver::start(Box::new(Rng), !0)
}

fn idle() -> Driver {
    Driver::idle(Box::new(Rng))
}

/// The device serves a request: 16 bytes that are not all zero.
fn assert_works(driver: &mut Driver) {
    let reply = driver.request(0, &[], &[16]);
    assert_eq!(reply.len(), 16);
    assert_ne!(reply, [0; 16]);
    assert!(!driver.needs_reset());
}

/// The device stops itself, and works again after a reset.
fn assert_stops(mut driver: Driver) {
    let start = std::time::Instant::now();
    while !(driver.needs_reset() && driver.interrupted()) {
        assert!(start.elapsed().as_secs() < 10, "stopped and told so");
        std::thread::yield_now();
    }
    driver.bring_up(!0);
    assert_works(&mut driver);
}

/// Brings the device up with one queue at the given addresses.
fn start_with_queue(num: u32, desc: u64, avail: u64, used: u64) -> Driver {
    let mut driver = idle();
    driver.write(STATUS, 1);
    driver.write(STATUS, 3);
    driver.write(0x24, 1);
    driver.write(0x20, 1);
    driver.write(STATUS, 11);
    driver.write(0x38, num);
    for (register, address) in [(0x80, desc), (0x90, avail), (0xa0, used)] {
        driver.write(register, address as u32);
        driver.write(register + 4, (address >> 32) as u32);
    }
    driver.write(0x44, 1);
    driver.write(STATUS, 15);
    driver
}
