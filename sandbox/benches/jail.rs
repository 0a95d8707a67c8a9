//! What the jail costs: `cargo bench -p podvmm-sandbox --features jail-payload --bench jail`.
//!
//! The time from starting the warden until the process inside reports that it is there and has done
//! nothing, with and without jail and filters in turn, so that other load meets all alike. Then the
//! memory of the processes (proportional set size) and of the kernel while many of them wait.

#![allow(clippy::unwrap_used, reason = "a benchmark reports by panicking")]

#[allow(dead_code, reason = "the test uses more of it")]
#[path = "../tests/jail/payload.rs"]
mod payload;

use std::fs;
use std::time::{Duration, Instant};

use payload::{Bed, Running, Try};

const ROUNDS: usize = 300;
const WAITING: usize = 64;
/// For the kernel to give back what has ended, which it does at leisure.
const CALM: Duration = Duration::from_secs(2);

fn variants(attempt: &str) -> [(&'static str, Try); 3] {
    [
        ("no jail, no filters", Try::new(attempt).without_jail()),
        ("jail, no filters", Try::new(attempt)),
        ("jail and filters", Try::new(attempt).filtered_as("main")),
    ]
}

fn main() {
    let bed = Bed::new();
    let variants_of_nothing = variants("nothing");
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for ((name, what), times) in variants_of_nothing.iter().zip(&mut times) {
            let began = Instant::now();
            let outcome = bed.attempt(what);
            assert!(outcome.worked(), "{name}: {outcome:?}");
            times.push(began.elapsed());
        }
    }
    println!("start to end                   least      median");
    for ((name, _), times) in variants_of_nothing.iter().zip(&mut times) {
        times.sort();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let (least, median) = (ms(times[0]), ms(times[times.len() / 2]));
        println!("  {name:24} {least:7.2} ms {median:8.2} ms");
    }
    println!("memory of one              processes      kernel");
    for (name, what) in variants("wait") {
        let before = kernel_memory();
        let running: Vec<_> = (0..WAITING).map(|_| bed.start(&what)).collect();
        std::thread::sleep(CALM);
        let kernel = kernel_memory().saturating_sub(before) / WAITING;
        let processes = running.iter().map(memory).sum::<usize>() / WAITING;
        println!("  {name:24} {processes:6} KiB {kernel:7} KiB");
        for one in running {
            // The end of the socket ends the wait.
            rustix::net::shutdown(&one.control, rustix::net::Shutdown::Write).unwrap();
            let outcome = one.wait();
            assert!(outcome.worked(), "{name}: {outcome:?}");
        }
        std::thread::sleep(CALM);
    }
}

/// Proportional set size of the warden and its child, in KiB.
fn memory(running: &Running) -> usize {
    let warden = running.child.id();
    let children = format!("/proc/{warden}/task/{warden}/children");
    let child = fs::read_to_string(children).unwrap();
    let size = |pid: &str| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
        kib(&rollup.unwrap_or_default(), "Pss:")
    };
    size(&warden.to_string()) + size(child.trim())
}

/// What the kernel uses for itself, in KiB.
fn kernel_memory() -> usize {
    let info = fs::read_to_string("/proc/meminfo").unwrap();
    [
        "SUnreclaim:",
        "KernelStack:",
        "PageTables:",
        "Percpu:",
        "VmallocUsed:",
    ]
    .iter()
    .map(|field| kib(&info, field))
    .sum()
}

fn kib(text: &str, field: &str) -> usize {
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok())
        .unwrap_or(0)
}
