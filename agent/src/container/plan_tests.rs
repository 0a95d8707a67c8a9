use agent_protocol::proto::{CreateContainerRequest, Rootfs, Stdio};
use serde_json::{Value, json};
use ttrpc::Code;

use super::*;
use crate::container::Pids;
use crate::container::filesystem::MountSource;

fn spec() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 1000, "gid": 1000, "additionalGids": [5]},
            "args": ["sh", "-c", "true"],
            "env": ["PATH=/bin", "A=b"],
            "cwd": "/work//./dir/",
            "capabilities": {"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"],
                             "effective": ["CAP_KILL"]},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}]
        },
        "root": {"path": "rootfs", "readonly": true},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/data", "type": "bind", "source": "/run/podvmm/share/vol-1",
             "options": ["rbind", "ro"]}
        ],
        "annotations": {"a": "b"},
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"},
                           {"type": "network", "path": "/proc/1/ns/net"}],
            "cgroupsPath": "/kubepods/x",
            "resources": {"devices": [{"allow": false, "access": "rwm"}],
                          "memory": {"limit": 1048576}},
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": null,
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"}
        }
    })
}

fn request(spec: &Value) -> CreateContainerRequest {
    CreateContainerRequest {
        container_id: "c".to_owned(),
        oci_spec_json: spec.to_string().into_bytes(),
        rootfs: Some(Rootfs {
            path: "c/rootfs".to_owned(),
            ..Default::default()
        })
        .into(),
        stdio: Some(Stdio::new()).into(),
        ..Default::default()
    }
}

/// The plan of the usual configuration after `change`.
fn changed(change: impl FnOnce(&mut Value)) -> Result<Plan, Refusal> {
    let mut spec = spec();
    change(&mut spec);
    Plan::new(&request(&spec))
}

fn refusal(change: impl FnOnce(&mut Value)) -> Refusal {
    changed(change).unwrap_err()
}

#[test]
fn a_usual_configuration_becomes_a_plan() {
    let plan = changed(|_| {}).unwrap();
    assert_eq!(plan.process.cwd, "/work/dir");
    assert_eq!(plan.process.uid, 1000);
    assert_eq!(plan.process.umask, 0o022);
    assert_eq!(plan.process.oom_score_adj, 0);
    assert_eq!(
        plan.namespaces.new,
        libc::CLONE_NEWPID as u64,
        "a network with a path is the pod's"
    );
    assert_eq!(
        plan.mounts[2].source,
        MountSource::Share("vol-1".to_owned())
    );
    assert!(plan.rootfs.readonly);
    assert_eq!(
        plan.limits,
        [("memory.max".to_owned(), "1048576".to_owned())]
    );
    assert_eq!(plan.sysctls[0].0, "net/ipv4/ip_unprivileged_port_start");
}

#[test]
fn what_containerd_writes_becomes_a_plan() {
    for json in [
        include_str!("../../tests/containers/specs/ctr.json"),
        include_str!("../../tests/containers/specs/kubernetes-sandbox.json"),
        include_str!("../../tests/containers/specs/kubernetes-container.json"),
    ] {
        let request = request(&serde_json::from_str(json).unwrap());
        let plan = Plan::new(&request).unwrap();
        assert!(plan.mounts.len() > 5);
    }
}

#[test]
fn mounts_keep_their_order() {
    let targets: Vec<String> = changed(|_| {})
        .unwrap()
        .mounts
        .into_iter()
        .map(|mount| mount.target)
        .collect();
    assert_eq!(targets, ["/proc", "/dev", "/data"]);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let seccomp = refusal(|spec| spec["linux"]["seccomp"] = json!({"defaultAction": "x"}));
    assert_eq!(seccomp.code, Code::UNIMPLEMENTED);
    assert!(
        seccomp.message.contains("linux.seccomp"),
        "{}",
        seccomp.message
    );
    for (pointer, value) in [
        ("/hooks", json!({"prestart": [{"path": "/x"}]})),
        ("/process/apparmorProfile", json!("x")),
        ("/linux/uidMappings", json!([{}])),
        ("/linux/resources/memory/swappiness", json!(10)),
    ] {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let refused = refusal(|spec| spec.pointer_mut(parent).unwrap()[name] = value);
        assert_eq!(refused.code, Code::UNIMPLEMENTED, "{pointer}");
        assert!(refused.message.contains(name), "{}", refused.message);
    }
    // Empty ones ask for nothing.
    changed(|spec| spec["hooks"] = json!({})).unwrap();
    changed(|spec| spec["process"]["apparmorProfile"] = json!("")).unwrap();
}

#[test]
fn an_unknown_field_is_refused_by_name() {
    let refused = refusal(|spec| spec["linux"]["newFeature"] = json!(1));
    assert_eq!(refused.code, Code::UNIMPLEMENTED);
    assert!(
        refused.message.contains("newFeature"),
        "{}",
        refused.message
    );
}

