//! The agent's side: this program again, in namespaces of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use agent_protocol::SHARE_PATH;
use podvmm_agent::{Transport, serve};

use crate::config::ROOTFS;
use crate::pod::PATIENCE;

/// First argument of this program when it is to be the agent.
pub const AGENT_MODE: &str = "--as-agent";

/// Becomes the agent: `unshare` has made this PID 1 of new namespaces.
pub fn run(directory: &Path) -> ExitCode {
    let share = Path::new(SHARE_PATH);
    let image = share.join(ROOTFS);
    let volumes = share.join("volumes");
    let mount = |arguments: &[&str]| {
        assert!(
            Command::new("mount")
                .args(arguments)
                .status()
                .unwrap()
                .success(),
            "{arguments:?}"
        );
    };
    mount(&["-t", "tmpfs", "none", "/run"]);
    for path in [&image, &volumes, &PathBuf::from("/run/podvmm/stage")] {
        fs::create_dir_all(path).unwrap();
    }
    mount(&["--bind", "/", image.to_str().unwrap()]);
    let source = directory.join("volumes");
    mount(&[
        "--bind",
        source.to_str().unwrap(),
        volumes.to_str().unwrap(),
    ]);
    // The same file system cannot be mounted on itself; it is this namespace's mount only that goes.
    let _ = Command::new("umount")
        .args(["-lq", "/sys/fs/cgroup"])
        .status();
    mount(&["-t", "cgroup2", "none", "/sys/fs/cgroup"]);
    match serve(Transport::Unix(directory.to_owned()), leave_top_cgroup) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agent failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// In a guest the agent is in the root cgroup, which may have processes and controllers at once. Here it
/// leaves the top of its hierarchy, and waits for the test to move whoever else is there.
fn leave_top_cgroup() -> std::io::Result<()> {
    let top = Path::new("/sys/fs/cgroup");
    fs::create_dir(top.join("agent"))?;
    fs::write(top.join("agent/cgroup.procs"), "0")?;
    let deadline = Instant::now() + PATIENCE;
    while !fs::read_to_string(top.join("cgroup.procs"))?.is_empty() {
        assert!(
            Instant::now() < deadline,
            "somebody stays in the pod's cgroup"
        );
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
