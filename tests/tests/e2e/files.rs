//! The container's root and its volumes, seen from both sides.

use std::fs;

use crate::harness::{Bench, file};
use crate::rootfs::{self, TempDir, fingerprint};

#[test]
fn the_hosts_own_root_can_be_used_and_is_not_changed() {
    let release = fs::read_to_string("/etc/os-release").unwrap();
    let bench = Bench::new();
    bench
        .run(["--rootfs", "/", "--", "cat", "/etc/os-release"])
        .outcome()
        .prints(&release);
    let before = fs::metadata("/etc/os-release").unwrap();
    let script = "echo x >>/etc/os-release && touch /e2e-new && rm /etc/passwd && echo written";
    bench
        .run(["--rootfs", "/", "--", "sh", "-c", script])
        .outcome()
        .prints("written\n");
    assert_eq!(fs::metadata("/etc/os-release").unwrap().len(), before.len());
    assert!(fs::metadata("/e2e-new").is_err());
    assert!(fs::metadata("/etc/passwd").is_ok());
}

#[test]
fn a_root_is_writable_inside_and_untouched_outside() {
    let root = rootfs::busybox();
    let before = fingerprint(root.path());
    let script = "
        echo new >/new && echo more >>/etc/passwd && rm /etc/group && mkdir /dir && touch /dir/x &&
        chmod 700 /home && chown 5:5 /var && ln -s x /link && mv /bin/sleep /bin/slept &&
        cat /new && tail -n 1 /etc/passwd";
    Bench::new()
        .run([
            "--rootfs".as_ref(),
            root.path().as_os_str(),
            "sh".as_ref(),
            "-c".as_ref(),
            script.as_ref(),
        ])
        .outcome()
        .prints("new\nmore\n");
    assert_eq!(fingerprint(root.path()), before);
}

