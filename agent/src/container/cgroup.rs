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

use super::EventFile;
use crate::sys::process;

/// Where the guest has its cgroups.
pub(crate) const HIERARCHY: &str = "/sys/fs/cgroup";
/// Parent of the containers' ones.
const PARENT: &str = "podvmm";
/// How deep a container may nest cgroups of its own, and how many it may have: the agent visits them all.
const MAX_DEPTH: usize = 16;
const MAX_DESCENDANTS: usize = 2048;
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
        let bounds = [
            ("cgroup.max.depth".to_owned(), MAX_DEPTH.to_string()),
            (
                "cgroup.max.descendants".to_owned(),
                MAX_DESCENDANTS.to_string(),
            ),
        ];
        let limited = cgroup.set_limits(&bounds);
        if let Err(error) = limited.and_then(|()| cgroup.set_limits(limits)) {
            let _ = cgroup.remove();
            return Err(error);
        }
        Ok(cgroup)
    }

    /// Sets limits. None is set if any of the files is missing.
    pub(crate) fn set_limits(&self, limits: &[(String, String)]) -> io::Result<()> {
        let named = |file: &str, value: &str, error: io::Error| {
            io::Error::new(error.kind(), format!("{file} = {value:?}: {error}"))
        };
        let mut files = Vec::with_capacity(limits.len());
        for (file, value) in limits {
            let opened = open(&self.path, file).map_err(|error| named(file, value, error))?;
            files.push(opened);
        }
        for ((file, value), opened) in limits.iter().zip(files) {
            rustix::io::write(opened, value.as_bytes())
                .map_err(|error| named(file, value, error.into()))?;
        }
        Ok(())
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
        visit_tree(&self.path, MAX_DEPTH, &mut |pid| {
            match process::kill(pid, signal) {
                // It ended in the meantime.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(true),
                result => result.map(|()| true),
            }
        })
        .map(drop)
    }

    /// The processes in it and below it, at most `limit`; false if there are more.
    pub(crate) fn processes(&self, limit: usize) -> io::Result<(Vec<Pid>, bool)> {
        let mut found = Vec::new();
        let all = visit_tree(&self.path, MAX_DEPTH, &mut |pid| {
            let has_room = found.len() < limit;
            if has_room {
                found.push(pid);
            }
            Ok(has_room)
        })?;
        Ok((found, all))
    }

    /// Opens a file of it to hear of changes.
    pub(super) fn events(&self, file: &str) -> io::Result<EventFile> {
        File::open(self.path.join(file)).map(EventFile::new)
    }

    /// Has its processes stand still, or go on.
    pub(super) fn set_frozen(&self, frozen: bool) -> io::Result<()> {
        write(&self.path, "cgroup.freeze", if frozen { "1" } else { "0" })
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
    rustix::io::write(open(directory, file)?, value.as_bytes())?;
    Ok(())
}

fn open(directory: &Path, file: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        directory.join(file),
        OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )?)
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

/// Visits the processes of a cgroup and of those below it, until `visit` says false.
fn visit_tree(
    path: &Path,
    depth: usize,
    visit: &mut impl FnMut(Pid) -> io::Result<bool>,
) -> io::Result<bool> {
    for line in read(&path.join("cgroup.procs"))?.lines() {
        // Processes of a pid namespace that the guest's does not contain would be 0; there are none.
        if let Some(pid) = line.parse().ok().and_then(Pid::from_raw)
            && !visit(pid)?
        {
            return Ok(false);
        }
    }
    if depth > 0 {
        for child in subdirectories(path)? {
            if !visit_tree(&child, depth - 1, visit)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
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
