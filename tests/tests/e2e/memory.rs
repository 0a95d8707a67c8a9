//! What a guest's memory costs the host.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Bench, Running, slowness};
use crate::jail::{Process, end};

/// What the container's file in memory holds.
const FILE_MIB: u64 = 300;

/// MiB of the host's memory that the pod's VMM has, guest memory and all.
pub fn resident_mib(pod: &Running) -> u64 {
    let rollup = Process::vmm_of(pod).read("smaps_rollup");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_else(|| panic!("no Rss: {rollup}")) >> 10
}

#[test]
fn memory_that_a_container_has_freed_goes_back_to_the_host() {
    let bench = Bench::new();
    // What a container writes to its root is in the guest's memory. The first signal is the shell's.
    let script = format!(
        "trap 'rm -f /file; echo free' TERM; echo ready; \
         dd if=/dev/zero of=/file bs=1M count={FILE_MIB} 2>/dev/null; echo full; \
         while :; do sleep 0.1; done"
    );
    let mut pod = bench.sh_with(["--mem", "1G"], &script).within(60).start();
    pod.wait_for("ready\n");
    let before = resident_mib(&pod);
    pod.wait_for("full\n");
    let full = resident_mib(&pod);
    assert!(
        full >= before + FILE_MIB * 9 / 10,
        "{before}, then {full} MiB"
    );

    pod.signal(Signal::TERM);
    pod.wait_for("free\n");
    // The guest's kernel reports what is free every two seconds, a part of it each time.
    let until = Instant::now() + Duration::from_secs(20) * slowness();
    loop {
        let now = resident_mib(&pod);
        if now <= before + FILE_MIB / 10 {
            break;
        }
        assert!(Instant::now() < until, "{before}, {full}, then {now} MiB");
        thread::sleep(Duration::from_millis(500));
    }

    end(pod);
}