#[test]
fn namespaces_are_the_containers_or_the_pods() {
    let uts = changed(|spec| {
        spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "uts"}));
        spec["hostname"] = json!("inner");
    });
    let uts = uts.unwrap();
    assert!(uts.namespaces.has_own_uts() && uts.namespaces.has_own_pids());
    assert_eq!(uts.hostname.as_deref(), Some("inner"));
    assert_eq!(
        refusal(|spec| spec["hostname"] = json!("no")).code,
        Code::INVALID_ARGUMENT
    );
    let uname = rustix::system::uname();
    let pods = json!(uname.nodename().to_str().unwrap());
    assert_eq!(
        changed(|spec| spec["hostname"] = pods).unwrap().hostname,
        None
    );
    for namespaces in [
        json!([]),
        json!([{"type": "mount"}]),
        json!([{"type": "pid"}, {"type": "mount", "path": "/x"}]),
    ] {
        let refused = refusal(|spec| spec["linux"]["namespaces"] = namespaces);
        assert_eq!(refused.code, Code::UNIMPLEMENTED);
    }
    let user = json!({"type": "user"});
    refusal(|spec| {
        spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(user)
    });
}

#[test]
fn a_pid_namespace_with_a_path_is_a_containers_or_the_pods() {
    let with = |path: Option<&str>, owner: &str| {
        let mut spec = spec();
        spec["linux"]["namespaces"][0]["path"] = json!(path);
        let mut request = request(&spec);
        request.pid_namespace_of = owner.to_owned();
        Plan::new(&request)
    };
    let joined = with(Some("/proc/7/ns/pid"), "sandbox").unwrap();
    let owner = container_id("sandbox").unwrap();
    assert_eq!(joined.namespaces.pids, Pids::Of(owner));
    assert_eq!(joined.namespaces.new, 0);
    let joined = with(Some("pod"), "").unwrap();
    assert_eq!(joined.namespaces.pids, Pids::OfPod);
    for (path, owner) in [(Some("/proc/7/ns/pid"), "../x"), (None, "sandbox")] {
        let refused = with(path, owner).unwrap_err();
        assert_eq!(refused.code, Code::INVALID_ARGUMENT, "{path:?} {owner}");
    }
}

#[test]
fn case_18_no_mount_names_anything_but_the_share() {
    for source in [
        "/",
        "/etc",
        "/run/podvmm",
        "/run/podvmm/share",
        "/run/podvmm/share/",
        "/run/podvmm/shared/x",
        "/run/podvmm/share/../stage",
        "/run/podvmm/share/a/../../..",
        "/run/podvmm/volumes",
        "/run/podvmm/volumes/../stage",
        "/run/podvmm/volumesx",
        "relative",
        "",
    ] {
        let refused = refusal(|spec| spec["mounts"][2]["source"] = json!(source));
        assert_eq!(refused.code, Code::INVALID_ARGUMENT, "{source}");
    }
    let shm = changed(|spec| spec["mounts"][2]["source"] = json!("/dev/shm")).unwrap();
    assert_eq!(shm.mounts[2].source, MountSource::PodShm);
}

#[test]
fn case_17_paths_cannot_climb() {
    for cwd in ["", "relative", "/../x", "/a/../../x", "/a\0b"] {
        refusal(|spec| spec["process"]["cwd"] = json!(cwd));
    }
    for path in ["", "/", "/abs", "..", "a/../b", "./"] {
        let mut request = request(&spec());
        request.rootfs.mut_or_insert_default().path = path.to_owned();
        assert_eq!(
            Plan::new(&request).unwrap_err().code,
            Code::INVALID_ARGUMENT,
            "{path:?}"
        );
    }
    for target in ["/", "/./", "relative", "/a/../.."] {
        refusal(|spec| spec["mounts"][0]["destination"] = json!(target));
    }
    for name in ["../x", "a/../../b", "", "a b", "a..b", "/net"] {
        refusal(|spec| spec["linux"]["sysctl"] = json!({name: "1"}));
    }
}

#[test]
fn file_systems_that_need_a_device_are_refused() {
    for kind in ["ext4", "overlay", "nfs", "virtiofs", "devtmpfs"] {
        let refused = refusal(|spec| spec["mounts"][0]["type"] = json!(kind));
        assert_eq!(refused.code, Code::UNIMPLEMENTED, "{kind}");
    }
}

#[test]
fn terminal_and_stdio_must_agree() {
    refusal(|spec| spec["process"]["terminal"] = json!(true));
    let mut request = request(&spec());
    request.stdio.mut_or_insert_default().tty = true;
    assert!(Plan::new(&request).is_err());
}

#[test]
fn commands_and_identities_are_checked() {
    for args in [json!([]), json!([""]), json!(["a\u{0}b"])] {
        refusal(|spec| spec["process"]["args"] = args);
    }
    refusal(|spec| spec["process"]["user"]["uid"] = json!(u32::MAX));
    refusal(|spec| spec["process"]["capabilities"]["bounding"] = json!(["CAP_ALL"]));
    refusal(|spec| spec["process"]["capabilities"]["effective"] = json!(["CAP_CHOWN"]));
    refusal(|spec| spec["process"]["rlimits"][0]["type"] = json!("RLIMIT_X"));
    refusal(|spec| spec["process"]["rlimits"][0]["soft"] = json!(5000));
}

#[test]
fn a_configuration_that_is_too_long_or_nonsense_is_refused() {
    let mut request = request(&spec());
    request.oci_spec_json = vec![b' '; MAX_SPEC_LEN + 1];
    assert_eq!(
        Plan::new(&request).unwrap_err().code,
        Code::INVALID_ARGUMENT
    );
    for json in ["", "{", "[]", "null", &"[".repeat(100_000)] {
        request.oci_spec_json = json.as_bytes().to_vec();
        assert_eq!(
            Plan::new(&request).unwrap_err().code,
            Code::INVALID_ARGUMENT,
            "{json:.20}"
        );
    }
}
