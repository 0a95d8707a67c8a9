//! The file system that is installed into: this machine's, or one that is mounted somewhere.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

/// A directory that stands for `/`.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// The directory has to be there.
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        let found = fs::canonicalize(dir).with_context(|| format!("--root {}", dir.display()))?;
        ensure!(
            found.is_dir(),
            "--root {}: it is no directory",
            dir.display()
        );
        Ok(Self(found))
    }

    /// Whether it is this machine's own.
    pub fn is_own(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where a path of that system is. Links are followed as they would be in there: none leads out.
    pub fn resolve(&self, path: &Path) -> anyhow::Result<PathBuf> {
        let shown = || format!("{} below {}", path.display(), self.0.display());
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = openat(CWD, &self.0, flags | OFlags::DIRECTORY, Mode::empty())
            .with_context(|| self.0.display().to_string())?;
        let relative: PathBuf = path
            .components()
            .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
            .collect();
        // The part that exists is the kernel's to resolve, the rest is ours to make.
        for ancestor in relative.ancestors() {
            let name = if ancestor == Path::new("") {
                Path::new(".")
            } else {
                ancestor
            };
            match openat2(&root, name, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
                Ok(found) => {
                    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
                    let there = fs::read_link(link).with_context(shown)?;
                    let rest = relative.strip_prefix(ancestor).with_context(shown)?;
                    ensure!(
                        !rest.components().any(|part| part == Component::ParentDir),
                        "{}: it leads nowhere",
                        shown()
                    );
                    return Ok(if rest == Path::new("") {
                        there
                    } else {
                        there.join(rest)
                    });
                }
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {}
                Err(error) => return Err(error).with_context(shown),
            }
        }
        bail!("{}: the directory has gone", shown())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::install::testkit::TempDir;

    #[test]
    fn links_stay_inside() {
        let dir = TempDir::new();
        fs::create_dir_all(dir.join("var/there")).unwrap();
        fs::create_dir(dir.join("etc")).unwrap();
        symlink("/var/there", dir.join("etc/here")).unwrap();
        symlink("../../../..", dir.join("etc/up")).unwrap();
        let root = Root::new(dir.path()).unwrap();
        let inside = fs::canonicalize(dir.path()).unwrap();
        for (path, expected) in [
            ("/etc/here/new/file", "var/there/new/file"),
            ("/etc/up/var/x", "var/x"),
            ("/../../etc", "etc"),
            ("/nothing/at/all", "nothing/at/all"),
        ] {
            assert_eq!(
                root.resolve(Path::new(path)).unwrap(),
                inside.join(expected),
                "{path}"
            );
        }
        assert_eq!(root.resolve(Path::new("/")).unwrap(), inside);
    }

    #[test]
    fn it_has_to_be_a_directory() {
        let dir = TempDir::new();
        fs::write(dir.join("file"), "").unwrap();
        for name in ["file", "nothing"] {
            let error = Root::new(&dir.join(name)).unwrap_err();
            assert!(format!("{error:#}").contains("--root"), "{error:#}");
        }
    }
}
