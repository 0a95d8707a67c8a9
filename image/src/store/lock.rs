//! Locks between processes: `flock` on a file that may be removed by whoever has it alone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// A lock that is held until dropped, or until the process has ended.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// Waits until nobody has the lock alone.
    pub(crate) fn shared(path: &Path) -> io::Result<Self> {
        wait(path, FlockOperation::LockShared)
    }

    /// Waits until nobody else has the lock.
    pub(crate) fn exclusive(path: &Path) -> io::Result<Self> {
        wait(path, FlockOperation::LockExclusive)
    }

    /// Takes the lock alone, unless somebody else has it.
    pub(crate) fn try_exclusive(path: &Path) -> io::Result<Option<Self>> {
        match wait(path, FlockOperation::NonBlockingLockExclusive) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            other => other.map(Some),
        }
    }

    /// The locked file.
    pub(crate) fn file(&self) -> &File {
        &self.0
    }
}

fn wait(path: &Path, operation: FlockOperation) -> io::Result<Lock> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        loop {
            match flock(&file, operation) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        // While this process waited, the file may have been removed, and another made.
        let held = file.metadata()?;
        match std::fs::metadata(path) {
            Ok(now) if (now.dev(), now.ino()) == (held.dev(), held.ino()) => {
                return Ok(Lock(file));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}
