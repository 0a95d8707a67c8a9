//! A pod's directory on the host, and who owns it.
//!
//! The directory is `<root>/<name>`. Its owner holds a lock on the file `lock` in it for as long as
//! it lives; a directory whose lock is free was left by somebody who is gone, and is taken over.
//!
//! One with the file `kept` is not: it outlives its owner, to say what became of the pod, until it is
//! removed by name. What goes is renamed first, so that nobody sees half of it under the pod's name.
//!
//! What a pod has on disk ([`datadir`]) goes with its directory.
//!
//! What is in its subdirectory `vm` is all of the host's tree that a jailed VMM process sees, as its
//! root directory, and nothing but sockets belongs there.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use thiserror::Error;

use crate::datadir;

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
/// Marks a directory that outlives its owner.
const KEPT: &str = "kept";
/// The lock.
const LOCK: &str = "lock";
/// What the names of directories begin with that are on their way out. No pod's does.
const REMOVED_PREFIX: &str = ".removed-";

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
    /// There is one that has ended and is kept.
    #[error(
        "--name {0}: a pod of this name has ended and is kept; choose another name or remove it with `podvmm rm {0}`"
    )]
    Kept(String),
    /// There is none.
    #[error("there is no pod {0} in {root}", root = .1.display())]
    NotFound(String, PathBuf),
    /// Its owner lives.
    #[error("pod {0} is in use; stop it first, or use `podvmm rm -f {0}`")]
    InUse(String),
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

/// A pod's directory, owned by this process, and removed when dropped unless it is kept.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
    has_left: AtomicBool,
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
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(root).map_err(failed("create", root))?;
        check_owner(root)?;
        sweep(root);
        // Two owners may race to clean up after a third; whoever locks a file that is still linked
        // has won.
        let lock = loop {
            builder.create(&path).map_err(failed("create", &path))?;
            let lock_path = path.join(LOCK);
            let lock = match File::create(&lock_path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(failed("lock", &lock_path))?,
            };
            if !try_lock(&lock).map_err(failed("lock", &lock_path))? {
                return Err(RunDirError::Taken(name.to_owned()));
            }
            if is_same_file(&lock, &lock_path) {
                break lock;
            }
        };
        if path.join(KEPT).exists() {
            return Err(RunDirError::Kept(name.to_owned()));
        }
        let data = datadir::take_away(&path).map_err(failed("clean", &path))?;
        data.remove().map_err(failed("clean", &path))?;
        remove_contents(&path).map_err(failed("clean", &path))?;
        let vmm_root = path.join(VMM_ROOT);
        builder
            .create(&vmm_root)
            .map_err(failed("create", &vmm_root))?;
        Ok(Self {
            path,
            _lock: lock,
            has_left: AtomicBool::new(false),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets the directory outlive its owner, or not.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn keep(&self, keep: bool) -> Result<(), RunDirError> {
        let marker = self.path.join(KEPT);
        if keep {
            File::create(&marker).map_err(failed("mark", &marker))?;
        } else if let Err(error) = fs::remove_file(&marker)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(failed("mark", &marker)(error));
        }
        Ok(())
    }

    /// Does what dropping it would do, for an owner that may end without dropping it. The lock stays.
    pub fn leave(&self) {
        // Only once: what has its name afterwards is somebody else's.
        if !self.has_left.swap(true, Ordering::Relaxed) {
            leave(&self.path);
        }
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
        self.leave();
    }
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> RunDirError + use<> {
    let path = path.to_owned();
    move |source| RunDirError::Io {
        operation,
        path: path.clone(),
        source,
    }
}

/// A directory whose owner is gone, held so that nobody else takes it.
#[derive(Debug)]
pub struct Abandoned {
    path: PathBuf,
    _lock: File,
}

impl Abandoned {
    /// Takes hold of the directory of the pod `name`.
    ///
    /// # Errors
    /// [`RunDirError::NotFound`], [`RunDirError::InUse`] while its owner lives.
    pub fn take(root: &Path, name: &str) -> Result<Self, RunDirError> {
        check_name(name)?;
        let path = root.join(name);
        let not_found = || RunDirError::NotFound(name.to_owned(), root.to_owned());
        if !path.is_dir() {
            return Err(not_found());
        }
        check_owner(root)?;
        let lock_path = path.join(LOCK);
        // Whoever made the directory may have died before the lock was there.
        let lock = match File::options().create(true).append(true).open(&lock_path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_found()),
            other => other.map_err(failed("lock", &lock_path))?,
        };
        if !try_lock(&lock).map_err(failed("lock", &lock_path))? {
            Err(RunDirError::InUse(name.to_owned()))
        } else if is_same_file(&lock, &lock_path) {
            Ok(Self { path, _lock: lock })
        } else {
            Err(not_found())
        }
    }

    /// Removes it with everything in it.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove(self) -> Result<(), RunDirError> {
        remove(&self.path).map_err(failed("remove", &self.path))
    }
}

