//! What a pod's containers write to disk and what goes with the pod: its directory for emptyDirs.
//!
//! ```text
//!   <root>/<name>/data ──▶ <data>/<path of <root>/<name>, one word>/
//!        (a link)               lock      locked while the pod lives
//!                               NAME/     shared with the guest
//! ```
//!
//! A pod's own directory may be in memory (`/run`), which a guest must not fill. So there is another one,
//! on disk, and a link in the pod's that leads there. The link is made first and goes last: whoever removes
//! a pod finds by it what else there is to remove. Its directory is renamed before the pod's is, so that the
//! next pod of the name never finds half of it.
//!
//! After a restart of the host the pod's directory is gone, and the link with it. What no link leads to and
//! nobody has locked is removed by the next pod that has such a directory.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Gid, Mode, OFlags};
use thiserror::Error;

use crate::removal::remove_tree;

/// The link.
const LINK: &str = "data";
const LOCK: &str = "lock";
/// What the names of directories begin with that are on their way out. None of a pod's does.
const REMOVED_PREFIX: &str = ".removed-";
/// For everybody, as the kubelet makes emptyDirs.
const VOLUME: u32 = 0o777;
/// What is made in it has its group.
const SET_GROUP: u32 = 0o2000;

/// Why a pod could not have its directory on disk.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// Somebody else could put something into it.
    #[error(
        "--data {0}: belongs to another user or is writable by others; name a directory of your own"
    )]
    NotOurs(PathBuf),
    /// Without the right to give files away there are no groups.
    #[error(
        "volume {volume}: fsGroup {group}: only root can give a directory to that group; run as root, or leave fsGroup out"
    )]
    Group {
        /// The volume.
        volume: String,
        /// Its group.
        group: u32,
    },
    /// The file system refused.
    #[error("--data {path}: {operation} failed")]
    Io {
        /// What was done.
        operation: &'static str,
        /// To which path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// A pod's directory on disk, locked. It goes with the pod's own directory.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory below `data` of the pod whose own directory is `pod`, which the caller has
    /// locked.
    ///
    /// # Errors
    /// [`DataDirError`].
    pub fn create(data: &Path, pod: &Path) -> Result<Self, DataDirError> {
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        builder
            .recursive(true)
            .create(data)
            .map_err(failed("make", data))?;
        check_owner(data)?;
        sweep(data);
        let path = data.join(word(pod));
        let link = pod.join(LINK);
        symlink(&path, &link).map_err(failed("link", &link))?;
        // Left by one that no link led to any more, and that somebody is about to sweep.
        put_away(&path)
            .and_then(Away::remove)
            .map_err(failed("clean", &path))?;
        builder
            .recursive(false)
            .create(&path)
            .map_err(failed("make", &path))?;
        let lock = File::create(path.join(LOCK)).map_err(failed("lock", &path))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| failed("lock", &path)(errno.into()))?;
        Ok(Self { path, _lock: lock })
    }

    /// Makes a directory in it that containers may write to; its group's, if it has one.
    ///
    /// # Errors
    /// [`DataDirError`].
    pub fn volume(&self, name: &str, group: Option<u32>) -> Result<OwnedFd, DataDirError> {
        let path = self.path.join(name);
        let refused = |errno: rustix::io::Errno| failed("make", &path)(errno.into());
        rustix::fs::mkdir(&path, Mode::RWXU).map_err(refused)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&path, flags, Mode::empty()).map_err(refused)?;
        let mut mode = VOLUME;
        if let Some(group) = group {
            let given = rustix::fs::fchown(&dir, None, Some(Gid::from_raw(group)));
            if given == Err(rustix::io::Errno::PERM) {
                return Err(DataDirError::Group {
                    volume: name.to_owned(),
                    group,
                });
            }
            given.map_err(refused)?;
            mode |= SET_GROUP;
        }
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode)).map_err(refused)?;
        Ok(dir)
    }
}

