//! Machines without a KVM that podvmm could use.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::harness::{Bench, Run, guest_dir, podvmm};
use crate::rootfs::{self, TempDir};

/// Runs a pod in a mount namespace whose `/dev` this script prepares in `$DEV`.
pub fn with_dev(prepare: &str) -> Run {
    let script = format!(
        r#"set -e
        DEV=$1; shift
        mount -t tmpfs tmpfs "$DEV"
        for node in null zero full random urandom tty net; do
          [ ! -e /dev/$node ] || if [ -d /dev/$node ]; then
            mkdir "$DEV/$node"; mount --rbind /dev/$node "$DEV/$node"
          else touch "$DEV/$node"; mount --bind /dev/$node "$DEV/$node"; fi
        done
        {prepare}
        mount --rbind "$DEV" /dev
        exec "$@""#
    );
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--propagation",
        "private",
        "--",
        "bash",
        "-c",
        &script,
        "bash",
    ]);
    Run::new(command)
}

fn run_in(mut run: Run, dir: &TempDir) -> Run {
    fs::create_dir_all(dir.join("dev")).unwrap();
    run.command
        .arg(dir.join("dev"))
        .arg(podvmm())
        .args(["run", "--rootfs"]);
    run.command.arg(rootfs::shared()).args(["--", "true"]);
    run.env("PODVMM_GUEST_DIR", guest_dir())
}

#[test]
fn no_device() {
    let (_bench, dir) = (Bench::new(), TempDir::new());
    run_in(with_dev(":"), &dir)
        .outcome()
        .failed(125, &["/dev/kvm", "does not exist", "mknod", "kvm.device"]);
}

#[test]
fn a_file_that_is_no_device() {
    let (_bench, dir) = (Bench::new(), TempDir::new());
    run_in(with_dev("touch $DEV/kvm"), &dir)
        .outcome()
        .failed(125, &["/dev/kvm", "something else", "mknod", "kvm.api"]);
}

#[test]
fn another_device() {
    let (_bench, dir) = (Bench::new(), TempDir::new());
    run_in(with_dev("cp -a /dev/null $DEV/kvm"), &dir)
        .outcome()
        .failed(125, &["/dev/kvm", "something else", "mknod", "kvm.api"]);
}

#[test]
fn a_device_without_a_driver() {
    let (_bench, dir) = (Bench::new(), TempDir::new());
    let run = with_dev("mknod -m 666 $DEV/kvm c 10 77");
    run_in(run, &dir)
        .outcome()
        .failed(125, &["/dev/kvm", "10:77", "kvm_intel", "kvm_amd"]);
}

#[test]
fn no_permission() {
    let (_bench, dir) = (Bench::new(), TempDir::new());
    // The checkout may be where only its owner can go.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = |from: &Path, name: &str| {
        let path = dir.join(name);
        fs::copy(from, &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let program = copy(&podvmm(), "podvmm");
    copy(&podvmm().with_file_name("podvmm-vmm"), "podvmm-vmm");
    copy(&guest_dir().join("vmlinux"), "vmlinux");
    copy(&guest_dir().join("initramfs"), "initramfs");
    let state = dir.join("state");
    fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(65534), Some(65534)).unwrap();
    fs::create_dir(dir.join("dev")).unwrap();
    let mut run = with_dev("mknod -m 600 $DEV/kvm c 10 232; chmod 755 $DEV");
    run.command
        .arg(dir.join("dev"))
        .args([
            "setpriv",
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
        ])
        .arg(program)
        .args([
            "run".as_ref(),
            "--root".as_ref(),
            state.as_os_str(),
            "--rootfs".as_ref(),
        ])
        .arg(rootfs::shared())
        .args(["--", "true"])
        .env("PODVMM_GUEST_DIR", dir.path());
    run.outcome()
        .failed(125, &["/dev/kvm", "permission denied", "group", "chgrp"]);
}

#[test]
#[ignore = "needs a KVM that emulates kernel mode; `make test` runs it on machines that have one"]
fn slow_kvm() {
    let bench = Bench::without_kvm();
    let words = [
        "/dev/kvm",
        "KVM is present but emulates kernel mode",
        "CPL 0",
        "nested virtualization",
        "probe.speed",
    ];
    bench.sh("true").outcome().failed(125, &words);
}
