//! What a pod may leave on the node: nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::alone::BASE;
use crate::wait;

/// Everything of which a pod makes some, as lines that can be compared, and how often each is there.
pub struct Traces(BTreeMap<String, usize>);

/// Directories of which every entry counts.
const DIRECTORIES: [&str; 13] = [
    "state",
    "root/io.containerd.grpc.v1.cri",
    "root/io.containerd.runtime.v2.task",
    "pods",
    "logs",
    "addresses",
    "/run/containerd",
    "/run/netns",
    "/run/podvmm",
    "/run/podvmm-shim/default",
    "/run/podvmm-shim/k8s.io",
    "/var/lib/cni",
    "/dev/shm",
];

impl Traces {
    /// Looks around.
    #[must_use]
    pub fn now() -> Self {
        let mut found = Self(BTreeMap::new());
        found.processes();
        for line in read("/proc/self/mountinfo").lines() {
            // A mount's number and its parent's say nothing about it.
            let words: Vec<_> = line.split(' ').skip(2).collect();
            found.add(format!("mount {}", words.join(" ")));
        }
        for line in read("/proc/self/net/unix").lines().skip(1) {
            if let Some(path) = line.split_whitespace().nth(7) {
                found.add(format!("socket {path}"));
            }
        }
        for line in read("/proc/self/net/dev").lines().skip(2) {
            let name = line.split(':').next().unwrap_or_default().trim();
            found.add(format!("network interface {name}"));
        }
        found.cgroups(Path::new("/sys/fs/cgroup"));
        for dir in DIRECTORIES {
            found.tree(&Path::new(BASE).join(dir));
        }
        found
    }

    /// Fails, naming what there is more of, if that does not go away by itself soon.
    ///
    /// # Errors
    ///
    /// If there is more than there was.
    pub fn expect_no_more(&self) -> Result<()> {
        let mut more = Vec::new();
        let gone = wait::until(2, "nothing is left behind", || {
            more = self.more_in(&Self::now());
            Ok(more.is_empty().then_some(()))
        });
        ensure!(gone.is_ok(), "left behind:\n  {}", more.join("\n  "));
        Ok(())
    }

    fn more_in(&self, now: &Self) -> Vec<String> {
        now.0
            .iter()
            .filter(|(line, count)| **count > self.0.get(*line).copied().unwrap_or_default())
            .map(|(line, _)| line.clone())
            .collect()
    }

    fn add(&mut self, line: String) {
        *self.0.entry(line).or_default() += 1;
    }

    /// All there are: the tests have a process namespace of their own.
    fn processes(&mut self) {
        for pid in names(Path::new("/proc")) {
            if pid.bytes().all(|byte| byte.is_ascii_digit()) {
                let name = read(&format!("/proc/{pid}/comm"));
                let words = read(&format!("/proc/{pid}/cmdline")).replace('\0', " ");
                if !name.is_empty() {
                    self.add(format!("process {}: {}", name.trim_end(), words.trim_end()));
                }
            }
        }
    }

    /// Those of systemd's are the machine's own.
    fn cgroups(&mut self, dir: &Path) {
        for name in names(dir) {
            let path = dir.join(&name);
            let machines = name.ends_with(".slice") || name.ends_with(".scope");
            if path.is_dir() && !machines {
                self.add(format!("cgroup {}", path.display()));
                self.cgroups(&path);
            }
        }
    }

    fn tree(&mut self, dir: &Path) {
        for name in names(dir) {
            let path = dir.join(&name);
            // The plugins' own marks: the address that was given out last, and a lock.
            if name.starts_with("last_reserved_ip") || name == "lock" {
                continue;
            }
            self.add(format!("file {}", path.display()));
            if path.is_dir() && !path.is_symlink() {
                self.tree(&path);
            }
        }
    }
}

fn read(path: &str) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces(lines: &[&str]) -> Traces {
        let mut traces = Traces(BTreeMap::new());
        for line in lines {
            traces.add((*line).to_owned());
        }
        traces
    }

    #[test]
    fn what_is_new_or_there_more_often_is_named() {
        let before = traces(&["process shim", "mount a", "socket s"]);
        let now = traces(&["process shim", "process shim", "mount a", "cgroup c"]);
        assert_eq!(before.more_in(&now), ["cgroup c", "process shim"]);
        assert!(now.more_in(&traces(&["mount a"])).is_empty());
    }
}
