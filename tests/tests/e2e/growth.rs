//! Pods that grow and shrink while they run.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Bench, Outcome, Running, slowness};
use crate::jail::end;
use crate::memory::resident_mib;
use crate::pods::podvmm_does;

const POD: &str = "e2e-growth";
/// What the pod starts with, and how large it may become.
const FIRST_MIB: u64 = 256;
const MAX_MIB: u64 = 1024;

/// A pod that fills and frees so many MiB of anonymous memory, piece by piece, when it is sent a signal.
fn grower(bench: &Bench, mib: u64) -> Running {
    let script = format!(
        "trap 'dd if=/dev/zero of=/dev/null bs={mib}M count=1 2>/dev/null && echo filled || echo failed' USR1; \
         echo ready; while :; do sleep 0.1; done"
    );
    let (first, max) = (format!("{FIRST_MIB}M"), format!("{MAX_MIB}M"));
    let options = [
        "--name",
        POD,
        "--mem",
        &first,
        "--max-mem",
        &max,
        "--max-cpus",
        "3",
    ];
    let mut pod = bench.sh_with(options, &script).within(120).start();
    pod.wait_for("ready\n");
    pod
}

fn update(options: &[&str]) -> Outcome {
    podvmm_does(&[&["update"], options, &[POD]].concat())
}

/// CPUs, and MiB of memory, as a command in the container sees them.
fn seen() -> (u64, u64) {
    let script = "nproc; grep MemTotal: /proc/meminfo";
    let text = podvmm_does(&["exec", POD, "--", "sh", "-c", script])
        .status(0)
        .text();
    let numbers: Vec<u64> = text
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    match numbers[..] {
        [cpus, kib] => (cpus, kib >> 10),
        _ => panic!("{text}"),
    }
}

fn size() -> serde_json::Value {
    let text = podvmm_does(&["inspect", POD]).status(0).text();
    let pods: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    pods[0]["size"].clone()
}

#[test]
fn a_pod_grows_and_what_it_gets_can_be_used() {
    let bench = Bench::new();
    let pod = {
        // Nine tenths of what it will have.
        let mut pod = grower(&bench, 690);
        let (cpus, before) = seen();
        assert_eq!(cpus, 1);
        assert!(before < FIRST_MIB);
        update(&["--cpus", "3", "--mem", "768M"]).prints(&format!("{POD}\n"));
        assert_eq!(seen(), (3, before + 512));
        let size = size();
        assert_eq!(size["vcpus"], 3);
        assert_eq!(size["memory"], 768u64 << 20);
        assert_eq!(size["maxMemory"], MAX_MIB << 20);
        pod.signal(Signal::USR1);
        pod.wait_for("filled\n");
        pod
    };
    // All of them work.
    let busy = "for i in 1 2 3; do (x=0; while [ $x -lt 2000 ]; do x=$((x+1)); done) & done; wait; \
                grep -c ^processor /proc/cpuinfo";
    podvmm_does(&["exec", POD, "--", "sh", "-c", busy]).prints("3\n");
    end(pod);
}

#[test]
fn a_pod_that_shrinks_gives_memory_back_to_the_host() {
    let bench = Bench::new();
    let mut pod = grower(&bench, 500);
    let (_, before) = seen();
    let resident = resident_mib(&pod);
    update(&["--cpus", "2", "--mem", "768M"]).prints(&format!("{POD}\n"));
    pod.signal(Signal::USR1);
    pod.wait_for("filled\n");
    update(&["--cpus", "1", "--mem", "256M"]).prints(&format!("{POD}\n"));
    // What a guest cannot free at once it frees later.
    let until = Instant::now() + Duration::from_secs(60) * slowness();
    while seen() != (1, before) {
        assert!(Instant::now() < until, "{:?}, {}", seen(), size());
        thread::sleep(Duration::from_millis(500));
    }
    // What is left of it is in the memory that the pod has started with, and reported as free soon.
    let after = resident_mib(&pod);
    assert!(after <= resident + 150, "{resident}, then {after} MiB");
    // A part of what Linux takes into use at once.
    update(&["--mem", "300M"]).prints(&format!("{POD}\n"));
    assert_eq!(seen(), (1, before + 44));
    end(pod);
}

#[test]
fn memory_that_is_in_use_stays() {
    let bench = Bench::new();
    let script = "echo ready; sleep 1000";
    let options = ["--name", POD, "--mem", "256M", "--max-mem", "512M"];
    let mut pod = bench.sh_with(options, script).within(120).start();
    pod.wait_for("ready\n");
    update(&["--mem", "512M"]).prints(&format!("{POD}\n"));
    // It has read all of it, and cannot write it.
    let holder =
        "dd if=/dev/zero bs=330M count=1 2>/dev/null | (read -n 1 x; echo holds; sleep 1000)";
    let mut holds = crate::pods::verb(&["exec", POD, "--", "sh", "-c", holder])
        .within(120)
        .start();
    holds.wait_for("holds\n");
    let shrunk = update(&["--mem", "256M"]).status(0);
    assert!(shrunk.stderr.contains("it keeps"), "{}", shrunk.stderr);
    // The one that uses it lives.
    assert!(size()["memory"].as_u64() > Some(300 << 20), "{}", size());
    podvmm_does(&["exec", POD, "--", "pidof", "dd"]).status(0);
    end(pod);
    holds.wait();
}

#[test]
fn a_pod_grows_to_a_maximum_that_is_no_whole_number_of_pieces() {
    let bench = Bench::new();
    let options = ["--name", POD, "--mem", "256M", "--max-mem", "301M"];
    let mut pod = bench
        .sh_with(options, "echo ready; sleep 1000")
        .within(120)
        .start();
    pod.wait_for("ready\n");
    let (_, before) = seen();
    for (option, value) in [("--mem", "301M"), ("--cpus", "1")] {
        update(&[option, value]).prints(&format!("{POD}\n"));
        // Whole blocks of 2 MiB.
        assert_eq!(seen(), (1, before + 46));
        assert_eq!(size()["maxMemory"], 302u64 << 20);
    }
    end(pod);
}

#[test]
fn a_pod_becomes_no_larger_than_it_may_and_no_smaller_than_it_was() {
    let bench = Bench::new();
    let pod = grower(&bench, 1);
    let before = seen();
    update(&["--cpus", "4"]).refused(&["--cpus 4", "at most 3", "--max-cpus"]);
    update(&["--mem", "1025M"]).refused(&["--mem 1025M", "at most 1024M", "--max-mem"]);
    update(&["--mem", "128M"]).refused(&["--mem 128M", "256M"]);
    update(&[]).refused(&["--cpus", "--mem"]);
    update(&["--cpus", "0"]).refused(&["--cpus", "0 vCPUs"]);
    assert_eq!(seen(), before);
    end(pod);
    let mut pod = bench
        .sh_with(["--name", POD], "echo ready; sleep 1000")
        .start();
    pod.wait_for("ready\n");
    update(&["--cpus", "2"]).refused(&["--cpus 2", "at most 1"]);
    end(pod);
    bench
        .sh_with(["--cpus", "2", "--max-cpus", "1"], "true")
        .outcome()
        .refused(&["--max-cpus 1", "--cpus 2"]);
    bench
        .sh_with(["--mem", "256M", "--max-mem", "128M"], "true")
        .outcome()
        .refused(&["--max-mem", "--mem"]);
}
