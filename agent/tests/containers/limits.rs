//! Limits of a container's cgroup. Needs a cgroup2 hierarchy that has the controllers.

use std::time::Instant;

use agent_protocol::proto::stream_open::Stream;
use agent_protocol::proto::{AgentEvent, UpdateContainerRequest};
use serde_json::json;
use ttrpc::Code;

use crate::Case;
use crate::config::Config;
use crate::exec::{self, a_container_with_cgroups_of_its_own_takes_processes};
use crate::pod::{PATIENCE, Pod, code, context};

pub const CASES: &[Case] = &[
    (
        "a_container_out_of_memory_is_told",
        a_container_out_of_memory_is_told,
    ),
    (
        "kills_for_want_of_memory_are_told",
        kills_for_want_of_memory_are_told,
    ),
    ("processes_are_limited", processes_are_limited),
    (
        "limits_are_where_programs_look",
        limits_are_where_programs_look,
    ),
    ("limits_can_be_changed", limits_can_be_changed),
    (
        "a_limit_below_what_is_used_delays_nobody",
        a_limit_below_what_is_used_delays_nobody,
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

/// The container itself goes on.
fn kills_for_want_of_memory_are_told(pod: &Pod) {
    let script = "(tail /dev/zero); echo first; read x; (tail /dev/zero); exec sleep 1000";
    let memory = json!({"memory": {"limit": 32 << 20, "swap": 32 << 20}});
    let config = limited(script, memory).with_stdin();
    pod.must_create("oom", &config);
    let mut stdin = pod.attach("oom", Stream::STDIN);
    let mut stdout = pod.attach("oom", Stream::STDOUT);
    drop(pod.attach("oom", Stream::STDERR));
    assert_eq!(pod.begin("oom"), None);
    std::io::Read::read_exact(&mut stdout, &mut [0; 6]).unwrap();
    let told = |event: AgentEvent| {
        assert_eq!(event.oom_killed().container_id, "oom");
        event.oom_killed().count
    };
    assert_eq!(told(pod.event()), 1);
    std::io::Write::write_all(&mut stdin, b"\n").unwrap();
    assert_eq!(told(pod.event()), 2);
    pod.signal("oom", 9, false).unwrap();
    let event = pod.event();
    assert_eq!(event.container_exited().container_id, "oom");
    assert!(event.container_exited().status.oom_killed);
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

fn update(pod: &Pod, id: &str, resources: &serde_json::Value) -> ttrpc::Result<()> {
    let request = UpdateContainerRequest {
        container_id: id.to_owned(),
        resources_json: resources.to_string().into_bytes(),
        ..Default::default()
    };
    pod.client.update_container(context(), &request).map(drop)
}

fn limits_can_be_changed(pod: &Pod) {
    let resources = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 100},
                           "cpu": {"quota": 50_000, "period": 200_000}});
    pod.start_quiet("c", &limited("exec sleep 1000", resources));
    let seen = |exec_id: &str| {
        let look = "cd /sys/fs/cgroup; cat memory.max memory.low cpu.max cpu.weight pids.max";
        exec::run(pod, "c", exec_id, &exec::script(look)).1
    };
    update(pod, "c", &json!({})).unwrap();
    assert_eq!(seen("before"), "67108864\n0\n50000 200000\n100\n100\n");
    // As the kubelet sends it.
    let change = json!({"memory": {"limit": 96 << 20, "swap": 96 << 20},
                        "cpu": {"shares": 1024, "quota": 20_000, "period": 100_000},
                        "hugepageLimits": [{"pageSize": "2MB", "limit": 0}]});
    update(pod, "c", &change).unwrap();
    assert_eq!(seen("after"), "100663296\n0\n20000 100000\n39\n100\n");
    let change =
        json!({"pids": {"limit": -1}, "cpu": {"quota": 30_000}, "memory": {"reservation": 4096}});
    update(pod, "c", &change).unwrap();
    assert_eq!(seen("third"), "100663296\n4096\n30000 100000\n39\nmax\n");
    // Nothing is changed by what is refused.
    let refused = json!({"pids": {"limit": 7}, "blockIO": {"weight": 10}});
    assert_eq!(code(update(pod, "c", &refused)), Code::UNIMPLEMENTED);
    let missing = json!({"pids": {"limit": 7}, "unified": {"memory.no_such": "1"}});
    let error = update(pod, "c", &missing).unwrap_err().to_string();
    assert!(error.contains("memory.no_such"), "{error}");
    let careful = json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}});
    assert!(update(pod, "c", &careful).is_err());
    assert_eq!(seen("fourth"), "100663296\n4096\n30000 100000\n39\nmax\n");
    pod.signal("c", 9, false).unwrap();
    pod.wait("c");
    assert_eq!(
        code(update(pod, "c", &json!({}))),
        Code::FAILED_PRECONDITION
    );
}

fn a_limit_below_what_is_used_delays_nobody(pod: &Pod) {
    // Memory that cannot be reclaimed, held by a process that the kernel may not kill.
    let script = "head -c 41943040 /dev/zero > /dev/shm/x; echo ready; exec sleep 1000";
    let mut config = limited(
        script,
        json!({"memory": {"limit": 64 << 20, "swap": 64 << 20}}),
    );
    config.spec["process"]["oomScoreAdj"] = json!(-1000);
    pod.must_create("full", &config);
    let mut stdout = pod.attach("full", Stream::STDOUT);
    drop(pod.attach("full", Stream::STDERR));
    assert_eq!(pod.begin("full"), None);
    std::io::Read::read_exact(&mut stdout, &mut [0; 6]).unwrap();
    let client = pod.client.clone();
    let updating = std::thread::spawn(move || {
        let request = UpdateContainerRequest {
            container_id: "full".to_owned(),
            resources_json: br#"{"memory":{"limit":8388608,"swap":8388608}}"#.to_vec(),
            ..Default::default()
        };
        client.update_container(context(), &request).map(drop)
    });
    for index in 0..5 {
        pod.script(&format!("other{index}"), "true");
        assert_eq!(pod.stats("full").containers.len(), 1);
    }
    pod.signal("full", 9, false).unwrap();
    assert_eq!(pod.wait("full").signal(), 9);
    // Whether it came about depends on what came first.
    let _ = updating.join().unwrap();
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
