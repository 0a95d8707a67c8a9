//! Namespaces for the whole run: whatever is started, mounted or linked in there ends with it.
//!
//! ```text
//!   the test program ─▶ unshare(1) ─▶ the test program as PID 1 ─▶ the test program
//!     waits               waits         collects orphans             runs the cases
//! ```
//!
//! The node's own containerd, its mounts, network and iptables are out of sight. cgroups are not:
//! those of the tests have a name of their own.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};

/// Says to the program which of the three it is.
const LAYER: &str = "PODVMM_CRI_LAYER";

/// Where the run keeps everything; a file system of its own.
pub const BASE: &str = "/run/podvmm-cri";

/// What containerd, shims, runc and CNI have at fixed places.
const HIDDEN: [&str; 5] = [
    BASE,
    "/run/containerd",
    "/run/netns",
    "/run/podvmm",
    "/var/lib/cni",
];

/// What the caller is to do.
pub enum Role {
    /// Run the cases.
    Cases,
    /// End with this status: the cases have been run.
    Done(u8),
}

/// Puts the program into namespaces of its own, by running it again.
///
/// # Errors
///
/// If that is not possible, which without root it is not.
pub fn enter() -> Result<Role> {
    match std::env::var(LAYER).as_deref() {
        Ok("cases") => Ok(Role::Cases),
        Ok("init") => init().map(Role::Done),
        _ => outside().map(Role::Done),
    }
}

fn again(layer: &str) -> Result<Vec<std::ffi::OsString>> {
    let program = std::env::current_exe().context("the path of this program")?;
    let mut words = vec![
        "env".into(),
        format!("{LAYER}={layer}").into(),
        program.into(),
    ];
    words.extend(std::env::args_os().skip(1));
    Ok(words)
}

fn outside() -> Result<u8> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "containerd and its pods need root; run `make cri` as root or with sudo"
    );
    let status = Command::new("unshare")
        .args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
        ])
        .args(again("init")?)
        .status()
        .context("unshare(1) of util-linux cannot be run")?;
    Ok(code(status))
}

fn init() -> Result<u8> {
    for dir in HIDDEN {
        fs::create_dir_all(dir).with_context(|| dir.to_owned())?;
        mount(
            "tmpfs",
            dir,
            "tmpfs",
            MountFlags::empty(),
            Some(c"mode=0755"),
        )
        .with_context(|| format!("a tmpfs on {dir}"))?;
    }
    // As on a node, where systemd has made everything shared: runtimes rely on it.
    mount_change(
        "/",
        MountPropagationFlags::SHARED | MountPropagationFlags::REC,
    )
    .context("making mounts shared")?;
    // The old instance shows the network of outside.
    mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None).context("sysfs")?;
    mount(
        "cgroup2",
        "/sys/fs/cgroup",
        "cgroup2",
        MountFlags::empty(),
        None,
    )
    .context(
        "cgroup2 on /sys/fs/cgroup: hosts with cgroup v1 are not provided for by these tests",
    )?;
    run(Command::new("busybox").args(["ip", "link", "set", "lo", "up"]))?;

    let words = again("cases")?;
    let child = Command::new(&words[0])
        .args(&words[1..])
        .spawn()
        .context("this program again")?;
    let child = Pid::from_child(&child);
    loop {
        // Shims are daemons: when containerd is gone, they are this process's to collect.
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => return Ok(wait_code(status)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => bail!("waiting for the cases: {error}"),
        }
    }
}

/// Runs a command that has to succeed.
///
/// # Errors
///
/// With what it said on standard error.
pub fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| shown.clone())?;
    ensure!(
        output.status.success(),
        "{shown}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim(),
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A directory below [`BASE`].
///
/// # Errors
///
/// If it cannot be made.
pub fn directory(name: &str) -> Result<std::path::PathBuf> {
    let path = Path::new(BASE).join(name);
    fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}

fn code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}

fn wait_code(status: WaitStatus) -> u8 {
    let code = status
        .exit_status()
        .unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}