#[test]
fn a_root_changes_where_that_is_asked_for() {
    let root = rootfs::busybox();
    let bench = Bench::new();
    let mut run = bench.run(["--rootfs-rw", "--rootfs"]);
    let script = "echo new >/new && rm /etc/group && mkdir /home/dir && chmod 750 /home/dir && \
                  ln /new /hard && ln -s new /soft && mv /tmp /moved && sync";
    run.command
        .arg(root.path())
        .args(["--", "sh", "-c", script]);
    run.outcome().prints("");
    assert_eq!(fs::read_to_string(root.join("new")).unwrap(), "new\n");
    assert_eq!(fs::read_to_string(root.join("hard")).unwrap(), "new\n");
    assert_eq!(
        fs::read_link(root.join("soft")).unwrap().to_str(),
        Some("new")
    );
    assert!(!root.join("etc/group").exists() && !root.join("tmp").exists());
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(root.join("home/dir"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o750);
}

#[test]
fn a_second_pod_sees_nothing_of_the_first() {
    let bench = Bench::new();
    bench
        .sh("echo secret >/tmp/secret; echo secret >/secret")
        .outcome()
        .prints("");
    bench
        .sh("ls /tmp/secret /secret 2>/dev/null | wc -l")
        .outcome()
        .prints("0\n");
}

fn volume(source: &TempDir, rest: &str) -> String {
    format!("{}:{rest}", source.path().display())
}

#[test]
fn a_volume_is_read_and_written_through() {
    let dir = TempDir::new();
    file(dir.path(), "from-host", b"host\n");
    let script = "cat /mnt/v/from-host && echo guest >/mnt/v/from-guest && rm /mnt/v/from-host";
    let bench = Bench::new();
    bench
        .sh_with(["--volume", &volume(&dir, "/mnt/v")], script)
        .outcome()
        .prints("host\n");
    assert_eq!(
        fs::read_to_string(dir.join("from-guest")).unwrap(),
        "guest\n"
    );
    assert!(!dir.join("from-host").exists());
}

#[test]
fn a_read_only_volume_cannot_be_changed_even_by_its_root() {
    let dir = TempDir::new();
    file(dir.path(), "file", b"host\n");
    let before = fingerprint(dir.path());
    let script = "
        cat /v/file
        (echo x >/v/file) 2>/dev/null && echo overwritten
        touch /v/new 2>/dev/null && echo created
        rm -f /v/file 2>/dev/null && echo removed
        chmod 777 /v/file 2>/dev/null && echo changed
        mount -o remount,rw /v 2>/dev/null && (echo x >/v/file) 2>/dev/null && echo remounted
        true";
    let bench = Bench::new();
    bench
        .sh_with(["--volume", &volume(&dir, "/v:ro")], script)
        .outcome()
        .prints("host\n");
    assert_eq!(fingerprint(dir.path()), before);
}

#[test]
fn several_volumes_one_inside_the_other() {
    let (outer, inner) = (TempDir::new(), TempDir::new());
    file(outer.path(), "a", b"outer ");
    fs::create_dir(outer.join("in")).unwrap();
    file(inner.path(), "b", b"inner\n");
    let bench = Bench::new();
    let (outer, inner) = (volume(&outer, "/v"), volume(&inner, "/v/in:ro"));
    bench
        .sh_with(["--volume", &outer, "--volume", &inner], "cat /v/a /v/in/b")
        .outcome()
        .prints("outer inner\n");
}

#[test]
fn a_volume_can_be_one_file() {
    let dir = TempDir::new();
    let path = file(dir.path(), "file", b"only this\n");
    file(dir.path(), "other", b"not this\n");
    let option = format!("{}:/etc/motd:ro", path.display());
    let script = "cat /etc/motd; ls /etc/other 2>/dev/null";
    Bench::new()
        .sh_with(["--volume", &option], &format!("{script}; true"))
        .outcome()
        .prints("only this\n");
}

#[test]
fn a_tree_of_10_000_files_can_be_walked() {
    let dir = TempDir::new();
    for branch in 0..100 {
        let branch = dir.join(&format!("{branch}"));
        fs::create_dir(&branch).unwrap();
        for leaf in 0..100 {
            fs::write(branch.join(format!("{leaf}")), leaf.to_string()).unwrap();
        }
    }
    let script = "find /v -type f | wc -l; cat /v/*/99 | wc -c; cat /v/37/*|wc -c";
    let bench = Bench::new();
    let digits = 10 + 90 * 2;
    bench
        .sh_with(["--volume", &volume(&dir, "/v:ro")], script)
        .within(60)
        .outcome()
        .prints(&format!("10000\n200\n{digits}\n"));
}

#[test]
fn a_large_file_is_read_whole() {
    let dir = TempDir::new();
    let bytes: Vec<u8> = (0..32_u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    file(dir.path(), "file", &bytes);
    let host = std::process::Command::new("md5sum")
        .arg(dir.join("file"))
        .output()
        .unwrap();
    let sum = String::from_utf8(host.stdout).unwrap();
    let sum = sum.split(' ').next().unwrap();
    let script = "md5sum /v/file | cut -d' ' -f1; cp /v/file /v/copy && cmp /v/file /v/copy";
    let bench = Bench::new();
    bench
        .sh_with(["--volume", &volume(&dir, "/v")], script)
        .within(60)
        .outcome()
        .prints(&format!("{sum}\n"));
    assert!(fs::read(dir.join("copy")).unwrap() == bytes);
}

#[test]
fn links_out_of_a_volume_lead_into_the_container() {
    let dir = TempDir::new();
    std::os::unix::fs::symlink("/etc/passwd", dir.join("absolute")).unwrap();
    std::os::unix::fs::symlink("../../../../etc/passwd", dir.join("relative")).unwrap();
    let script = "cat /v/absolute | wc -l; cat /v/relative | wc -l; ls -a /v/.. | grep -c '^bin$'";
    let bench = Bench::new();
    // The container's passwd has two lines; the host's has more.
    bench
        .sh_with(["--volume", &volume(&dir, "/v")], script)
        .outcome()
        .prints("2\n2\n1\n");
}
