use super::*;
use crate::block::{BlockVolume, GuestBlock};

fn spec() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": { "args": ["sh"], "cwd": "/", "apparmorProfile": "cri-containerd.apparmor.d" },
        "annotations": { "io.kubernetes.cri.container-type": "container" },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"] },
            { "destination": "/etc/hosts", "type": "bind", "source": "/etc/hosts",
              "options": ["rbind", "rprivate", "ro"] },
            { "destination": "/tmp", "type": "bind", "source": "/tmp", "options": ["rbind", "rw"] },
            { "destination": "/dev/shm", "type": "bind", "source": "/run/pod/shm",
              "options": ["rbind", "ro"] },
        ],
        "linux": {
            "namespaces": [
                { "type": "pid" }, { "type": "mount" },
                { "type": "ipc", "path": "/proc/1/ns/ipc" },
                { "type": "uts", "path": "/proc/1/ns/uts" },
                { "type": "network", "path": "/proc/1/ns/net" },
            ],
            "cgroupsPath": "/kubepods/x",
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
        },
    })
}

fn translated(spec: Value) -> Result<(Value, Vec<Share>), BundleError> {
    let guest = container(spec, "web", |path| path == Path::new("/run/pod/shm"))?;
    Ok((
        serde_json::from_slice(&guest.spec_json()).unwrap(),
        guest.shares,
    ))
}

#[test]
fn bind_mounts_become_shares_with_their_access() {
    let (spec, shares) = translated(spec()).unwrap();
    let mounts = spec["mounts"].as_array().unwrap();
    assert_eq!(mounts[0]["source"], "proc");
    assert_eq!(mounts[1]["source"], "/run/podvmm/share/web-1");
    assert_eq!(mounts[1]["options"], json!(["rbind", "ro"]));
    assert_eq!(mounts[3]["source"], "/dev/shm");
    let access: Vec<_> = shares
        .iter()
        .map(|share| (share.name.as_str(), share.read_only, share.is_dir))
        .collect();
    assert_eq!(access, [("web-1", true, false), ("web-2", false, true)]);
}

#[test]
fn case_16_what_concerns_the_host_alone_is_left_out() {
    let (spec, _) = translated(spec()).unwrap();
    assert_eq!(spec.get("annotations"), None);
    assert_eq!(spec["process"].get("apparmorProfile"), None);
    assert_eq!(spec["linux"].get("cgroupsPath"), None);
    assert_eq!(spec["linux"]["resources"], json!({}));
}

#[test]
fn namespaces_of_the_host_are_refused_by_name() {
    for (kind, option) in [
        ("network", "hostNetwork"),
        ("pid", "hostPID"),
        ("ipc", "hostIPC"),
    ] {
        let mut spec = spec();
        let all = spec["linux"]["namespaces"].as_array_mut().unwrap();
        all.retain(|entry| entry["type"] != kind);
        let error = translated(spec).unwrap_err().to_string();
        assert!(error.contains(option) && error.contains(kind), "{error}");
    }
}

#[test]
fn what_a_guest_cannot_have_is_refused() {
    let with = |path: &str, value: Value| {
        let mut spec = spec();
        *spec.pointer_mut(path).unwrap() = value;
        translated(spec).unwrap_err().to_string()
    };
    let user = json!([{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" },
        { "type": "network" }, { "type": "user" }]);
    assert!(with("/linux/namespaces", user).contains("hostUsers"));
    let shared = json!(["rbind", "rshared"]);
    assert!(with("/mounts/1/options", shared).contains("propagation"));
    assert!(with("/mounts/1/source", json!("/no/such/file")).contains("/no/such/file"));
    assert!(with("/mounts/1/source", json!("relative")).contains("mounts[1].source"));
    assert!(with("/mounts/1/source", json!("/dev/null")).contains("/dev/null"));
    assert!(with("/mounts", json!("x")).contains("mounts"));
    assert!(with("/process", json!([])).contains("process"));
    let mut hooked = spec();
    hooked["hooks"] = json!({ "prestart": [{ "path": "/bin/true" }] });
    assert!(
        translated(hooked)
            .unwrap_err()
            .to_string()
            .contains("hooks.prestart")
    );
}

#[test]
fn devices_of_the_host_are_refused_by_their_path() {
    let with = |kind: &str, major: u32| {
        let mut spec = spec();
        spec["linux"]["devices"] =
            json!([{ "path": "/dev/it", "type": kind, "major": major, "minor": 0 }]);
        translated(spec).map_err(|error| error.to_string())
    };
    for (kind, major) in [("c", 195), ("u", 240)] {
        let error = with(kind, major).unwrap_err();
        assert!(error.contains("linux.devices[0] (/dev/it)"), "{error}");
    }
    // One that may not be read; then one that is not there, or cannot be looked for without privileges.
    let error = with("b", 4095).unwrap_err();
    assert!(
        error.contains("(/dev/it)") && error.contains("allow r"),
        "{error}"
    );
    let mut open = spec();
    open["linux"]["resources"] = json!({});
    open["linux"]["devices"] =
        json!([{ "path": "/dev/it", "type": "b", "major": 4095, "minor": 0 }]);
    let error = translated(open).unwrap_err().to_string();
    assert!(error.contains("linux.devices[0] /dev/it"), "{error}");
    let (spec, _) = with("c", 10).unwrap();
    assert_eq!(spec["linux"]["devices"][0]["path"], "/dev/it");
}

#[test]
fn block_devices_get_the_numbers_that_they_have_in_the_guest() {
    let file = std::env::temp_dir().join(format!("podvmm-translate-{}", std::process::id()));
    std::fs::write(&file, [0; 512]).unwrap();
    let volume = BlockVolume::open("--device", &file, false).unwrap();
    std::fs::remove_file(file).unwrap();
    let mut spec = spec();
    let node = |path: &str| json!({ "path": path, "type": "c", "major": 1, "minor": 3 });
    spec["linux"]["devices"] = json!([node("/dev/a"), node("/dev/b")]);
    let mut guest = container(spec, "web", |_| true).unwrap();
    let block = SpecBlock { index: 1, volume };
    guest.set_block(&block, &GuestBlock::new(254, 16, 0));
    let spec: Value = serde_json::from_slice(&guest.spec_json()).unwrap();
    let devices = &spec["linux"]["devices"];
    assert_eq!(devices[0], node("/dev/a"));
    assert_eq!(
        (&devices[1]["major"], &devices[1]["minor"]),
        (&json!(254), &json!(16))
    );
}

#[test]
fn a_shared_pid_namespace_is_told() {
    let mut shared = spec();
    shared["linux"]["namespaces"][0]["path"] = "/proc/1/ns/pid".into();
    assert!(
        container(shared, "web", |_| true)
            .unwrap()
            .joins_pid_namespace
    );
    assert!(
        !container(spec(), "web", |_| true)
            .unwrap()
            .joins_pid_namespace
    );
}
