//! Directories of the guest's own, and parts of volumes.

use agent_protocol::proto::{MakeVolumeRequest, ReadVolumeFileRequest, VolumeFile};
use serde_json::{Value, json};
use ttrpc::Code;

use crate::Case;
use crate::config::Config;
use crate::exec;
use crate::pod::{Pod, code, context};

pub const CASES: &[Case] = &[
    (
        "a_volume_in_memory_is_shared_and_bounded",
        a_volume_in_memory_is_shared_and_bounded,
    ),
    (
        "files_of_a_volume_are_written",
        files_of_a_volume_are_written,
    ),
    ("last_words_are_read", last_words_are_read),
    (
        "a_part_of_a_volume_is_mounted",
        a_part_of_a_volume_is_mounted,
    ),
    ("volumes_that_are_refused", volumes_that_are_refused),
    (
        "a_file_is_mounted_where_a_link_leads_nowhere",
        a_file_is_mounted_where_a_link_leads_nowhere,
    ),
];

fn volume(name: &str, files: &[(&str, u32, &str)]) -> MakeVolumeRequest {
    let files = files.iter().map(|(path, mode, data)| VolumeFile {
        path: (*path).to_owned(),
        mode: *mode,
        data: data.as_bytes().to_vec(),
        ..Default::default()
    });
    MakeVolumeRequest {
        name: name.to_owned(),
        mode: 0o755,
        files: files.collect(),
        ..Default::default()
    }
}

fn make(pod: &Pod, request: &MakeVolumeRequest) {
    pod.client.make_volume(context(), request).unwrap();
}

fn bind(source: &str, destination: &str, options: &[&str]) -> Value {
    let options = [&["rbind"], options].concat();
    json!({ "destination": destination, "type": "bind", "source": source, "options": options })
}

fn of_volume(path: &str, destination: &str, options: &[&str]) -> Value {
    bind(&format!("/run/podvmm/volumes/{path}"), destination, options)
}

fn a_volume_in_memory_is_shared_and_bounded(pod: &Pod) {
    let mut request = volume("v", &[]);
    (request.mode, request.gid, request.size) = (0o2777, 77, 1 << 20);
    make(pod, &request);
    let config = |script: &str| Config::script(script).with_mount(of_volume("v", "/v", &["rw"]));
    let look =
        "stat -c '%a %u:%g' /v; touch /v/new; stat -c %g /v/new; df -k /v | awk 'NR==2{print $2}'";
    let seen = pod.run("a", &config(look), b"").stdout_text();
    assert_eq!(seen, "2777 0:77\n77\n1024\n");
    // What one has written, the next reads; more than there is room for cannot be written.
    let fills = "head -c 2000000 /dev/zero >/v/big 2>/dev/null || echo full; wc -c < /v/big; ls /v";
    let seen = pod.run("b", &config(fills), b"").stdout_text();
    assert_eq!(seen, "full\n1048576\nbig\nnew\n");
}

fn files_of_a_volume_are_written(pod: &Pod) {
    let mut request = volume("v", &[("a", 0o440, "one"), ("d/e", 0o644, "two")]);
    request.gid = 42;
    make(pod, &request);
    // A later call adds and replaces.
    make(
        pod,
        &volume("v", &[("d/f", 0o400, "three"), ("a", 0o604, "four")]),
    );
    let config =
        Config::script("cd /v; stat -c '%n %a %g' a d d/e d/f; cat a d/e d/f; echo x > new")
            .with_mount(of_volume("v", "/v", &["ro"]));
    let ended = pod.run("a", &config, b"");
    assert_eq!(
        ended.stdout_text(),
        "a 604 0\nd 755 42\nd/e 644 42\nd/f 400 0\nfourtwothree"
    );
    assert!(ended.stderr_text().contains("Read-only"));
    // A single file of it.
    let config = Config::script("cat /etc/hosts").with_mount(of_volume("v/d/e", "/etc/hosts", &[]));
    assert_eq!(pod.run("b", &config, b"").stdout_text(), "two");
}

