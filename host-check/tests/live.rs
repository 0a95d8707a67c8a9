//! Host checks on this machine, whatever it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of this is a test

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use podvmm_host_check::{Live, Options, Recorded, Recorder, Status, check};

/// What the fast subset and the whole may take: the promise (15 ms, 1 s), and room for a machine
/// that runs other tests at the same time and for a build without optimisation.
const FAST: Duration = Duration::from_millis(150);
const WHOLE: Duration = Duration::from_secs(5);

fn fast() -> Options {
    Options {
        fast: true,
        ..Options::default()
    }
}

/// One test at a time: they measure times and count descriptors.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn it_is_checked_in_time() {
    let _alone = alone();
    let live = Live::new();
    let time = |options: Options| {
        let began = Instant::now();
        let report = check(&live, options);
        let took = began.elapsed();
        assert!(!report.checks.is_empty());
        took
    };
    let quickest = (0..5).map(|_| time(fast())).min().unwrap();
    let whole = time(Options::default());
    println!("fast subset: {quickest:?}, whole: {whole:?}");
    assert!(quickest < FAST, "the fast subset took {quickest:?}");
    assert!(whole < WHOLE, "the whole took {whole:?}");
}

/// A recording leads to the findings of the machine that was recorded.
#[test]
fn a_recording_is_as_good_as_the_machine() {
    let _alone = alone();
    let dir = std::env::temp_dir().join(format!("host-check-{}", std::process::id()));
    let live = Live::new();
    let recorder = Recorder::new(&live);
    let of_machine = check(&recorder, Options::default());
    recorder.write(&dir).unwrap();
    assert!(recorder.write(&dir).is_err(), "what is there stays");
    let of_recording = check(&Recorded::load(&dir).unwrap(), Options::default());
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(of_recording.to_json(), of_machine.to_json());
}

/// What is asked of the machine leaves no trace in this process: no descriptor stays open, and it is
/// in the namespaces where it was.
#[test]
fn nothing_is_left_behind() {
    let _alone = alone();
    let names = ["user", "net", "mnt"];
    let seen = || {
        let namespaces = names.map(|name| fs::read_link(format!("/proc/self/ns/{name}")).unwrap());
        (namespaces, fs::read_dir("/proc/self/fd").unwrap().count())
    };
    let before = seen();
    let report = check(&Live::new(), Options::default());
    assert_eq!(seen(), before);
    for finding in report.with_status(Status::Skip) {
        assert!(finding.observed.is_empty(), "{} saw something", finding.id);
    }
}
