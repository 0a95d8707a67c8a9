//! Which pods of the runtime are running.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::layout::{SHIM, VMM};
use super::root::Root;

/// A program that was installed.
struct Program {
    name: &'static str,
    /// Its path in its system, and from here.
    paths: [PathBuf; 2],
    file: Option<(u64, u64)>,
}

impl Program {
    fn is_run_by(&self, exe: &Path) -> bool {
        let file = fs::metadata(exe).ok().map(|file| (file.dev(), file.ino()));
        if file.is_some() && file == self.file {
            return true;
        }
        let Ok(link) = fs::read_link(exe) else {
            return false;
        };
        // A program that was replaced runs on.
        let link = link.to_string_lossy();
        let link = Path::new(link.strip_suffix(" (deleted)").unwrap_or(&link));
        self.paths.iter().any(|path| path == link)
    }
}

/// The processes that are a pod's: their numbers and programs. Processes that cannot be looked into are
/// not ours to see; root sees all.
pub fn running(root: &Root, prefix: &Path) -> anyhow::Result<Vec<(u32, &'static str)>> {
    let mut programs = Vec::new();
    for name in [SHIM, VMM] {
        let path = prefix.join("bin").join(name);
        let there = root.resolve(&path)?;
        programs.push(Program {
            name,
            file: fs::metadata(&there)
                .ok()
                .map(|file| (file.dev(), file.ino())),
            paths: [path, there],
        });
    }
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found: Vec<_> = processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let exe = entry.path().join("exe");
            let program = programs.iter().find(|program| program.is_run_by(&exe))?;
            Some((pid, program.name))
        })
        .collect();
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::install::testkit::TempDir;

    #[test]
    fn a_running_shim_is_found_and_a_replaced_one_too() {
        let dir = TempDir::new();
        let root = Root::new(dir.path()).unwrap();
        let prefix = Path::new("/usr/local");
        fs::create_dir_all(dir.join("usr/local/bin")).unwrap();
        let shim = dir.join("usr/local/bin").join(SHIM);
        fs::copy("/bin/sleep", &shim).unwrap();
        assert_eq!(running(&root, prefix).unwrap(), []);
        let mut child = Command::new(&shim).arg("60").spawn().unwrap();
        let expected = [(child.id(), SHIM)];
        assert_eq!(running(&root, prefix).unwrap(), expected);
        fs::remove_file(&shim).unwrap();
        fs::copy("/bin/sleep", &shim).unwrap();
        assert_eq!(running(&root, prefix).unwrap(), expected);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(running(&root, prefix).unwrap(), []);
    }
}
