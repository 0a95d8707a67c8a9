//! Configurations as containerd writes them, after what the host makes of them: sources of bind mounts below
//! the share, seccomp compiled, apparmorProfile gone.

use std::fs;

use serde_json::{Value, json};

use crate::Case;
use crate::config::Config;
use crate::exec;
use crate::pod::Pod;

pub const CASES: &[Case] = &[("a_container_as_ctr_writes_it", a_container_as_ctr_writes_it)];

/// Needs controllers.
pub const LIMITED_CASES: &[Case] = &[(
    "a_pod_as_kubernetes_writes_it",
    a_pod_as_kubernetes_writes_it,
)];

const CTR: &str = include_str!("specs/ctr.json");
const SANDBOX: &str = include_str!("specs/kubernetes-sandbox.json");
const CONTAINER: &str = include_str!("specs/kubernetes-container.json");

fn config(json: &str) -> Config {
    let mut config = Config::script("");
    config.spec = serde_json::from_str(json).unwrap();
    config
}

fn a_container_as_ctr_writes_it(pod: &Pod) {
    let ended = pod.run("c", &config(CTR), b"");
    assert_eq!(ended.stdout_text(), "lo\ndone\n", "{}", ended.stderr_text());
}

fn a_pod_as_kubernetes_writes_it(pod: &Pod) {
    let put = |name: &str, content: &str| fs::write(pod.volumes().join(name), content).unwrap();
    put("hosts", "127.0.0.1 localhost\n");
    put("hostname", "web\n");
    put("resolv.conf", "nameserver 10.96.0.10\n");
    put("termination-log", "");
    put("pause", "#!/bin/sh\nexec sleep 1000\n");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(pod.volumes().join("pause"), executable).unwrap();
    fs::create_dir(pod.volumes().join("token")).unwrap();

    // The image of a sandbox container has nothing but /pause; here it comes to the machine's root.
    let pause = json!({"destination": "/pause", "type": "bind", "options": ["bind", "ro"],
                       "source": "/run/podvmm/share/volumes/pause"});
    pod.start_quiet("4f6c", &config(SANDBOX).with_mount(pause));
    let ended = pod.run("77aa", &config(CONTAINER), b"");
    let hostname = hostname_of_machine();
    let expected = format!("0\n{hostname}\nnameserver 10.96.0.10\n134217728\ndone\n");
    assert_eq!(ended.stdout_text(), expected, "{}", ended.stderr_text());

    // kubectl exec and probes send the container's process with other arguments.
    let mut stays = config(CONTAINER);
    stays.spec["process"]["args"] = json!(["sleep", "1000"]);
    pod.start_quiet("88bb", &stays);
    let mut process: Value = stays.spec["process"].take();
    process["args"] = json!(["cat", "/proc/self/oom_score_adj"]);
    let (status, seen) = exec::run(pod, "88bb", "probe", &process);
    assert_eq!((status.exit_code(), seen.as_str()), (0, "969\n"));

    // With shareProcessNamespace.
    let mut shares = config(CONTAINER).with_pids_of("4f6c");
    shares.spec["process"]["args"] = json!(["sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline"]);
    assert_eq!(pod.run("99cc", &shares, b"").stdout_text(), "sleep 1000 ");
}

fn hostname_of_machine() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    name.trim().to_owned()
}
