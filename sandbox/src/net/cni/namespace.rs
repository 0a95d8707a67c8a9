//! Network namespaces with a name, as `ip netns` has them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountPropagationFlags, UnmountFlags, mount_bind_recursive, mount_change, unmount,
};

use super::super::sys;
use super::CniError;

/// Where `ip netns` looks for them.
const DIR: &str = "/run/netns";

/// Where the one of this name is.
pub(super) fn place(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// Makes an empty one. It stays until it is removed.
pub(super) fn create(path: &Path) -> Result<(), CniError> {
    let failed = |cause: io::Error| CniError::Namespace {
        path: path.to_owned(),
        cause,
    };
    make_dir().map_err(failed)?;
    File::create_new(path).map_err(failed)?;
    // On a thread that ends with it: no other thread finds itself without a network.
    let made = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into());
        let thread = thread.spawn_scoped(scope, || {
            sys::part_network()?;
            rustix::mount::mount_bind("/proc/thread-self/ns/net", path)?;
            Ok(())
        })?;
        let panicked = |_| Err(io::Error::other("the thread that makes it panicked"));
        thread.join().unwrap_or_else(panicked)
    });
    made.map_err(|cause| {
        let _ = fs::remove_file(path);
        failed(cause)
    })
}

/// Removes one, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), CniError> {
    // A file on which nothing is mounted is what a start that was cut off has left.
    let outcome = match unmount(path, UnmountFlags::DETACH) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => Ok(()),
        other => other.map_err(io::Error::from),
    };
    let outcome = outcome.and_then(|()| match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    });
    outcome.map_err(|cause| CniError::Namespace {
        path: path.to_owned(),
        cause,
    })
}

/// The directory, as a mount that passes on what is mounted below it: `ip netns` makes it one where it is
/// not, and would hide what is there.
fn make_dir() -> io::Result<()> {
    fs::create_dir_all(DIR)?;
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    match mount_change(DIR, shared) {
        // It is no mount yet.
        Err(rustix::io::Errno::INVAL) => {
            mount_bind_recursive(DIR, DIR)?;
            Ok(mount_change(DIR, shared)?)
        }
        other => Ok(other?),
    }
}
