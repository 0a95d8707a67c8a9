//! Images as directories.

use std::fs::{self, Permissions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::blobs::sync_parent;
use super::error::StoreError;
use super::lock::Lock;
use super::{Image, Store};
use crate::digest::Digest;
use crate::progress::{Event, Progress, Silent};
use crate::unpack::{Limits, Ownership, Summary, Unpacker};

/// An image's root file system. As long as this lives, it stays where it is.
#[derive(Debug)]
pub struct RootFs {
    path: PathBuf,
    dir: OwnedFd,
    lock: Lock,
    summary: Option<Summary>,
}

impl RootFs {
    /// Where it is. Nobody may change it: pods share it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory, opened with `O_PATH`.
    #[must_use]
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The lock by which others see that it is in use, for a process that is to go on using it: the
    /// lock is held until the last descriptor of it is closed.
    #[must_use]
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.file().as_fd()
    }

    /// What was unpacked, if it was done now.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        self.summary
    }
}

impl Image {
    /// Its root file system, unpacked if it is not yet.
    ///
    /// # Errors
    /// [`StoreError`] when a layer is missing, damaged or hostile.
    pub fn rootfs(&self) -> Result<RootFs, StoreError> {
        self.rootfs_within(Limits::default(), &Silent)
    }

    /// The same with other limits, telling how it goes on.
    ///
    /// # Errors
    /// [`StoreError`] when a layer is missing, damaged or hostile.
    pub fn rootfs_within(
        &self,
        limits: Limits,
        progress: &dyn Progress,
    ) -> Result<RootFs, StoreError> {
        let _busy = self.store.busy()?;
        let path = self.store.root(self.record.chain_id);
        let lock_path = lock_of(&path);
        let mut summary = None;
        loop {
            let lock = Lock::shared(&lock_path).map_err(StoreError::io(&lock_path, "locked"))?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            match rustix::fs::open(&path, flags, Mode::empty()) {
                Ok(dir) => {
                    return Ok(RootFs {
                        path,
                        dir,
                        lock,
                        summary,
                    });
                }
                Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => return Err(StoreError::io(&path, "opened")(errno.into())),
            }
            drop(lock);
            let _lock =
                Lock::exclusive(&lock_path).map_err(StoreError::io(&lock_path, "locked"))?;
            if !path.exists() {
                summary = Some(self.unpack(&path, limits, progress)?);
            }
        }
    }

    /// Makes the root beside its place and moves it there when it is whole and on the disk.
    fn unpack(
        &self,
        path: &Path,
        limits: Limits,
        progress: &dyn Progress,
    ) -> Result<Summary, StoreError> {
        let new = Scratch::new(self.store.scratch().join(self.record.chain_id.hex()))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&new.0, flags, Mode::empty())
            .map_err(|errno| StoreError::io(&new.0, "opened")(errno.into()))?;
        let sync = dir.try_clone().map_err(StoreError::io(&new.0, "opened"))?;
        let mut unpacker = Unpacker::new(dir, Ownership::of_this_process(), limits);
        let of = self.manifest.layers.len();
        let layers = self
            .manifest
            .layers
            .iter()
            .zip(&self.config.rootfs.diff_ids);
        for (index, (layer, wanted)) in layers.enumerate() {
            let number = index + 1;
            progress.event(Event::Unpacking { layer: number, of });
            let file = self.store.blobs.open(layer.digest)?;
            let file = file.ok_or_else(|| StoreError::Missing {
                image: self.record.name.clone(),
                digest: layer.digest,
            })?;
            let unpacked = unpacker.layer(file).map_err(|source| StoreError::Unpack {
                image: self.record.name.clone(),
                layer: format!("{number} of {of} ({})", layer.digest),
                source: Box::new(source),
            })?;
            if unpacked != *wanted {
                return Err(StoreError::DiffId {
                    image: self.record.name.clone(),
                    layer: number,
                    wanted: *wanted,
                    found: unpacked,
                });
            }
        }
        // Its place says that it is whole, which must be true after a power cut as well.
        rustix::fs::syncfs(&sync)
            .map_err(|errno| StoreError::io(&new.0, "written")(errno.into()))?;
        fs::rename(&new.0, path).map_err(StoreError::io(path, "moved to its place"))?;
        sync_parent(path)?;
        Ok(unpacker.summary())
    }
}

/// A directory that is removed unless it has been moved away.
struct Scratch(PathBuf);

impl Scratch {
    fn new(path: PathBuf) -> Result<Self, StoreError> {
        // What a process left that was killed.
        if path.exists() {
            fs::remove_dir_all(&path).map_err(StoreError::io(&path, "removed"))?;
        }
        fs::create_dir(&path).map_err(StoreError::io(&path, "made"))?;
        // Whatever this process takes away from modes: a root is there for all users of a container.
        fs::set_permissions(&path, Permissions::from_mode(0o755))
            .map_err(StoreError::io(&path, "made"))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) fn lock_of(root: &Path) -> PathBuf {
    root.with_extension("lock")
}

impl Store {
    pub(super) fn root(&self, chain_id: Digest) -> PathBuf {
        self.dir.join("roots").join(chain_id.hex())
    }

    /// Whether an image is unpacked.
    #[must_use]
    pub fn is_unpacked(&self, chain_id: Digest) -> bool {
        self.root(chain_id).exists()
    }

    /// Takes a root away from its place, unless a pod uses it: then it is `None`. It is removed when
    /// what is returned is dropped.
    pub(super) fn take_root(&self, chain_id: Digest) -> Result<Option<Discarded>, StoreError> {
        let path = self.root(chain_id);
        let lock_path = lock_of(&path);
        let lock = Lock::try_exclusive(&lock_path);
        let Some(_lock) = lock.map_err(StoreError::io(&lock_path, "locked"))? else {
            return Ok(None);
        };
        let away = self.scratch().join(format!("{}.removed", chain_id.hex()));
        let moved = path.exists();
        if moved {
            let _ = fs::remove_dir_all(&away);
            fs::rename(&path, &away).map_err(StoreError::io(&path, "moved away"))?;
        }
        // Who waits for the lock sees that the file is gone, and makes another.
        let _ = fs::remove_file(&lock_path);
        Ok(Some(Discarded {
            root: moved.then(|| Scratch(away)),
        }))
    }
}

/// A root that is no longer in its place.
pub(super) struct Discarded {
    root: Option<Scratch>,
}

impl Discarded {
    /// Whether there was one.
    pub(super) fn was_there(&self) -> bool {
        self.root.is_some()
    }
}
