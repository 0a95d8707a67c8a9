//! Containers in one pid namespace.

use ttrpc::Code;

use crate::Case;
use crate::config::Config;
use crate::exec;
use crate::pod::{Pod, code};

pub const CASES: &[Case] = &[
    ("pids_can_be_shared", pids_can_be_shared),
    (
        "signals_in_shared_pids_are_plain",
        signals_in_shared_pids_are_plain,
    ),
    (
        "a_container_in_shared_pids_ends_as_a_whole",
        a_container_in_shared_pids_ends_as_a_whole,
    ),
    (
        "shared_pids_end_with_their_owner",
        shared_pids_end_with_their_owner,
    ),
    (
        "a_pod_can_have_pids_of_its_own",
        a_pod_can_have_pids_of_its_own,
    ),
    (
        "pids_are_shared_by_running_containers",
        pids_are_shared_by_running_containers,
    ),
];

const OWNER: &str = "sandbox";

/// The processes that a container sees, by name.
const LOOK: &str =
    "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline | cut -c 1-10; echo; done | sort -u";

fn pids_can_be_shared(pod: &Pod) {
    pod.start_quiet(OWNER, &Config::command(&["sleep", "1001"]));
    pod.start_quiet(
        "a",
        &Config::command(&["sleep", "1002"]).with_pids_of(OWNER),
    );
    let seen = pod.run("b", &Config::script(LOOK).with_pids_of(OWNER), b"");
    let text = seen.stdout_text();
    assert!(
        text.contains("sleep 1001") && text.contains("sleep 1002"),
        "{text}"
    );
    // Each has a root and a cgroup of its own all the same.
    let seen = exec::run_and_forget(
        pod,
        "a",
        "tr '\\0' ' ' < /proc/1/cmdline; touch /of-a; grep ^0: /proc/self/cgroup; \
         [ $(readlink /proc/self/ns/pid) = $(readlink /proc/1/ns/pid) ] && echo shared",
    );
    assert_eq!(seen, "sleep 1001 0::/\nshared\n");
    assert_eq!(exec::run_and_forget(pod, OWNER, "ls /of-a 2>/dev/null"), "");
    // One that shares with the second shares with the first.
    let seen = pod.run("third", &Config::script(LOOK).with_pids_of("a"), b"");
    assert!(seen.stdout_text().contains("sleep 1001"));
}

fn signals_in_shared_pids_are_plain(pod: &Pod) {
    pod.start_quiet(OWNER, &Config::command(&["sleep", "1000"]));
    for number in [15, 9, 10] {
        let id = format!("c{number}");
        pod.start_quiet(
            &id,
            &Config::command(&["sleep", "1000"]).with_pids_of(OWNER),
        );
        pod.signal(&id, number, false).unwrap();
        assert_eq!(pod.wait(&id).signal(), number);
    }
}

fn a_container_in_shared_pids_ends_as_a_whole(pod: &Pod) {
    pod.start_quiet(OWNER, &Config::command(&["sleep", "1000"]));
    let config = Config::script("sleep 1002 & sleep 1002 & exec sleep 1003").with_pids_of(OWNER);
    for force in [false, true] {
        pod.start_quiet("c", &config);
        exec::add(pod, "c", "e", &exec::process(&["sleep", "1004"]), false).unwrap();
        if !force {
            pod.signal("c", 15, false).unwrap();
            assert_eq!(pod.wait("c").signal(), 15);
        }
        exec::remove(pod, "c", "", force).unwrap();
        assert_eq!(pod.container_cgroups(), [OWNER]);
        let left = exec::run_and_forget(pod, OWNER, LOOK);
        for gone in ["sleep 1002", "sleep 1003", "sleep 1004"] {
            assert!(!left.contains(gone), "{left}");
        }
    }
}

fn shared_pids_end_with_their_owner(pod: &Pod) {
    pod.start_quiet(OWNER, &Config::command(&["sleep", "1000"]));
    pod.start_quiet(
        "c",
        &Config::command(&["sleep", "1000"]).with_pids_of(OWNER),
    );
    exec::add(pod, "c", "e", &exec::process(&["sleep", "1000"]), false).unwrap();
    pod.signal(OWNER, 9, false).unwrap();
    assert_eq!(pod.wait(OWNER).signal(), 9);
    assert_eq!(pod.wait("c").signal(), 9);
    assert_eq!(exec::wait(pod, "c", "e").signal(), 9);
    exec::remove(pod, "c", "", false).unwrap();
    exec::remove(pod, OWNER, "", false).unwrap();
    assert!(pod.container_cgroups().is_empty());
}

fn pids_are_shared_by_running_containers(pod: &Pod) {
    let config = Config::script("true").with_pids_of(OWNER);
    assert_eq!(code(pod.create("c", &config)), Code::NOT_FOUND);
    pod.must_create(OWNER, &Config::command(&["sleep", "1000"]));
    assert_eq!(code(pod.create("c", &config)), Code::FAILED_PRECONDITION);
}

/// With shareProcessNamespace: nobody's container has to be there first.
fn a_pod_can_have_pids_of_its_own(pod: &Pod) {
    let config = |script: &str| Config::script(script).with_pids_of("");
    pod.start_quiet("a", &Config::command(&["sleep", "1002"]).with_pids_of(""));
    let looks = format!("cat /proc/1/comm; {LOOK}");
    let seen = pod.run("b", &config(&looks), b"").stdout_text();
    assert!(seen.starts_with("pause\n"), "{seen}");
    assert!(seen.contains("sleep 1002"), "{seen}");
    // It outlives who came first, and what it inherits is reaped.
    pod.signal("a", 9, false).unwrap();
    assert_eq!(pod.wait("a").signal(), 9);
    pod.start_quiet("c", &config("(sleep 0.2 &); exec sleep 1003"));
    let zombies = "sleep 0.6; cat /proc/[0-9]*/stat | grep -c ') Z'";
    assert_eq!(pod.run("d", &config(zombies), b"").stdout_text(), "0\n");
    // Nothing of the agent can be had from the process that holds it, nor can it be ended.
    let tries = "kill -9 1; cat /proc/1/root/x /proc/1/fd/0 /proc/1/cwd/x 2>&1 | grep -c denied; \
                 grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs)' /proc/1/status | tr '\\t\\n' '  '";
    let seen = pod.run("e", &config(tries), b"").stdout_text();
    assert_eq!(
        seen,
        "3\nUid: 65534 65534 65534 65534 CapEff: 0000000000000000 CapBnd: 0000000000000000 \
         NoNewPrivs: 1 "
    );
    // Not even by one who may trace: its root is empty.
    let mut traces =
        config("ls -A /proc/1/root/; ls /proc/1/fd; ls -A /proc/1/root/../../ | wc -l");
    for set in ["bounding", "permitted", "effective"] {
        let set = &mut traces.spec["process"]["capabilities"][set];
        set.as_array_mut().unwrap().push("CAP_SYS_PTRACE".into());
    }
    let seen = pod.run("f", &traces, b"").stdout_text();
    assert_eq!(seen, "0\n1\n2\n0\n");
}
