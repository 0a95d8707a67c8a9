//! A pod's directory on the host, and who owns it.
//!
//! The directory is `<root>/<name>`. Its owner holds a lock on the file `lock` in it for as long as
//! it lives; a directory whose lock is free was left by somebody who is gone, and is taken over.
//!
//! What is in its subdirectory `vm` is all of the host's tree that a jailed VMM process sees, as its
//! root directory, and nothing but sockets belongs there.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use thiserror::Error;

/// Longest name of a pod: as long as container engines let one be.
pub const MAX_NAME: usize = 76;

/// Longest path of a Unix socket (`sun_path` without its terminator).
const MAX_SOCKET_PATH: usize = 107;
/// The longest name of a socket in a pod's directory.
const LONGEST_SOCKET: &str = "vm/sock_4294967295";
/// The subdirectory that the VMM process sees.
const VMM_ROOT: &str = "vm";
/// The Unix socket in there.
const VSOCK: &str = "sock";

/// Why a pod could not have its directory.
#[derive(Debug, Error)]
pub enum RunDirError {
    /// A name that is no DNS label.
    #[error(
        "--name {0:?}: a pod's name has 1 to {MAX_NAME} characters of a-z, A-Z, 0-9, `-`, `_` and `.`, and starts with a letter or digit"
    )]
    Name(String),
    /// Somebody else has a pod of this name.
    #[error("--name {0}: a pod of this name is running; choose another name or end that one first")]
    Taken(String),
    /// Somebody else could put sockets of their own into it.
    #[error(
        "--root {0}: belongs to another user or is writable by others; name a directory of your own"
    )]
    NotOurs(PathBuf),
    /// The path leaves no room for a socket's name.
    #[error("--root {0}: is too long; a socket's path has at most {MAX_SOCKET_PATH} bytes")]
    TooLong(PathBuf),
    /// The file system refused.
    #[error("runtime directory {path}: {operation} failed")]
    Io {
        /// What was done.
        operation: &'static str,
        /// To which path.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// The socket of [`RunDir::vsock`] as a process sees it whose root is [`RunDir::vmm_root`].
#[must_use]
pub fn vsock_inside() -> PathBuf {
    Path::new("/").join(VSOCK)
}

/// A pod's directory, owned by this process and removed when dropped.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Makes the directory of the pod `name` below `root`.
    ///
    /// # Errors
    /// [`RunDirError`]: the name is not allowed or taken, or the file system refuses.
    pub fn create(root: &Path, name: &str) -> Result<Self, RunDirError> {
        check_name(name)?;
        let path = root.join(name);
        if path.join(LONGEST_SOCKET).as_os_str().len() > MAX_SOCKET_PATH {
            return Err(RunDirError::TooLong(root.to_owned()));
        }
        let failed = |operation: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| RunDirError::Io {
                operation,
                path,
                source,
            }
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(root).map_err(failed("create", root))?;
        check_owner(root)?;
        // Two owners may race to clean up after a third; whoever locks a file that is still linked
        // has won.
        loop {
            builder.create(&path).map_err(failed("create", &path))?;
            let lock_path = path.join("lock");
            let lock = match File::create(&lock_path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(failed("lock", &lock_path))?,
            };
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(RunDirError::Taken(name.to_owned()));
                }
                other => other.map_err(|e| failed("lock", &lock_path)(e.into()))?,
            }
            if !is_same_file(&lock, &lock_path) {
                continue;
            }
            remove_contents(&path).map_err(failed("clean", &path))?;
            let vmm_root = path.join(VMM_ROOT);
            builder
                .create(&vmm_root)
                .map_err(failed("create", &vmm_root))?;
            return Ok(Self { path, _lock: lock });
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The Unix socket that leads to the guest's vsock ports.
    #[must_use]
    pub fn vsock(&self) -> PathBuf {
        self.vmm_root().join(VSOCK)
    }

    /// What the VMM process sees as its root directory.
    #[must_use]
    pub fn vmm_root(&self) -> PathBuf {
        self.path.join(VMM_ROOT)
    }

    /// That directory itself.
    ///
    /// # Errors
    /// When it is gone, or is a link by now.
    pub fn open_vmm_root(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::open(self.vmm_root(), flags, Mode::empty())?)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes a pod's directory if its owner is gone and nobody has taken it over.
pub fn remove_abandoned(path: &Path) {
    let Ok(lock) = File::open(path.join("lock")) else {
        return;
    };
    let locked = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
    if locked && is_same_file(&lock, &path.join("lock")) {
        remove(path);
    }
}

/// Removes a pod's directory with everything in it; nothing happens if it is gone.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!(
            "runtime directory {}: cannot be removed: {error}",
            path.display()
        );
    }
}

