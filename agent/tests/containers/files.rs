//! Root file systems, mounts and devices.

use std::fs;

use agent_protocol::proto::rootfs::Mode;
use serde_json::json;

use crate::Case;
use crate::config::Config;
use crate::pod::Pod;

pub const CASES: &[Case] = &[
    (
        "an_overlay_keeps_the_image_as_it_was",
        an_overlay_keeps_the_image_as_it_was,
    ),
    (
        "a_read_only_root_cannot_be_written",
        a_read_only_root_cannot_be_written,
    ),
    (
        "a_configured_read_only_root_cannot_be_written",
        a_configured_read_only_root,
    ),
    (
        "volumes_are_what_they_were_asked_to_be",
        volumes_are_what_they_were_asked_to_be,
    ),
    (
        "devices_are_those_that_programs_expect",
        devices_are_those_that_programs_expect,
    ),
    ("masked_and_read_only_paths", masked_and_read_only_paths),
    ("set_user_id_programs_work", set_user_id_programs_work),
];

fn an_overlay_keeps_the_image_as_it_was(pod: &Pod) {
    let name = format!("/etc/podvmm-test-{}", std::process::id());
    assert_eq!(
        pod.script("w", &format!("echo x > {name}; cat {name}")),
        "x\n"
    );
    assert!(!fs::exists(&name).unwrap());
    assert_eq!(
        pod.script("d", "rm /etc/passwd; ls /etc/passwd 2>&1 | wc -l"),
        "1\n"
    );
    assert!(fs::exists("/etc/passwd").unwrap());
    // Neither does the next container see it.
    assert_eq!(
        pod.script("n", &format!("test -e {name} || echo gone")),
        "gone\n"
    );
}

fn writes_fail(pod: &Pod, config: &Config) {
    let ended = pod.run("ro", config, b"");
    assert_eq!(
        ended.stdout_text(),
        "refused\nshm\n",
        "{}",
        ended.stderr_text()
    );
}

const TRY_WRITE: &str =
    "touch /podvmm-test 2>/dev/null || echo refused; touch /dev/shm/x && echo shm";

fn a_read_only_root_cannot_be_written(pod: &Pod) {
    let mut config = Config::script(TRY_WRITE);
    config.mode = Mode::READ_ONLY;
    writes_fail(pod, &config);
}

fn a_configured_read_only_root(pod: &Pod) {
    let mut config = Config::script(TRY_WRITE);
    config.spec["root"]["readonly"] = json!(true);
    writes_fail(pod, &config);
}

fn volumes_are_what_they_were_asked_to_be(pod: &Pod) {
    fs::create_dir(pod.volumes().join("dir")).unwrap();
    fs::write(pod.volumes().join("file"), "content").unwrap();
    let mount = |target: &str, name: &str, options: &[&str]| {
        let source = format!("/run/podvmm/share/volumes/{name}");
        json!({"destination": target, "type": "bind", "source": source, "options": options})
    };
    let script = "echo new > /made/by/agent/rw; echo rw; cat /etc/motd-test; \
                  touch /ro/x 2>/dev/null || echo ro; echo y > /etc/motd-test 2>/dev/null || echo ro";
    fs::write(pod.volumes().join("rw"), "").unwrap();
    let config = Config::script(script)
        .with_mount(mount("/made/by/agent/rw", "rw", &["bind"]))
        .with_mount(mount("/ro", "dir", &["rbind", "ro", "rprivate"]))
        .with_mount(mount("/etc/motd-test", "file", &["bind", "ro"]));
    let ended = pod.run("v", &config, b"");
    assert_eq!(
        ended.stdout_text(),
        "rw\ncontentro\nro\n",
        "{}",
        ended.stderr_text()
    );
    assert_eq!(
        fs::read_to_string(pod.volumes().join("rw")).unwrap(),
        "new\n"
    );
    assert_eq!(
        fs::read_to_string(pod.volumes().join("file")).unwrap(),
        "content"
    );
}

fn devices_are_those_that_programs_expect(pod: &Pod) {
    let script = "echo x > /dev/null; head -c 3 /dev/zero | od -An -tx1; head -c 4 /dev/urandom | wc -c; \
                  readlink /dev/ptmx /dev/fd /dev/stdin; test -c /dev/tty && test -c /dev/full && echo c; \
                  stat -c %a /dev/null /dev/shm";
    let seen = pod.script("d", script);
    assert_eq!(
        seen.lines().map(str::trim).collect::<Vec<_>>(),
        [
            "00 00 00",
            "4",
            "pts/ptmx",
            "/proc/self/fd",
            "/proc/self/fd/0",
            "c",
            "666",
            "1777"
        ]
    );
    // One that the configuration adds, which is the same as /dev/zero.
    let mut config =
        Config::script("head -c 2 /dev/mine | od -An -tx1; stat -c '%a %u %g' /dev/mine");
    config.spec["linux"]["devices"] = json!([
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4},
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3}
    ]);
    let ended = pod.run("m", &config, b"");
    assert_eq!(
        ended.stdout_text(),
        " 00 00\n640 3 4\n",
        "{}",
        ended.stderr_text()
    );
}

fn masked_and_read_only_paths(pod: &Pod) {
    let script = "cat /proc/cpuinfo | wc -c; cat /proc/keys 2>/dev/null | wc -c; \
                  sh -c 'echo 1 > /proc/sys/vm/drop_caches' 2>/dev/null || echo refused";
    let mut config = Config::script(script);
    config.spec["linux"]["maskedPaths"] = json!(["/proc/cpuinfo", "/proc/keys", "/not/there"]);
    assert_eq!(pod.run("m", &config, b"").stdout_text(), "0\n0\nrefused\n");
    let mut config = Config::script("ls -A /etc | wc -l; touch /etc/x 2>/dev/null || echo refused");
    config.spec["linux"]["maskedPaths"] = json!(["/etc", "/usr/share"]);
    assert_eq!(pod.run("d", &config, b"").stdout_text(), "0\nrefused\n");
}

fn set_user_id_programs_work(pod: &Pod) {
    let script =
        "cp /usr/bin/id /id; chmod 4755 /id; su -s /bin/sh nobody -c '/id -u' 2>&1 || true";
    let mut config = Config::script(script);
    config.spec["process"]["noNewPrivileges"] = json!(false);
    assert_eq!(pod.run("s", &config, b"").stdout_text(), "0\n");
}
