//! One cgroup (v2) per container.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use agent_protocol::names::ContainerId;
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;

use crate::sys::process;

/// Where the guest has its cgroups.
pub(crate) const HIERARCHY: &str = "/sys/fs/cgroup";
/// Parent of the containers' ones.
const PARENT: &str = "podvmm";
/// How deep a container may nest its own cgroups and still have all its processes signalled.
const MAX_DEPTH: usize = 16;
/// Most of a file that is read, in bytes. Only lists of processes and devices can have more.
const MAX_FILE_LEN: u64 = 256 * 1024;
/// A dead process leaves its cgroup a moment after its parent hears of its end.
const REMOVE_ATTEMPTS: u32 = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(1);

/// A container's cgroup.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    directory: OwnedFd,
}

/// Makes the parent cgroup and hands every controller that there is down to it and below it.
pub(crate) fn prepare() -> io::Result<()> {
    let root = Path::new(HIERARCHY);
    let parent = root.join(PARENT);
    create_dir(&parent)?;
    for directory in [root, &parent] {
        let controllers = fs::read_to_string(directory.join("cgroup.controllers"))?;
        for controller in controllers.split_whitespace() {
            // One that cannot be handed down is missed by name as soon as a limit needs it.
            let _ = write(
                directory,
                "cgroup.subtree_control",
                &format!("+{controller}"),
            );
        }
    }
    Ok(())
}

impl Cgroup {
    /// Makes the cgroup of `id` with `limits`, pairs of file and value.
    pub(crate) fn create(id: &ContainerId, limits: &[(String, String)]) -> io::Result<Self> {
        let path = Path::new(HIERARCHY).join(PARENT).join(id.as_str());
        create_dir(&path)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let cgroup = Self {
            directory: rustix::fs::open(&path, flags, Mode::empty())?,
            path,
        };
        for (file, value) in limits {
            if let Err(error) = write(&cgroup.path, file, value) {
                let _ = cgroup.remove();
                return Err(io::Error::new(
                    error.kind(),
                    format!("{file} = {value:?}: {error}"),
                ));
            }
        }
        Ok(cgroup)
    }

    /// A plain directory in a cgroup's place.
    #[cfg(test)]
    pub(super) fn fake(path: &Path) -> Self {
        create_dir(path).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self {
            directory: rustix::fs::open(path, flags, Mode::empty()).unwrap(),
            path: path.to_owned(),
        }
    }

    /// Reads one of its files.
    pub(crate) fn read(&self, file: &str) -> io::Result<String> {
        read(&self.path.join(file))
    }

    /// Opens the cgroup that `pid`, a process of the container, is in now.
    pub(crate) fn of_process(&self, pid: Pid) -> io::Result<OwnedFd> {
        let own = fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero()))?;
        let below = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .and_then(|path| path.strip_prefix(PARENT)?.strip_prefix('/'))
            .and_then(|path| path.split_once('/'))
            .filter(|(id, _)| self.path.ends_with(id));
        let Some((_, below)) = below else {
            return Err(io::Error::other("its cgroup has no place for a process"));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(
            self.path.join(below),
            flags,
            Mode::empty(),
        )?)
    }

    /// Kills every process in it and below it.
    pub(crate) fn kill(&self) -> io::Result<()> {
        write(&self.path, "cgroup.kill", "1")
    }

    /// Sends `signal` to every process in it and below it.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        signal_tree(&self.path, signal, MAX_DEPTH)
    }

    /// Whether the kernel killed one of its processes for want of memory.
    pub(crate) fn had_oom_kill(&self) -> bool {
        self.read("memory.events")
            .is_ok_and(|events| oom_kills(&events) > 0)
    }

    /// Removes it and what the container made below it. Its processes must be gone.
    pub(crate) fn remove(&self) -> io::Result<()> {
        for _ in 1..REMOVE_ATTEMPTS {
            match remove_tree(&self.path, MAX_DEPTH) {
                Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                    thread::sleep(REMOVE_PAUSE)
                }
                result => return result,
            }
        }
        remove_tree(&self.path, MAX_DEPTH)
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

fn create_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// The kernel takes each value in one write and no trailing newline is needed.
fn write(directory: &Path, file: &str, value: &str) -> io::Result<()> {
    let file = rustix::fs::open(
        directory.join(file),
        OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )?;
    rustix::io::write(&file, value.as_bytes())?;
    Ok(())
}

fn read(path: &Path) -> io::Result<String> {
    let mut content = String::new();
    File::open(path)?
        .take(MAX_FILE_LEN)
        .read_to_string(&mut content)?;
    Ok(content)
}

fn subdirectories(path: &Path) -> io::Result<impl Iterator<Item = PathBuf>> {
    let entries = fs::read_dir(path)?.filter_map(Result::ok);
    let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    Ok(entries.filter(is_dir).map(|entry| entry.path()))
}

fn signal_tree(path: &Path, signal: i32, depth: usize) -> io::Result<()> {
    for line in fs::read_to_string(path.join("cgroup.procs"))?.lines() {
        let Some(pid) = line.parse().ok().and_then(Pid::from_raw) else {
            continue;
        };
        match process::kill(pid, signal) {
            // It ended in the meantime.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            result => result?,
        }
    }
    if depth > 0 {
        for child in subdirectories(path)? {
            signal_tree(&child, signal, depth - 1)?;
        }
    }
    Ok(())
}

fn remove_tree(path: &Path, depth: usize) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::ResourceBusy && depth > 0 => {
            for child in subdirectories(path)? {
                remove_tree(&child, depth - 1)?;
            }
            fs::remove_dir(path)
        }
        result => result,
    }
}

fn oom_kills(events: &str) -> u64 {
    events
        .lines()
        .filter_map(|line| line.strip_prefix("oom_kill "))
        .filter_map(|count| count.trim().parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kills_count_as_kills() {
        assert_eq!(
            oom_kills("low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 1\n"),
            2
        );
        assert_eq!(oom_kills("oom_kill x\n"), 0);
    }
}
