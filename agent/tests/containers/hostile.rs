//! Images, volumes and commands that want out. Numbers are those of the project's list of attack cases.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use agent_protocol::proto::rootfs::Mode;
use serde_json::json;
use ttrpc::Code;

use crate::Case;
use crate::config::Config;
use crate::pod::{Pod, code};

pub const CASES: &[Case] = &[
    (
        "case_14_a_made_device_node_cannot_be_opened",
        case_14_a_made_device_node_cannot_be_opened,
    ),
    (
        "case_17_proc_as_a_link_is_refused",
        case_17_proc_as_a_link_is_refused,
    ),
    (
        "case_17_mount_targets_stay_inside",
        case_17_mount_targets_stay_inside,
    ),
    (
        "case_17_working_directories_stay_inside",
        case_17_working_directories_stay_inside,
    ),
    (
        "case_17_a_faked_cap_last_cap_is_not_asked",
        case_17_a_faked_cap_last_cap_is_not_asked,
    ),
    (
        "case_18_a_volume_that_is_a_link_is_refused",
        case_18_a_volume_that_is_a_link_is_refused,
    ),
    (
        "what_is_not_supported_is_refused",
        what_is_not_supported_is_refused,
    ),
    (
        "a_passwd_that_blocks_is_not_read",
        a_passwd_that_blocks_is_not_read,
    ),
];

/// A root directory of a few links into the machine's, for images that are not as they should be.
fn image(pod: &Pod, name: &str) -> PathBuf {
    let root = pod.volumes().join(name);
    for directory in ["proc", "dev", "sys", "etc", "tmp"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("sh"))
        .map(drop)
        .unwrap_or_default();
    root
}

/// A configuration whose root directory is `name`, with the machine's programs in /usr.
fn in_image(name: &str, script: &str) -> Config {
    let mut config = Config::script(script);
    config.rootfs = format!("volumes/{name}");
    config.mode = Mode::READ_WRITE;
    for directory in ["usr", "bin", "lib", "lib64"] {
        let source = format!("/run/podvmm/share/machine/{directory}");
        // On a merged /usr the others are links, which a source may not be.
        if !fs::symlink_metadata(format!("/{directory}")).is_ok_and(|found| found.is_symlink()) {
            config = config.with_mount(
                json!({"destination": format!("/{directory}"), "type": "bind",
                                              "source": source, "options": ["rbind", "ro"]}),
            );
        }
    }
    config
}

/// Links of a merged /usr.
fn link_usr(root: &std::path::Path) {
    for directory in ["bin", "lib", "lib64", "sbin"] {
        if fs::symlink_metadata(format!("/{directory}")).is_ok_and(|found| found.is_symlink()) {
            symlink(format!("usr/{directory}"), root.join(directory)).unwrap();
        }
    }
}

fn case_14_a_made_device_node_cannot_be_opened(pod: &Pod) {
    let script = "for d in / /tmp /dev /dev/shm; do mknod $d/zero-test c 1 5 && \
                  head -c 1 $d/zero-test >/dev/null 2>&1 && echo opened in $d; rm -f $d/zero-test; done; echo done";
    assert_eq!(pod.script("m", script), "done\n");
}

fn case_17_proc_as_a_link_is_refused(pod: &Pod) {
    let root = image(pod, "img");
    fs::remove_dir(root.join("proc")).unwrap();
    symlink("/tmp", root.join("proc")).unwrap();
    assert_eq!(
        code(pod.create("c", &in_image("img", "true"))),
        Code::INTERNAL
    );
}

fn case_17_mount_targets_stay_inside(pod: &Pod) {
    let root = image(pod, "img");
    link_usr(&root);
    let outside = pod.volumes().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(pod.volumes().join("payload"), "payload").unwrap();
    // Both an absolute link and one that climbs end inside of the image.
    symlink(outside.to_str().unwrap(), root.join("absolute")).unwrap();
    symlink("../../../../outside", root.join("climbing")).unwrap();
    fs::create_dir(root.join("outside")).unwrap();
    let bind = |target: &str| {
        json!({"destination": target, "type": "bind", "options": ["bind"],
               "source": "/run/podvmm/share/volumes/payload"})
    };
    let config =
        in_image("img", "cat /climbing/file /outside/file").with_mount(bind("/climbing/file"));
    let ended = pod.run("c", &config, b"");
    assert_eq!(
        ended.stdout_text(),
        "payloadpayload",
        "{}",
        ended.stderr_text()
    );
    let _ = pod.create(
        "d",
        &in_image("img", "true").with_mount(bind("/absolute/file")),
    );
    assert_eq!(
        fs::read_dir(&outside).unwrap().count(),
        0,
        "something was made outside"
    );
}