fn last_words_are_read(pod: &Pod) {
    make(pod, &volume("v", &[("t/a", 0o666, "")]));
    let read = |path: &str, max_bytes: u32| {
        let request = ReadVolumeFileRequest {
            name: "v".into(),
            path: path.into(),
            max_bytes,
            ..Default::default()
        };
        pod.client.read_volume_file(context(), &request)
    };
    let config = Config::script("echo some last words > /dev/termination-log")
        .with_mount(of_volume("v/t/a", "/dev/termination-log", &["rw"]));
    pod.run("a", &config, b"");
    assert_eq!(read("t/a", 4096).unwrap().data, b"some last words\n");
    assert_eq!(read("t/a", 6).unwrap().data, b"words\n");
    assert_eq!(code(read("t/none", 6)), Code::NOT_FOUND);
    assert_eq!(code(read("../v/t/a", 6)), Code::INVALID_ARGUMENT);
    assert_eq!(code(read("t/a", 1 << 20)), Code::INVALID_ARGUMENT);
    // A container that has all of it can put anything there.
    let config = Config::script("rm /v/t/a; ln -s /etc/passwd /v/t/a; mkfifo /v/t/b")
        .with_mount(of_volume("v", "/v", &["rw"]));
    pod.run("b", &config, b"");
    assert_eq!(code(read("t/a", 6)), Code::INTERNAL);
    assert_eq!(code(read("t/b", 6)), Code::INTERNAL);
}

fn a_part_of_a_volume_is_mounted(pod: &Pod) {
    let mut request = volume("v", &[("d/file", 0o644, "inside")]);
    request.mode = 0o1777;
    make(pod, &request);
    let part = |path: &str, script: &str| {
        let option = format!("X-mount.subdir={path}");
        Config::script(script).with_mount(of_volume("v", "/p", &["rw", &option]))
    };
    let seen = pod.run("a", &part("new/er", "touch /p/x; stat -c %a /p"), b"");
    assert_eq!(seen.stdout_text(), "777\n");
    let seen = pod.run("b", &part("d/file", "cat /p"), b"").stdout_text();
    assert_eq!(seen, "inside");
    // Links lead to other parts of it, and nowhere else.
    let whole =
        "cd /p; find . | sort | tr '\\n' ' '; ln -s d/file link; ln -s / out; ln -s ../share up";
    let all = Config::script(whole).with_mount(of_volume("v", "/p", &["rw"]));
    let seen = pod.run("c", &all, b"").stdout_text();
    assert_eq!(seen, ". ./d ./d/file ./new ./new/er ./new/er/x ");
    let seen = pod.run("d", &part("link", "cat /p"), b"").stdout_text();
    assert_eq!(seen, "inside");
    for path in ["out", "out/etc", "up", "up/machine"] {
        let error = pod
            .create("e", &part(path, "true"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("Invalid cross-device link"),
            "{path}: {error}"
        );
    }
    for path in ["", "..", "../x", "/d", "d/../.."] {
        let refused = pod.create("e", &part(path, "true"));
        assert_eq!(code(refused), Code::INVALID_ARGUMENT, "{path}");
    }
}

fn volumes_that_are_refused(pod: &Pod) {
    let refused = |change: &dyn Fn(&mut MakeVolumeRequest)| {
        let mut request = volume("v", &[("a", 0o644, "")]);
        change(&mut request);
        code(pod.client.make_volume(context(), &request))
    };
    let wrong = Code::INVALID_ARGUMENT;
    for name in ["", "..", "a/b", "/a"] {
        assert_eq!(refused(&|v| v.name = name.into()), wrong, "{name}");
    }
    for path in ["", "/a", "../a", "a/../../b", "a/.."] {
        assert_eq!(refused(&|v| v.files[0].path = path.into()), wrong, "{path}");
    }
    assert_eq!(refused(&|v| v.files[0].mode = 0o10000), wrong);
    assert_eq!(refused(&|v| v.mode = 0o10000), wrong);
    assert_eq!(refused(&|v| v.gid = u32::MAX), wrong);
    let none = Config::script("true").with_mount(of_volume("none", "/v", &[]));
    assert!(pod.create("a", &none).is_err());
}

/// As images have /etc/resolv.conf that were made by systemd.
fn a_file_is_mounted_where_a_link_leads_nowhere(pod: &Pod) {
    make(pod, &volume("v", &[("f", 0o644, "found")]));
    let image = pod.volumes().join("image");
    std::fs::create_dir_all(image.join("etc")).unwrap();
    for dir in ["bin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{dir}"), image.join(dir)).unwrap();
    }
    std::os::unix::fs::symlink("../run/resolve/stub", image.join("etc/resolv.conf")).unwrap();
    let mut config = Config::command(&["/usr/bin/sleep", "1000"]);
    config.rootfs = "volumes/image".into();
    let usr = bind("/run/podvmm/share/machine/usr", "/usr", &["ro"]);
    let config = config.with_mount(usr);
    pod.start_quiet(
        "a",
        &config.with_mount(of_volume("v/f", "/etc/resolv.conf", &["ro"])),
    );
    let seen = exec::run_and_forget(pod, "a", "cat /etc/resolv.conf; cat /run/resolve/stub");
    assert_eq!(seen, "foundfound");
}
