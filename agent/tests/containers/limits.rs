//! Limits of a container's cgroup. Needs a cgroup2 hierarchy that has the controllers.

use std::time::Instant;

use agent_protocol::proto::stream_open::Stream;
use serde_json::json;

use crate::Case;
use crate::config::Config;
use crate::exec::a_container_with_cgroups_of_its_own_takes_processes;
use crate::pod::{PATIENCE, Pod};

pub const CASES: &[Case] = &[
    (
        "a_container_out_of_memory_is_told",
        a_container_out_of_memory_is_told,
    ),
    ("processes_are_limited", processes_are_limited),
    (
        "limits_are_where_programs_look",
        limits_are_where_programs_look,
    ),
    ("use_of_resources_is_told", use_of_resources_is_told),
    (
        "a_container_with_cgroups_of_its_own_takes_processes",
        a_container_with_cgroups_of_its_own_takes_processes,
    ),
];

/// What the cases need.
pub const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

fn limited(script: &str, resources: serde_json::Value) -> Config {
    let mut config = Config::script(script);
    config.spec["linux"]["resources"] = resources;
    config
}

fn a_container_out_of_memory_is_told(pod: &Pod) {
    let memory = json!({"memory": {"limit": 32 << 20, "swap": 32 << 20}});
    // `tail` keeps all of a line that does not end.
    let ended = pod.run("oom", &limited("tail /dev/zero", memory.clone()), b"");
    assert!(ended.status.oom_killed, "{:?}", ended.status);
    assert_ne!(ended.status.exit_code(), 0);
    assert!(
        !pod.run("fits", &limited("true", memory), b"")
            .status
            .oom_killed
    );
}

fn processes_are_limited(pod: &Pod) {
    let script = "for i in 1 2 3 4 5 6; do sleep 1000 & done; echo all";
    let ended = pod.run("pids", &limited(script, json!({"pids": {"limit": 4}})), b"");
    assert!(
        !ended.stdout_text().contains("all"),
        "{}",
        ended.stdout_text()
    );
}

fn use_of_resources_is_told(pod: &Pod) {
    // Throttled for certain, with 8 MiB of memory and a process beside it.
    let script =
        "head -c 8388608 /dev/zero > /dev/shm/x; sleep 1000 & echo ready; while :; do :; done";
    let resources = json!({
        "memory": {"limit": 64 << 20},
        "cpu": {"quota": 10_000, "period": 100_000},
        "pids": {"limit": 100}
    });
    pod.must_create("busy", &limited(script, resources));
    let mut stdout = pod.attach("busy", Stream::STDOUT);
    drop(pod.attach("busy", Stream::STDERR));
    assert_eq!(pod.begin("busy"), None);
    std::io::Read::read_exact(&mut stdout, &mut [0; 6]).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let stats = loop {
        let stats = pod.stats("busy").containers.remove(0);
        if stats.cpu.throttled_usec > 0 {
            break stats;
        }
        assert!(Instant::now() < deadline, "never throttled");
    };
    let memory = &stats.memory;
    assert_eq!(memory.limit, 64 << 20);
    assert!(memory.stat["shmem"] >= 8 << 20);
    assert!(memory.current >= 8 << 20 && memory.peak >= 8 << 20);
    for name in [
        "anon",
        "file",
        "kernel_stack",
        "slab",
        "inactive_file",
        "active_file",
        "pgfault",
        "pgmajfault",
    ] {
        assert!(memory.stat.contains_key(name), "{name}");
    }
    assert_eq!(memory.events["oom_kill"], 0);
    assert_eq!((stats.pids.current, stats.pids.limit), (2, 100));
    assert!(stats.cpu.nr_periods >= stats.cpu.nr_throttled && stats.cpu.nr_throttled > 0);
}

fn limits_are_where_programs_look(pod: &Pod) {
    let script = "cd /sys/fs/cgroup; cat memory.max cpu.max cpu.weight pids.max; \
                  mkdir x 2>/dev/null || echo refused";
    let resources = json!({
        "memory": {"limit": 64 << 20},
        "cpu": {"quota": 50_000, "period": 100_000, "shares": 1024},
        "pids": {"limit": 100}
    });
    let ended = pod.run("look", &limited(script, resources), b"");
    assert_eq!(
        ended.stdout_text(),
        "67108864\n50000 100000\n39\n100\nrefused\n"
    );
}