fn case_17_working_directories_stay_inside(pod: &Pod) {
    let root = image(pod, "img");
    link_usr(&root);
    symlink("/../../..", root.join("up")).unwrap();
    for cwd in [
        "/proc/self/fd/3",
        "/proc/self/fd/4",
        "/proc/1/fd/3",
        "/proc/1/cwd/..",
        "/proc/1/root/..",
    ] {
        let mut config = in_image("img", "pwd -P; ls -d /up/volumes 2>/dev/null");
        config.spec["process"]["cwd"] = json!(cwd);
        assert!(pod.create("c", &config).is_err(), "{cwd} was taken");
    }
    let mut config = in_image("img", "pwd -P; ls -d volumes machine 2>/dev/null; echo end");
    config.spec["process"]["cwd"] = json!("/up");
    assert_eq!(pod.run("up", &config, b"").stdout_text(), "/\nend\n");
}

fn case_17_a_faked_cap_last_cap_is_not_asked(pod: &Pod) {
    let root = image(pod, "img");
    link_usr(&root);
    fs::create_dir_all(pod.volumes().join("fake/kernel")).unwrap();
    fs::write(pod.volumes().join("fake/kernel/cap_last_cap"), "0\n").unwrap();
    let fake = json!({"destination": "/proc/sys", "type": "bind", "options": ["rbind"],
                      "source": "/run/podvmm/share/volumes/fake"});
    let mut config = in_image(
        "img",
        "cat /proc/sys/kernel/cap_last_cap; grep CapBnd /proc/self/status",
    )
    .with_mount(fake);
    config.spec["process"]["capabilities"] = json!({"bounding": ["CAP_KILL"]});
    let ended = pod.run("c", &config, b"");
    assert_eq!(
        ended.stdout_text(),
        "0\nCapBnd:\t0000000000000020\n",
        "{}",
        ended.stderr_text()
    );
}

fn case_18_a_volume_that_is_a_link_is_refused(pod: &Pod) {
    symlink("/", pod.volumes().join("link")).unwrap();
    fs::create_dir(pod.volumes().join("dir")).unwrap();
    symlink("../../../../..", pod.volumes().join("dir/up")).unwrap();
    for source in ["link", "link/etc", "dir/up", "dir/up/etc"] {
        let config = Config::script("true").with_mount(json!({
            "destination": "/mnt", "type": "bind", "options": ["rbind"],
            "source": format!("/run/podvmm/share/volumes/{source}")}));
        assert_eq!(code(pod.create("c", &config)), Code::INTERNAL, "{source}");
    }
    let mut config = Config::script("true");
    config.rootfs = "volumes/link".to_owned();
    assert_eq!(code(pod.create("c", &config)), Code::INTERNAL);
}

fn what_is_not_supported_is_refused(pod: &Pod) {
    let mut config = Config::script("true");
    config.spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    assert_eq!(code(pod.create("c", &config)), Code::UNIMPLEMENTED);
    let mut config = Config::script("true");
    config.spec["process"]["cwd"] = json!("relative");
    assert_eq!(code(pod.create("c", &config)), Code::INVALID_ARGUMENT);
    assert!(pod.container_cgroups().is_empty());
}

fn a_passwd_that_blocks_is_not_read(pod: &Pod) {
    let root = image(pod, "img");
    link_usr(&root);
    assert!(
        std::process::Command::new("mkfifo")
            .arg(root.join("etc/passwd"))
            .status()
            .unwrap()
            .success()
    );
    let ended = pod.run("c", &in_image("img", "echo $HOME"), b"");
    assert_eq!(ended.stdout_text(), "/\n", "{}", ended.stderr_text());
}