/// Takes the lock unless somebody has it. Who only looks ([`is_owned`]) has it for an instant.
fn try_lock(lock: &File) -> io::Result<bool> {
    const ATTEMPTS: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(1);
    for _ in 0..ATTEMPTS {
        match rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(PAUSE),
            other => return other.map(|()| true).map_err(io::Error::from),
        }
    }
    Ok(false)
}

/// Whether the owner of the directory `path` lives.
#[must_use]
pub fn is_owned(path: &Path) -> bool {
    let Ok(lock) = File::open(path.join(LOCK)) else {
        return false;
    };
    // Shared: two that look at the same time must not take each other for the owner.
    let attempt = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared);
    attempt == Err(rustix::io::Errno::WOULDBLOCK)
}

/// The names of all directories below `root`, in order.
///
/// # Errors
/// [`RunDirError::NotOurs`], or when it cannot be read; that it is not there is no error.
pub fn names(root: &Path) -> Result<Vec<String>, RunDirError> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed("list", root))?,
    };
    check_owner(root)?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("list", root))?;
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if let Ok(name) = entry.file_name().into_string()
            && is_dir
            && check_name(&name).is_ok()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Removes what is not kept of a pod's directory if its owner is gone and nobody has taken it over.
pub fn remove_abandoned(path: &Path) {
    let Ok(lock) = File::open(path.join(LOCK)) else {
        return;
    };
    if matches!(try_lock(&lock), Ok(true)) && is_same_file(&lock, &path.join(LOCK)) {
        leave(path);
    }
}

/// What an owner does last: the directory goes, or, if it is kept, what served the VMM.
fn leave(path: &Path) {
    let outcome = if path.join(KEPT).exists() {
        match fs::remove_dir_all(path.join(VMM_ROOT)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    } else {
        remove(path)
    };
    if let Err(error) = outcome {
        log::warn!(
            "runtime directory {}: cannot be removed: {error}",
            path.display()
        );
    }
}

/// Removes a pod's directory with everything in it; nothing happens if it is gone.
fn remove(path: &Path) -> io::Result<()> {
    let (Some(root), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let pid = rustix::process::getpid().as_raw_nonzero();
    let away = root.join(format!("{REMOVED_PREFIX}{pid}-{}", name.display()));
    // Left by one of our number before the last reboot, or by a thread that does the same.
    remove_tree(&away)?;
    let data = datadir::take_away(path)?;
    match fs::rename(path, &away) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    // Both are tried, whatever becomes of the first.
    let data = data.remove();
    remove_tree(&away).and(data)
}

/// Removes what somebody was killed removing.
fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name
            .as_encoded_bytes()
            .starts_with(REMOVED_PREFIX.as_bytes())
        {
            let _ = remove_tree(&entry.path());
        }
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
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
        if entry.file_name() == LOCK {
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
#[path = "rundir_tests.rs"]
mod tests;
