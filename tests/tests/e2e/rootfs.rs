//! Directories that become a container's root.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that goes with its owner.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("e2e-podvmm-{}-{count}", std::process::id()));
        fs::create_dir(&path).expect("a temporary directory can be made");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A small root file system: busybox and the directories that programs expect.
pub fn busybox() -> TempDir {
    let root = TempDir::new();
    for dir in ["bin", "dev", "etc", "home", "proc", "sys", "tmp", "var"] {
        fs::create_dir(root.join(dir)).expect("the directory is ours");
    }
    let program = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("busybox is installed: apt-get install busybox-static");
    fs::copy(program, root.join("bin/busybox")).expect("the directory is ours");
    let applets = Command::new(program)
        .arg("--list")
        .output()
        .expect("busybox runs");
    for applet in String::from_utf8_lossy(&applets.stdout)
        .lines()
        .filter(|name| *name != "busybox")
    {
        symlink("busybox", root.join("bin").join(applet)).expect("the directory is ours");
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/:/bin/sh\nuser:x:1234:1234::/home:/bin/sh\n",
    )
    .expect("the directory is ours");
    fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1234:\n").expect("the directory is ours");
    root
}

/// One that tests share which do not look at it from the host.
pub fn shared() -> &'static Path {
    static ROOT: OnceLock<TempDir> = OnceLock::new();
    ROOT.get_or_init(busybox).path()
}

/// Everything in a tree by which a change would show.
pub fn fingerprint(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path).expect("it was just listed");
        // Reading changes no modification time, and neither may a pod.
        let facts = format!(
            "mode {:o} owner {}:{} links {} size {} modified {}.{} changed {}.{}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            meta.size(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        );
        if meta.is_dir() {
            open.extend(
                fs::read_dir(&path)
                    .expect("it is ours")
                    .map(|e| e.expect("e").path()),
            );
        }
        found.insert(path, facts);
    }
    found
}