fn check_name(name: &str) -> Result<(), RunDirError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && name.len() <= MAX_NAME && name.chars().all(allowed) {
        Ok(())
    } else {
        Err(RunDirError::Name(name.to_owned()))
    }
}

fn check_owner(root: &Path) -> Result<(), RunDirError> {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    let stat = rustix::fs::stat(root).map_err(|errno| RunDirError::Io {
        operation: "look at",
        path: root.to_owned(),
        source: errno.into(),
    })?;
    let ours = stat.st_uid == rustix::process::geteuid().as_raw();
    if ours && stat.st_mode & WRITABLE_BY_OTHERS == 0 {
        Ok(())
    } else {
        Err(RunDirError::NotOurs(root.to_owned()))
    }
}

fn is_same_file(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(linked)) = (rustix::fs::fstat(file), rustix::fs::stat(path)) else {
        return false;
    };
    (open.st_dev, open.st_ino) == (linked.st_dev, linked.st_ino)
}

/// Removes what a dead owner left, but for the lock.
fn remove_contents(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() == "lock" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(test: &str) -> PathBuf {
        std::env::temp_dir().join(format!("podvmm-rundir-{}-{test}", std::process::id()))
    }

    #[test]
    fn a_name_is_taken_until_its_owner_is_gone() {
        let root = root("taken");
        let first = RunDir::create(&root, "web").unwrap();
        assert!(matches!(
            RunDir::create(&root, "web"),
            Err(RunDirError::Taken(_))
        ));
        drop(first);
        assert!(!root.join("web").exists());
        drop(RunDir::create(&root, "web").unwrap());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_a_dead_owner_left_is_cleaned() {
        let root = root("stale");
        fs::create_dir_all(root.join("web/deep")).unwrap();
        fs::create_dir_all(root.join("web/vm")).unwrap();
        fs::write(root.join("web/vm/sock"), "").unwrap();
        fs::write(root.join("web/lock"), "").unwrap();
        let taken = RunDir::create(&root, "web").unwrap();
        assert!(!taken.vsock().exists() && !root.join("web/deep").exists());
        drop(taken);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn only_an_abandoned_directory_is_removed_from_outside() {
        let root = root("abandoned");
        let pod = RunDir::create(&root, "web").unwrap();
        remove_abandoned(pod.path());
        assert!(pod.path().exists());
        drop(pod);
        fs::create_dir_all(root.join("old")).unwrap();
        fs::write(root.join("old/lock"), "").unwrap();
        remove_abandoned(&root.join("old"));
        assert!(!root.join("old").exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_root_that_others_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let root = root("open");
        fs::create_dir_all(&root).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(
            RunDir::create(&root, "web"),
            Err(RunDirError::NotOurs(_))
        ));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn names_cannot_leave_the_root() {
        let long = "x".repeat(MAX_NAME + 1);
        for name in ["", ".", "..", "../x", "a/b", ".hidden", "-x", "a b", &long] {
            assert!(
                matches!(check_name(name), Err(RunDirError::Name(_))),
                "{name}"
            );
        }
        check_name("web-1.example_X").unwrap();
    }
}
