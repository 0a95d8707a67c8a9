//! Processes of a pod's path are killed: `ps` says what is so, and `rm` leaves nothing.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Bench, slowness};
use crate::pods::{Pod, detached, podvmm_does, verb};

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
    /// Neighbouring seeds have nothing in common (splitmix64).
    fn new(seed: u64) -> Self {
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((mixed ^ (mixed >> 31)).max(1))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Pods that start, live and die at the same time.
const AT_A_TIME: u64 = 4;

/// Name and parent of a process.
fn process(pid: i32) -> Option<(String, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (before, after) = stat.rsplit_once(") ")?;
    let parent = after.split(' ').nth(1)?.parse().ok()?;
    Some((before.split_once('(')?.1.to_owned(), parent))
}

/// A process and all that it has started.
fn tree(root: i32) -> Vec<(i32, String)> {
    let entries = fs::read_dir("/proc").expect("it is mounted").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let all: Vec<_> = pids
        .filter_map(|pid| process(pid).map(|(name, parent)| (pid, name, parent)))
        .collect();
    let mut found = vec![root];
    let mut tree = Vec::new();
    while let Some(pid) = found.pop() {
        for (child, name, parent) in &all {
            if *child == pid {
                tree.push((pid, name.clone()));
            } else if *parent == pid {
                found.push(*child);
            }
        }
    }
    tree
}

/// The monitor, as the pod's record has it.
fn monitor_of(name: &str) -> Option<i32> {
    let record = fs::read(format!("/run/podvmm/{name}/state.json")).ok()?;
    let record: serde_json::Value = serde_json::from_slice(&record).ok()?;
    i32::try_from(record["monitor"]["pid"].as_i64()?).ok()
}

/// Starts a pod, kills one of the processes on its path at some moment, and tells which.
fn kill_one(name: &str, numbers: &mut Numbers) -> String {
    let longest = 1500 * u64::from(slowness());
    let client = detached(name, &[], SLEEPS).start();
    let delay = Duration::from_millis(numbers.below(longest));
    std::thread::sleep(delay);
    let mut victims = tree(i32::try_from(client.pid()).expect("it is a pid"));
    victims.extend(monitor_of(name).map(tree).unwrap_or_default());
    victims.retain(|(_, name)| name.starts_with("podvmm"));
    victims.sort();
    victims.dedup();
    let verbs: [&[&str]; 4] = [
        &["exec", name, "sleep", "1"],
        &["stop", "-t", "1", name],
        &["rm", "-f", name],
        &["ps", "-a"],
    ];
    let choice = numbers.below(victims.len() as u64 + verbs.len() as u64) as usize;
    let (victim, when) = match victims.get(choice) {
        Some((pid, name)) => {
            if let Some(pid) = Pid::from_raw(*pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
            (name.clone(), delay)
        }
        // What asks the pod's monitor for something dies, and the pod does not.
        None => {
            let words = verbs[choice - victims.len()];
            let running = verb(words).start();
            let later = Duration::from_millis(numbers.below(50 * u64::from(slowness())));
            std::thread::sleep(later);
            if let Some(pid) = Pid::from_raw(running.pid() as i32) {
                let _ = kill_process(pid, Signal::KILL);
            }
            let _ = running.wait();
            (words.join(" "), delay + later)
        }
    };
    let outcome = client.wait();
    // The end of the pod is the reason, never that a connection to it broke.
    for word in ["connection to the guest", "Broken pipe", "agent refused"] {
        assert!(
            !outcome.stderr.contains(word),
            "{victim}: {}",
            outcome.stderr
        );
    }
    format!("{name}: {victim} after {when:?}: {outcome:?}")
}

/// `E2E_KILLS` sets how often, `E2E_SEED` which moments. What failed is had again with the seed that is
/// told and as many kills as there are pods at a time.
#[test]
fn whatever_is_killed_at_any_moment_ps_and_rm_can_handle_it() {
    let _bench = Bench::new();
    let setting = |name: &str, otherwise| {
        let value = std::env::var(name).ok();
        value.map_or(otherwise, |value| value.parse().expect("it is a number"))
    };
    let (count, seed) = (setting("E2E_KILLS", AT_A_TIME), setting("E2E_SEED", 0x5eed));
    for round in 0..count.div_ceil(AT_A_TIME) {
        let seed = seed.wrapping_add(round);
        println!("E2E_SEED={seed} E2E_KILLS={AT_A_TIME}");
        let names: Vec<_> = (0..AT_A_TIME)
            .map(|slot| format!("e2e-any-{slot}"))
            .collect();
        let killed: Vec<_> = std::thread::scope(|scope| {
            let kill = |(slot, name): (u64, &String)| {
                let name = name.clone();
                let mut numbers = Numbers::new(seed.wrapping_mul(AT_A_TIME).wrapping_add(slot));
                scope.spawn(move || kill_one(&name, &mut numbers))
            };
            let all: Vec<_> = (0..).zip(&names).map(kill).collect();
            let said = |thread: std::thread::ScopedJoinHandle<'_, String>| {
                thread.join().unwrap_or_else(|_| panic!("seed {seed}"))
            };
            all.into_iter().map(said).collect()
        });
        let said = format!("seed {seed}: {}", killed.join("; "));
        let listed = podvmm_does(&["ps", "-a", "--json"]).status(0).text();
        let pods: serde_json::Value = serde_json::from_str(&listed).expect("it is JSON");
        for pod in pods.as_array().expect("it is a list") {
            let known = ["creating", "running", "stopped", "dead", "stopping"];
            let status = pod["status"].as_str().expect("each has one");
            assert!(known.contains(&status), "{said}: {pod:#}");
            let has_reason = pod["reason"]
                .as_str()
                .is_some_and(|reason| !reason.is_empty());
            assert!(status != "dead" || has_reason, "{said}: {pod:#}");
        }
        for name in &names {
            let removed = podvmm_does(&["rm", "-f", name]);
            assert_eq!(removed.code, Some(0), "{said}: {removed:?}");
        }
        assert_eq!(podvmm_does(&["ps", "-aq"]).status(0).text(), "", "{said}");
        let left: Vec<_> = fs::read_dir("/run/podvmm").into_iter().flatten().collect();
        assert!(left.is_empty(), "{said}: {left:?}");
        expect_no_process(&said);
    }
}

/// All that served pods have ended, or do so soon.
fn expect_no_process(said: &str) {
    let until = Instant::now() + Duration::from_secs(3) * slowness();
    let names = ["podvmm-monitor", "podvmm-warden", "podvmm-vmm"];
    let left = || {
        names
            .iter()
            .flat_map(|name| processes(name))
            .collect::<Vec<_>>()
    };
    while !left().is_empty() {
        assert!(Instant::now() < until, "{said}: {:?} are left", left());
        std::thread::sleep(Duration::from_millis(100));
    }
}
