//! The pod's cgroup on the host: what the pod costs is counted and limited there.
//!
//! The shim moves into the cgroup that the configuration names before it starts the VM, so that
//! everything of the pod is in it from its first page on. That is where other runtimes have the
//! pause process: the kubelet's limits are on the cgroup above.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Where cgroups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";
/// Controllers that count and limit what a pod uses.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];
const POLL_INTERVAL: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// How long what is in a pod's cgroup may take to end before the cgroup is left to the kubelet.
pub const IN_THE_END: Duration = Duration::from_secs(600);

/// A cgroup of this process, in each hierarchy there is.
#[derive(Debug)]
pub struct Cgroup {
    dirs: Vec<PathBuf>,
    /// Where this process came from, with cgroup v2: containerd's.
    origin: Option<PathBuf>,
}

impl Cgroup {
    /// Moves this process into the cgroup that `linux.cgroupsPath` names.
    pub fn enter(cgroups_path: &str) -> anyhow::Result<Self> {
        let path = relative(cgroups_path)?;
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut cgroup = Self {
            dirs: Vec::new(),
            origin: unified(&own).map(|path| Path::new(MOUNT).join(path)),
        };
        for hierarchy in hierarchies(Path::new(MOUNT)).context("/sys/fs/cgroup")? {
            let dir = hierarchy.join(&path);
            make(&hierarchy, &path).with_context(|| format!("cgroup {}", dir.display()))?;
            cgroup.dirs.push(dir.clone());
            let procs = dir.join("cgroup.procs");
            fs::write(&procs, std::process::id().to_string())
                .with_context(|| format!("cgroup: {}", procs.display()))?;
        }
        Ok(cgroup)
    }

    /// Moves this process out of it: to the root, or, where that is a cgroup namespace's and takes no
    /// process, back to where it came from.
    pub fn step_out(&self) {
        let this = std::process::id().to_string();
        for hierarchy in hierarchies(Path::new(MOUNT)).unwrap_or_default() {
            let moved = fs::write(hierarchy.join("cgroup.procs"), &this);
            if let (Err(error), Some(origin)) = (moved, &self.origin)
                && let Err(second) = fs::write(origin.join("cgroup.procs"), &this)
            {
                log::warn!("the shim stays in the pod's cgroup: {error}; {second}");
            }
        }
    }

    /// Leaves it and removes it, once nobody else is in it any more; `false` if that takes longer than
    /// `patience`.
    pub fn leave(&self, patience: Duration) -> bool {
        self.step_out();
        remove_all(&self.dirs, patience)
    }
}

/// The path of cgroup v2 in a `/proc/PID/cgroup`, without the slash in front.
fn unified(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::/"))
}

/// Removes the cgroup that `linux.cgroupsPath` names, once nobody is in it any more; `false` if that
/// takes longer than `patience`. A shim that was killed is followed by its VMM, which may take a moment.
pub fn remove_empty(cgroups_path: &str, patience: Duration) -> bool {
    let (Ok(path), Ok(all)) = (relative(cgroups_path), hierarchies(Path::new(MOUNT))) else {
        return true;
    };
    let dirs: Vec<_> = all.iter().map(|hierarchy| hierarchy.join(&path)).collect();
    remove_all(&dirs, patience)
}

fn remove_all(dirs: &[PathBuf], patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    for dir in dirs {
        let mut pause = POLL_INTERVAL;
        while let Err(error) = fs::remove_dir(dir)
            && error.kind() == io::ErrorKind::ResourceBusy
        {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
    true
}

/// The path below a hierarchy: a path as it is, or the unit of a slice as systemd has it
/// (`slice:prefix:name`).
fn relative(cgroups_path: &str) -> anyhow::Result<PathBuf> {
    let path = match cgroups_path.split(':').collect::<Vec<_>>()[..] {
        [slice, prefix, name] if slice.ends_with(".slice") => {
            let mut path = PathBuf::new();
            let parts: Vec<_> = slice.trim_end_matches(".slice").split('-').collect();
            for depth in 1..=parts.len() {
                path.push(format!("{}.slice", parts[..depth].join("-")));
            }
            path.join(format!("{prefix}-{name}.scope"))
        }
        _ => PathBuf::from(cgroups_path.trim_start_matches('/')),
    };
    let plain = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if !plain || path.as_os_str().is_empty() {
        bail!("config.json: linux.cgroupsPath {cgroups_path:?} is no path below {MOUNT}");
    }
    Ok(path)
}

/// Roots of all hierarchies: one with cgroup v2, one for each group of controllers with v1.
fn hierarchies(mount: &Path) -> io::Result<Vec<PathBuf>> {
    if mount.join("cgroup.controllers").exists() {
        return Ok(vec![mount.to_owned()]);
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(mount)? {
        let entry = entry?;
        // Links are other names of the same hierarchy.
        if entry.file_type()?.is_dir() && entry.path().join("cgroup.procs").exists() {
            all.push(entry.path());
        }
    }
    Ok(all)
}

fn make(hierarchy: &Path, path: &Path) -> io::Result<()> {
    let mut dir = hierarchy.to_owned();
    for component in path.components() {
        // What is above has its controllers passed on already where the kubelet made it.
        for controller in CONTROLLERS {
            let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        dir.push(component);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => inherit_cpuset(&dir)?,
        }
    }
    Ok(())
}

/// In a cpuset hierarchy of cgroup v1 nobody may enter before these are set.
fn inherit_cpuset(dir: &Path) -> io::Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let (own, above) = (dir.join(name), dir.parent().map(|above| above.join(name)));
        let is_v1 = !dir.join("cgroup.controllers").exists() && own.exists();
        if let Some(above) = above.filter(|_| is_v1)
            && fs::read_to_string(&own)?.trim().is_empty()
        {
            fs::write(&own, fs::read_to_string(above)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_process_is_comes_from_its_line_of_version_2() {
        assert_eq!(
            unified("0::/system.slice/c.service\n"),
            Some("system.slice/c.service")
        );
        assert_eq!(unified("3:cpu:/a\n0::/\n"), Some(""));
        assert_eq!(unified("3:cpu:/a\n"), None);
    }

    #[test]
    fn both_ways_of_naming_a_cgroup() {
        for (named, path) in [
            (
                "/kubepods/besteffort/pod1/abc",
                "kubepods/besteffort/pod1/abc",
            ),
            ("default/one", "default/one"),
            (
                "kubepods-besteffort-pod1.slice:cri-containerd:abc",
                "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cri-containerd-abc.scope",
            ),
        ] {
            assert_eq!(relative(named).unwrap(), Path::new(path));
        }
    }

    #[test]
    fn a_cgroup_cannot_be_elsewhere() {
        for named in ["", "/", "../x", "/a/../../b", "x/./../y"] {
            assert!(relative(named).is_err(), "{named}");
        }
    }
}
