//! Limits of a container's cgroup. Needs a cgroup2 hierarchy that has the controllers.

use serde_json::json;

use crate::Case;
use crate::config::Config;
use crate::exec::a_container_with_cgroups_of_its_own_takes_processes;
use crate::pod::Pod;

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
