//! Pausing, lists of processes, and CPUs.

use std::fs;
use std::time::{Duration, Instant};

use agent_protocol::proto::{
    ListProcessesRequest, OnlineCpusRequest, PauseContainerRequest, ProcessInfo,
    ResumeContainerRequest,
};
use ttrpc::Code;

use crate::Case;
use crate::config::Config;
use crate::exec;
use crate::pod::{PATIENCE, Pod, code, context};

pub const CASES: &[Case] = &[
    (
        "a_paused_container_stands_still",
        a_paused_container_stands_still,
    ),
    (
        "a_paused_container_can_be_killed",
        a_paused_container_can_be_killed,
    ),
    ("processes_are_listed", processes_are_listed),
    ("cpus_are_counted", cpus_are_counted),
    (
        "pausing_needs_a_running_container",
        pausing_needs_a_running_container,
    ),
];

/// Needs a machine whose CPUs may be taken down.
pub const CPU_CASES: &[Case] = &[("cpus_come_and_go", cpus_come_and_go)];

/// Why [`CPU_CASES`] cannot run here.
pub fn missing_cpus() -> Option<String> {
    if std::env::var_os("PODVMM_TEST_CPUS").is_none() {
        return Some("takes this machine's CPUs down; PODVMM_TEST_CPUS=1 allows it".to_owned());
    }
    let second = fs::exists("/sys/devices/system/cpu/cpu1/online");
    (!second.unwrap_or(false)).then(|| "no second CPU that can be taken down".to_owned())
}

fn online_cpus(pod: &Pod, count: u32) -> ttrpc::Result<(u32, u32)> {
    let request = OnlineCpusRequest {
        count,
        ..Default::default()
    };
    let response = pod.client.online_cpus(context(), &request)?;
    Ok((response.online, response.present))
}

fn cpus_are_counted(pod: &Pod) {
    let now = pod.stats("").guest.online_cpus;
    let (online, present) = online_cpus(pod, now).unwrap();
    assert!(online == now && present >= now);
    for count in [0, present + 1, u32::MAX] {
        assert_eq!(code(online_cpus(pod, count)), Code::INVALID_ARGUMENT);
    }
}

fn cpus_come_and_go(pod: &Pod) {
    let (all, present) = online_cpus(pod, pod.stats("").guest.online_cpus).unwrap();
    assert_eq!(online_cpus(pod, 1).unwrap(), (1, present));
    assert_eq!(pod.script("one", "nproc"), "1\n");
    assert_eq!(online_cpus(pod, all).unwrap(), (all, present));
    assert_eq!(pod.script("all", "nproc"), format!("{all}\n"));
}

fn processes_are_listed(pod: &Pod) {
    // One of them in a cgroup below the container's.
    let script = "mkdir /sys/fs/cgroup/below && echo $$ > /sys/fs/cgroup/below/cgroup.procs; \
                  sleep 1000 & exec sleep 1000";
    let mut config = Config::script(script);
    for mount in config.spec["mounts"].as_array_mut().unwrap() {
        if mount["type"] == "cgroup" {
            mount["options"] = serde_json::json!(["nosuid", "noexec", "nodev"]);
        }
    }
    pod.start_quiet("c", &config);
    let pid = exec::add(pod, "c", "e", &exec::process(&["sleep", "1000"]), false).unwrap();
    let list = || {
        let request = ListProcessesRequest {
            container_id: "c".to_owned(),
            ..Default::default()
        };
        let listed = pod.client.list_processes(context(), &request).unwrap();
        assert!(!listed.truncated);
        listed.processes
    };
    wait_until("two in a cgroup of their own", || {
        list().len() == 3
            && exec::run_and_forget(pod, "c", "grep -c . /sys/fs/cgroup/below/cgroup.procs")
                == "2\n"
    });
    let named = |processes: Vec<ProcessInfo>| -> Vec<(u32, String)> {
        let named = processes.into_iter().filter(|one| !one.exec_id.is_empty());
        named.map(|one| (one.pid, one.exec_id)).collect()
    };
    assert_eq!(named(list()), [(pid, "e".to_owned())]);
    exec::remove(pod, "c", "e", true).unwrap();
    assert_eq!(list().len(), 2);
    assert_eq!(named(list()), []);
}

fn pause(pod: &Pod, id: &str) -> ttrpc::Result<()> {
    let request = PauseContainerRequest {
        container_id: id.to_owned(),
        ..Default::default()
    };
    pod.client.pause_container(context(), &request).map(drop)
}

fn resume(pod: &Pod, id: &str) -> ttrpc::Result<()> {
    let request = ResumeContainerRequest {
        container_id: id.to_owned(),
        ..Default::default()
    };
    pod.client.resume_container(context(), &request).map(drop)
}

/// A container that makes a file longer and longer.
fn writer(pod: &Pod, id: &str) -> impl Fn() -> u64 {
    let file = pod.volumes().join(id);
    fs::write(&file, "").unwrap();
    let config =
        Config::script("while :; do echo x >> /file; done").with_mount(serde_json::json!({
        "destination": "/file", "type": "bind", "options": ["bind"],
        "source": format!("/run/podvmm/share/volumes/{id}")}));
    pod.start_quiet(id, &config);
    move || fs::metadata(&file).unwrap().len()
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn a_paused_container_stands_still(pod: &Pod) {
    let len = writer(pod, "w");
    wait_until("it writes nothing", || len() > 0);
    for _ in 0..3 {
        pause(pod, "w").unwrap();
        let before = len();
        pause(pod, "w").expect("pausing twice is no error");
        let result = exec::add(pod, "w", "e", &exec::script("true"), false);
        assert_eq!(code(result), Code::FAILED_PRECONDITION);
        // Others go on meanwhile.
        pod.script(&format!("other{before}"), "true");
        assert_eq!(len(), before);
        resume(pod, "w").unwrap();
        wait_until("it does not go on", || len() > before);
    }
    resume(pod, "w").expect("resuming what goes on is no error");
    let (status, _) = exec::run(pod, "w", "e", &exec::script("exit 6"));
    assert_eq!(status.exit_code(), 6);
}

fn a_paused_container_can_be_killed(pod: &Pod) {
    let len = writer(pod, "w");
    wait_until("it writes nothing", || len() > 0);
    pause(pod, "w").unwrap();
    // Pending until it is resumed.
    pod.signal("w", 10, true).unwrap();
    pod.signal("w", 9, false).unwrap();
    assert_eq!(pod.wait("w").signal(), 9);
    assert_eq!(code(pause(pod, "w")), Code::FAILED_PRECONDITION);
    resume(pod, "w").unwrap();
}

fn pausing_needs_a_running_container(pod: &Pod) {
    assert_eq!(code(pause(pod, "none")), Code::NOT_FOUND);
    assert_eq!(code(resume(pod, "none")), Code::NOT_FOUND);
    pod.must_create("c", &Config::script("true"));
    assert_eq!(code(pause(pod, "c")), Code::FAILED_PRECONDITION);
}