/// What a pod had on disk, under a name that nobody looks for.
#[derive(Debug)]
#[must_use]
pub(crate) struct Away(Option<PathBuf>);

impl Away {
    /// Removes it.
    pub(crate) fn remove(self) -> io::Result<()> {
        self.0.map_or(Ok(()), |path| remove_tree(&path))
    }
}

/// Takes away what the pod with the directory `pod` has on disk, if anything; the caller has locked `pod`
/// and removes it next.
pub(crate) fn take_away(pod: &Path) -> io::Result<Away> {
    match fs::read_link(pod.join(LINK)) {
        Ok(path) if path.is_absolute() => put_away(&path),
        Ok(_) => Ok(Away(None)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Away(None)),
        Err(error) => Err(error),
    }
}

fn put_away(path: &Path) -> io::Result<Away> {
    let (Some(data), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Away(None));
    };
    let pid = rustix::process::getpid().as_raw_nonzero();
    for number in 0.. {
        let away = data.join(format!("{REMOVED_PREFIX}{pid}-{number}"));
        match fs::rename(path, &away) {
            Ok(()) => return Ok(Away(Some(away))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            // An earlier one of that number is still on its way out.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) => {}
            Err(error) => return Err(error),
        }
    }
    log::debug!("{}: gone already", name.display());
    Ok(Away(None))
}

/// Removes what nobody will.
fn sweep(data: &Path) {
    for entry in fs::read_dir(data).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let is_leaving = name.as_bytes().starts_with(REMOVED_PREFIX.as_bytes());
        let outcome = if is_leaving {
            remove_tree(&path)
        } else if is_orphan(&path, &name) {
            put_away(&path).and_then(Away::remove)
        } else {
            continue;
        };
        if let Err(error) = outcome {
            log::warn!("{}: cannot be removed: {error}", path.display());
        }
    }
}

/// Whether no pod's directory has a link to `path`, and nobody has it locked.
fn is_orphan(path: &Path, name: &std::ffi::OsStr) -> bool {
    let Some(pod) = unword(name) else {
        return false;
    };
    if fs::read_link(pod.join(LINK)).is_ok_and(|target| target == path) {
        return false;
    }
    match File::open(path.join(LOCK)) {
        Ok(lock) => rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// A path as one file name: `!` for `/`, and what is then not clear as `%` and two digits.
fn word(path: &Path) -> String {
    let mut word = String::new();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' => word.push('!'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => word.push(byte.into()),
            other => word += &format!("%{other:02x}"),
        }
    }
    word
}

/// The path again; `None` for what is no such word.
fn unword(word: &std::ffi::OsStr) -> Option<PathBuf> {
    let mut bytes = Vec::new();
    let mut rest = word.to_str()?;
    while let Some(first) = rest.chars().next() {
        let (byte, length) = match first {
            '!' => (b'/', 1),
            '%' => (u8::from_str_radix(rest.get(1..3)?, 16).ok()?, 3),
            other => (u8::try_from(other).ok()?, 1),
        };
        bytes.push(byte);
        rest = rest.get(length..)?;
    }
    let path = PathBuf::from(std::ffi::OsString::from(String::from_utf8(bytes).ok()?));
    path.is_absolute().then_some(path)
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> DataDirError + use<> {
    let path = path.to_owned();
    move |source| DataDirError::Io {
        operation,
        path: path.clone(),
        source,
    }
}

fn check_owner(data: &Path) -> Result<(), DataDirError> {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    let stat = rustix::fs::stat(data).map_err(|errno| failed("look", data)(errno.into()))?;
    let ours = stat.st_uid == rustix::process::geteuid().as_raw();
    if ours && stat.st_mode & WRITABLE_BY_OTHERS == 0 {
        Ok(())
    } else {
        Err(DataDirError::NotOurs(data.to_owned()))
    }
}

#[cfg(test)]
#[path = "datadir_tests.rs"]
mod tests;
