//! Rate limits of a disk. How exactly they count is tested beside the buckets.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use super::*;
use crate::rate::Rate;

fn rate(per_second: u64, burst: u64) -> Option<Rate> {
    Some(Rate {
        per_second: NonZeroU64::new(per_second).expect("a rate"),
        burst: NonZeroU64::new(burst).expect("a burst"),
    })
}

#[test]
fn bytes_count_in_both_directions_and_when_they_are_cleared() {
    let file = disk();
    let mut with = settings();
    with.limit.bytes = rate(100_000, 1);
    let mut driver = start(with, &file);
    let data = [7; 20 * SECTOR];
    type Act<'a> = &'a dyn Fn(&mut Driver);
    let what: [(&str, Act<'_>); 3] = [
        ("read", &|driver| {
            assert_eq!(read(driver, 0, data.len() as u32).status, OK);
        }),
        ("written", &|driver| assert_eq!(write(driver, 0, &data), OK)),
        ("cleared", &|driver| {
            let asked = [&header(13, 0)[..], &range(0, 20, 1)];
            assert_eq!(request(driver, &asked, &[]).status, OK);
        }),
    ];
    for (name, act) in what {
        // It is booked after this, however late this thread hears of it.
        let start = Instant::now();
        act(&mut driver);
        assert_eq!(request(&mut driver, &[&header(4, 0)], &[]).status, OK);
        assert!(start.elapsed() >= Duration::from_millis(90), "{name}");
    }
}

#[test]
fn a_reset_does_not_wait_for_a_limit_and_does_not_lift_it() {
    let file = disk();
    let mut with = settings();
    with.limit.bytes = rate(10, 10);
    let mut driver = start(with, &file);
    // A quarter of an hour's worth.
    assert_eq!(read(&mut driver, 0, 18 * SECTOR as u32).status, OK);
    driver.post(0, &[&header(0, 0)], &[512, 1]);
    let start = Instant::now();
    driver.bring_up(!0);
    assert!(start.elapsed() < Duration::from_secs(60));
    driver.post(0, &[&header(0, 0)], &[512, 1]);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(driver.poll(0), None, "it is still to be paid for");
}
