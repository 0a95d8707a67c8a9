//! A network namespace that somebody else has made, and work in it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::NetError;

/// A network namespace, held open.
#[derive(Debug)]
pub struct Netns {
    file: OwnedFd,
    path: PathBuf,
}

impl Netns {
    /// Opens the namespace at `path`, such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// [`NetError`] when there is none, or it is the one of this process or of the host: to take an
    /// interface of the host into a pod would cut the host off.
    pub fn open(path: &Path) -> Result<Self, NetError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| NetError::Open {
                path: path.into(),
                cause: errno.into(),
            })?;
        // Of another kind of namespace it is told when a thread tries to enter.
        let is_namespace =
            rustix::fs::fstatfs(&file).is_ok_and(|found| found.f_type == libc::NSFS_MAGIC);
        if !is_namespace {
            return Err(NetError::NotANamespace { path: path.into() });
        }
        for own in ["/proc/self/ns/net", "/proc/1/ns/net"] {
            if is_same(&file, own) {
                return Err(NetError::Host { path: path.into() });
            }
        }
        Ok(Self {
            file,
            path: path.into(),
        })
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Does `work` in the namespace, on a thread that ends with it: no thread of the caller ever finds
    /// itself in another network.
    pub(super) fn run<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, NetError> + Send,
    ) -> Result<T, NetError> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("netns".into())
                .spawn_scoped(scope, || {
                    self.enter()?;
                    work()
                })
                .map_err(NetError::Thread)?;
            let panicked = || NetError::Thread(io::Error::other("it panicked"));
            thread.join().unwrap_or_else(|_| Err(panicked()))
        })
    }

    /// Moves the calling thread into the namespace.
    fn enter(&self) -> Result<(), NetError> {
        let kind = Some(LinkNameSpaceType::Network);
        match move_into_link_name_space(self.file.as_fd(), kind) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::INVAL) => Err(NetError::NotANamespace {
                path: self.path.clone(),
            }),
            Err(errno) => Err(NetError::Enter {
                path: self.path.clone(),
                cause: errno.into(),
            }),
        }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn is_same(file: &OwnedFd, path: &str) -> bool {
    match (rustix::fs::fstat(file), rustix::fs::stat(path)) {
        (Ok(file), Ok(own)) => (file.st_dev, file.st_ino) == (own.st_dev, own.st_ino),
        _ => false,
    }
}
