//! What a pod may leave on the host: nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Processes told to die may take this long to be gone; nothing else is forgiven.
const GRACE: Duration = Duration::from_secs(1);

/// Everything of which a pod makes one, as lines that can be compared.
pub struct Traces(BTreeSet<String>);

impl Traces {
    pub fn now() -> Self {
        let mut lines = BTreeSet::new();
        processes(&mut lines);
        for line in read("/proc/self/mountinfo").lines() {
            // Mount ids may differ between two readings; the rest may not.
            let stable: Vec<_> = line.split(' ').skip(2).collect();
            // Mounted once and for all by `ip netns`, for tests of networks.
            if stable.get(2) == Some(&"/run/netns") {
                continue;
            }
            lines.insert(format!("mount {}", stable.join(" ")));
        }
        for line in read("/proc/net/unix").lines() {
            if let Some(path) = line.split_whitespace().nth(7).filter(|path| ours(path)) {
                lines.insert(format!("socket {path}"));
            }
        }
        tree(Path::new("/run/podvmm"), "runtime", &mut lines);
        tree(Path::new("/var/lib/podvmm/pods"), "volume", &mut lines);
        for (dir, kind) in [
            ("/tmp", "temporary"),
            ("/run", "runtime"),
            ("/dev/shm", "shared"),
        ] {
            for name in names(Path::new(dir)).into_iter().filter(|name| ours(name)) {
                // The tests' own directories carry their own name.
                if !name.starts_with("e2e-") && name != "podvmm" {
                    lines.insert(format!("{kind} {dir}/{name}"));
                }
            }
        }
        cgroups(Path::new("/sys/fs/cgroup"), 0, &mut lines);
        for link in names(Path::new("/sys/class/net")) {
            lines.insert(format!("network interface {link}"));
        }
        Self(lines)
    }

    /// Fails if there is more now than there was.
    pub fn expect_no_more(&self) {
        let until = Instant::now() + GRACE;
        loop {
            let now = Self::now();
            let more: Vec<_> = now.0.difference(&self.0).collect();
            if more.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "left behind: {more:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn ours(name: &str) -> bool {
    name.contains("podvmm") || name.contains("/pod-") || name.starts_with("pod-")
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

fn processes(lines: &mut BTreeSet<String>) {
    for pid in names(Path::new("/proc")) {
        if pid.bytes().all(|byte| byte.is_ascii_digit()) {
            let name = read(&format!("/proc/{pid}/comm"));
            let program = read(&format!("/proc/{pid}/cmdline"));
            let program = program.split('\0').next().unwrap_or_default();
            let last = program.rsplit('/').next().unwrap_or_default();
            if name.starts_with("podvmm") || last.starts_with("podvmm") {
                lines.insert(format!("process {pid} {}", name.trim_end()));
            }
        }
    }
}

fn tree(dir: &Path, kind: &str, lines: &mut BTreeSet<String>) {
    for name in names(dir) {
        let path = dir.join(name);
        lines.insert(format!("{kind} {}", path.display()));
        if path.is_dir() && !path.is_symlink() {
            tree(&path, kind, lines);
        }
    }
}

fn cgroups(dir: &Path, depth: usize, lines: &mut BTreeSet<String>) {
    if depth > 5 {
        return;
    }
    for name in names(dir) {
        let path = dir.join(&name);
        if path.is_dir() {
            if ours(&name) {
                lines.insert(format!("cgroup {}", path.display()));
            }
            cgroups(&path, depth + 1, lines);
        }
    }
}
