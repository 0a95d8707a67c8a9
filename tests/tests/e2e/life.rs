//! Signals, time limits and names; and that every end leaves nothing behind.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Bench, at_once, slowness};

const TRAP: &str = "trap 'echo term; exit 7' TERM; trap 'echo int; exit 8' INT; \
                    echo ready; while :; do sleep 0.1; done";

#[test]
fn sigterm_reaches_the_command() {
    let bench = Bench::new();
    let mut running = bench.sh(TRAP).start();
    running.wait_for("ready\n");
    running.signal(Signal::TERM);
    assert_eq!(running.wait().status(7).text(), "ready\nterm\n");
}

#[test]
fn sigint_reaches_the_command() {
    let bench = Bench::new();
    let mut running = bench.sh(TRAP).start();
    running.wait_for("ready\n");
    running.signal(Signal::INT);
    assert_eq!(running.wait().status(8).text(), "ready\nint\n");
}

#[test]
fn a_second_sigint_kills_the_machine() {
    let bench = Bench::new();
    let mut running = bench
        .sh("trap '' INT TERM; echo ready; while :; do sleep 1; done")
        .start();
    running.wait_for("ready\n");
    running.signal(Signal::INT);
    std::thread::sleep(Duration::from_millis(300));
    running.signal(Signal::INT);
    let outcome = running.wait();
    assert_ne!(outcome.code, Some(0), "{outcome:?}");
}

#[test]
fn a_signal_before_the_command_runs_ends_the_pod_all_the_same() {
    let bench = Bench::new();
    for delay in [1, 50, 200] {
        let running = bench.sh("sleep 1000").start();
        std::thread::sleep(Duration::from_millis(delay) * slowness());
        running.signal(Signal::TERM);
        std::thread::sleep(Duration::from_millis(100));
        // It may have ended by now, and then there is nobody to tell.
        running.signal(Signal::TERM);
        assert_ne!(running.wait().code, Some(0));
    }
}

#[test]
fn a_timeout_ends_the_pod() {
    let outcome = Bench::new()
        .sh_with(["--timeout", "2s"], "trap '' TERM; sleep 1000")
        .outcome();
    let outcome = outcome.status(124);
    assert!(outcome.took >= Duration::from_secs(2), "{:?}", outcome.took);
    assert!(outcome.stderr.contains("timeout"), "{}", outcome.stderr);
}

#[test]
fn a_timeout_that_is_not_reached_changes_nothing() {
    Bench::new()
        .sh_with(["--timeout", "10m"], "echo fine")
        .outcome()
        .prints("fine\n");
}

#[test]
fn a_name_in_use_is_refused_and_the_first_pod_lives_on() {
    let bench = Bench::new();
    let script = "echo ready; trap 'echo on; exit 0' TERM; while :; do sleep 0.1; done";
    let mut first = bench.sh_with(["--name", "e2e-name"], script).start();
    first.wait_for("ready\n");
    bench
        .sh_with(["--name", "e2e-name"], "true")
        .outcome()
        .refused(&["--name", "e2e-name"]);
    first.signal(Signal::TERM);
    assert_eq!(first.wait().status(0).text(), "ready\non\n");
    bench
        .sh_with(["--name", "e2e-name"], "echo free again")
        .outcome()
        .prints("free again\n");
}

#[test]
fn pods_run_side_by_side() {
    let bench = Bench::new();
    let run = |name| {
        bench
            .sh_with(["--mem", "256M"], &format!("echo {name}; sleep 1"))
            .start()
    };
    let pods = ["one", "two", "three"].map(|name| (name, run(name)));
    for (name, pod) in pods {
        assert_eq!(pod.wait().status(0).text(), format!("{name}\n"));
    }
}

#[test]
fn a_killed_podvmm_leaves_no_machine_running() {
    let bench = Bench::new();
    let mut running = bench.sh("echo ready; sleep 1000").start();
    running.wait_for("ready\n");
    running.signal(Signal::KILL);
    let outcome = running.wait();
    assert_eq!(outcome.signal, Some(9));
    // A later run finds what the killed one could not clean and takes it away.
    bench.sh("echo next").outcome().prints("next\n");
}

#[test]
fn a_guest_that_powers_off_or_panics_is_said_to_have() {
    let bench = Bench::new();
    // The agent, not the command, is PID 1 of the guest: only a privileged pod could do worse.
    let outcome = bench
        .sh("kill -KILL 1; echo c >/proc/sysrq-trigger; echo lived")
        .outcome();
    assert!(matches!(outcome.code, Some(0 | 125 | 137)), "{outcome:?}");
}

#[test]
fn an_error_leaves_nothing_behind_either() {
    let bench = Bench::new();
    let outcome = bench
        .sh_with(["--volume", "/no-such-dir:/v"], "true")
        .outcome();
    assert!(outcome.refused(&["--volume", "/no-such-dir"]).took < at_once());
}
