//! Processes of a pod's path are killed: `ps` says what is so, and `rm` leaves nothing.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Bench, slowness};
use crate::pods::{Pod, detached, podvmm_does};

const SLEEPS: &str = "echo up; sleep 1000";

/// The processes of pods, by name.
fn processes(name: &str) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").expect("it is mounted").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let named = pids.filter(|pid| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    });
    named.filter_map(Pid::from_raw).collect()
}

fn kill(name: &str) {
    let found = processes(name);
    assert!(!found.is_empty(), "no process is called {name}");
    for pid in found {
        // It may have gone with one before it.
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn expect_nothing() {
    assert_eq!(podvmm_does(&["ps", "-aq"]).status(0).text(), "");
    let left: Vec<_> = fs::read_dir("/run/podvmm").into_iter().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_killed_monitor_leaves_a_dead_pod_that_is_removed() {
    let _bench = Bench::new();
    let pod = Pod::start("e2e-monitor", &[], SLEEPS);
    pod.wait_for_log("up");
    kill("podvmm-monitor");
    let record = pod.wait_for_status("dead");
    let reason = record["reason"].as_str().unwrap();
    assert!(reason.contains("its monitor (process"), "{reason}");
    assert_eq!(podvmm_does(&["ps", "-q"]).status(0).text(), "");
    let listed = podvmm_does(&["ps", "-a"]).status(0).text();
    assert!(listed.contains("Dead: its monitor"), "{listed}");
    podvmm_does(&["exec", "e2e-monitor", "true"]).failed(125, &["dead", "monitor"]);
    podvmm_does(&["wait", "e2e-monitor"]).failed(125, &["dead", "monitor"]);
    assert_eq!(
        podvmm_does(&["logs", "-f", "e2e-monitor"]).status(0).text(),
        "up\n"
    );
    podvmm_does(&["rm", "e2e-monitor"]).prints("e2e-monitor\n");
    expect_nothing();
}

#[test]
fn a_killed_vmm_and_a_killed_warden_are_told() {
    let _bench = Bench::new();
    for victim in ["podvmm-vmm", "podvmm-warden"] {
        let pod = Pod::start("e2e-vmm", &[], SLEEPS);
        kill(victim);
        let record = pod.wait_for_status("stopped");
        let reason = record["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("died"), "{victim}: {reason}");
        let listed = podvmm_does(&["ps", "-a"]).status(0).text();
        assert!(listed.contains("Failed "), "{listed}");
        podvmm_does(&["rm", "e2e-vmm"]).prints("e2e-vmm\n");
        expect_nothing();
    }
}

#[test]
fn monitor_and_warden_killed_together_leave_nothing_that_rm_does_not_find() {
    let _bench = Bench::new();
    let pod = Pod::start("e2e-both", &[], SLEEPS);
    let victims = [processes("podvmm-warden"), processes("podvmm-monitor")].concat();
    assert_eq!(victims.len(), 2);
    for pid in victims {
        kill_process(pid, Signal::KILL).expect("it runs");
    }
    let record = pod.wait_for_status("dead");
    // Nobody was left to take it away.
    let directory = record["directory"].as_str().unwrap();
    assert!(Path::new(directory).join("vm").exists());
    podvmm_does(&["rm", "e2e-both"]).prints("e2e-both\n");
    expect_nothing();
}

#[test]
fn a_monitor_that_hangs_does_not_keep_its_pod_from_being_removed() {
    let _bench = Bench::new();
    let _pod = Pod::start("e2e-hangs", &[], SLEEPS);
    for pid in processes("podvmm-monitor") {
        kill_process(pid, Signal::STOP).expect("it runs");
    }
    assert_eq!(podvmm_does(&["ps", "-q"]).status(0).text(), "e2e-hangs\n");
    podvmm_does(&["rm", "-f", "e2e-hangs"]).prints("e2e-hangs\n");
    expect_nothing();
}

#[test]
fn a_monitor_that_is_asked_to_end_stops_its_pod() {
    let _bench = Bench::new();
    let script = "trap 'echo asked; exit 6' TERM; echo up; while :; do sleep 0.1; done";
    let pod = Pod::start("e2e-term", &[], script);
    pod.wait_for_log("up");
    for pid in processes("podvmm-monitor") {
        kill_process(pid, Signal::TERM).expect("it runs");
    }
    pod.wait_for_status("stopped");
    podvmm_does(&["wait", "e2e-term"]).prints("6\n");
}

/// Numbers that look random and can be had again.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// `E2E_KILLS` sets how often (200 take an hour in the lab), `E2E_SEED` which moments.
#[test]
fn whatever_is_killed_at_any_moment_ps_and_rm_can_handle_it() {
    let _bench = Bench::new();
    let setting = |name: &str, otherwise| {
        let value = std::env::var(name).ok();
        value.map_or(otherwise, |value| value.parse().expect("it is a number"))
    };
    let (count, seed) = (setting("E2E_KILLS", 4), setting("E2E_SEED", 0x5eed));
    let mut numbers = Numbers(seed.max(1));
    let longest = 800 * u64::from(slowness());
    for round in 0..count {
        let running = detached("e2e-any", &[], SLEEPS).start();
        let delay = Duration::from_millis(numbers.below(longest));
        std::thread::sleep(delay);
        let victims = ["podvmm", "podvmm-monitor", "podvmm-warden", "podvmm-vmm"];
        let victim = victims[numbers.below(4) as usize];
        let found = processes(victim);
        for pid in &found {
            let _ = kill_process(*pid, Signal::KILL);
        }
        let said = format!("round {round}: {victim} ({found:?}) after {delay:?}");
        let outcome = running.wait();
        let listed = podvmm_does(&["ps", "-a", "--json"]).status(0).text();
        let pods: serde_json::Value = serde_json::from_str(&listed).expect("it is JSON");
        for pod in pods.as_array().expect("it is a list") {
            assert_eq!(pod["name"], "e2e-any", "{said}");
            let known = ["creating", "running", "stopped", "dead", "stopping"];
            let status = pod["status"].as_str().expect("each has one");
            assert!(known.contains(&status), "{said}: {pod:#}; {outcome:?}");
        }
        podvmm_does(&["rm", "-f", "e2e-any"]).status(0);
        assert!(!Path::new("/run/podvmm/e2e-any").exists(), "{said}");
        assert_eq!(podvmm_does(&["ps", "-aq"]).status(0).text(), "", "{said}");
    }
}
