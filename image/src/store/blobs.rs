//! Files that are named by their digests.
//!
//! A blob grows under `partial/` and is renamed to its place when all of it is there, verified, and
//! on the disk. What is in its place is therefore whole, also after a power cut; what a process left
//! behind half-way is taken up by the next.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::lock::Lock;
use crate::digest::{Digest, Hasher};
use crate::manifest::Descriptor;
use crate::progress::{Event, Progress};

const BUFFER: usize = 128 << 10;

/// The blobs of a store.
#[derive(Clone, Debug)]
pub(crate) struct Blobs {
    whole: PathBuf,
    partial: PathBuf,
}

impl Blobs {
    pub(super) fn new(store: &Path) -> Self {
        Self {
            whole: store.join("blobs/sha256"),
            partial: store.join("partial"),
        }
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.whole.join(digest.hex())
    }

    /// Whether it is there, with this size.
    pub(crate) fn has(&self, wanted: &Descriptor) -> Result<bool, StoreError> {
        match fs::metadata(self.path(wanted.digest)) {
            Ok(found) if found.len() == wanted.size => Ok(true),
            Ok(found) => Err(StoreError::Size {
                digest: wanted.digest,
                wanted: wanted.size,
                found: found.len(),
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io(self.path(wanted.digest), "looked at")(error)),
        }
    }

    /// Opens it; `None` if it is not there.
    pub(crate) fn open(&self, digest: Digest) -> Result<Option<File>, StoreError> {
        match File::open(self.path(digest)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io(self.path(digest), "opened")(error)),
        }
    }

    /// The bytes of a document, verified; its size has been checked against a bound before.
    pub(crate) fn read(&self, wanted: &Descriptor) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(file) = self.open(wanted.digest)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(wanted.size.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(StoreError::io(self.path(wanted.digest), "read"))?;
        verify(wanted, &bytes)?;
        Ok(Some(bytes))
    }

    /// Takes in bytes, and verifies them.
    pub(crate) fn put(&self, wanted: &Descriptor, bytes: &[u8]) -> Result<(), StoreError> {
        verify(wanted, bytes)?;
        let Some(mut partial) = self.begin(wanted)? else {
            return Ok(());
        };
        partial.restart()?;
        partial.append(bytes)?;
        partial.finish()
    }

    /// Takes in all that can be read, and verifies it.
    pub(crate) fn copy(
        &self,
        wanted: &Descriptor,
        from: &mut dyn Read,
        progress: &dyn Progress,
    ) -> Result<(), StoreError> {
        let Some(mut partial) = self.begin(wanted)? else {
            return Ok(());
        };
        partial.restart()?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(StoreError::io(wanted.digest.to_string(), "read")(error)),
            };
            partial.append(&buffer[..length])?;
            progress.event(Event::Fetching {
                digest: wanted.digest,
                done: partial.length(),
                total: wanted.size,
            });
        }
        partial.finish()
    }

    /// Waits until no other process takes in the same blob, and begins or goes on; `None` if it is
    /// there meanwhile.
    pub(crate) fn begin(&self, wanted: &Descriptor) -> Result<Option<Partial>, StoreError> {
        if self.has(wanted)? {
            return Ok(None);
        }
        let path = self.partial.join(wanted.digest.hex());
        let lock = Lock::exclusive(&path).map_err(StoreError::io(&path, "locked"))?;
        if self.has(wanted)? {
            let _ = fs::remove_file(&path);
            return Ok(None);
        }
        let mut partial = Partial {
            lock,
            path,
            whole: self.path(wanted.digest),
            wanted: wanted.clone(),
            hasher: Hasher::default(),
            length: 0,
        };
        partial.take_up()?;
        Ok(Some(partial))
    }

    /// All blobs with their sizes.
    pub(super) fn all(&self) -> Result<Vec<(Digest, u64)>, StoreError> {
        let listing = fs::read_dir(&self.whole).map_err(StoreError::io(&self.whole, "listed"))?;
        let blobs = listing.filter_map(|entry| {
            let entry = entry.ok()?;
            let digest = Digest::from_hex(entry.file_name().to_str()?)?;
            Some((digest, entry.metadata().ok()?.len()))
        });
        Ok(blobs.collect())
    }

    pub(super) fn remove(&self, digest: Digest) -> Result<(), StoreError> {
        let path = self.path(digest);
        fs::remove_file(&path).map_err(StoreError::io(&path, "removed"))
    }
}

fn verify(wanted: &Descriptor, bytes: &[u8]) -> Result<(), StoreError> {
    let (size, found) = (bytes.len() as u64, Digest::of(bytes));
    if size != wanted.size {
        return Err(StoreError::Size {
            digest: wanted.digest,
            wanted: wanted.size,
            found: size,
        });
    }
    if found != wanted.digest {
        return Err(StoreError::Digest {
            wanted: wanted.digest,
            found,
        });
    }
    Ok(())
}

/// A blob that is not whole yet. What it has stays for the next attempt when this is dropped.
pub(crate) struct Partial {
    lock: Lock,
    path: PathBuf,
    whole: PathBuf,
    wanted: Descriptor,
    hasher: Hasher,
    length: u64,
}

impl Partial {
    /// Bytes that it has.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Reads what an earlier process left.
    fn take_up(&mut self) -> Result<(), StoreError> {
        let left = self.file().metadata().map_err(self.failed("looked at"))?;
        if left.len() > self.wanted.size {
            return self.restart();
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            match self.file().read(&mut buffer).map_err(self.failed("read"))? {
                0 => return Ok(()),
                length => {
                    self.hasher.update(&buffer[..length]);
                    self.length += length as u64;
                }
            }
        }
    }

    /// Begins from nothing.
    pub(crate) fn restart(&mut self) -> Result<(), StoreError> {
        self.file().set_len(0).map_err(self.failed("emptied"))?;
        self.file()
            .seek(SeekFrom::Start(0))
            .map_err(self.failed("emptied"))?;
        self.hasher = Hasher::default();
        self.length = 0;
        Ok(())
    }

    /// Adds bytes; more than there should be are refused.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let length = self.length + bytes.len() as u64;
        if length > self.wanted.size {
            self.restart()?;
            return Err(StoreError::Size {
                digest: self.wanted.digest,
                wanted: self.wanted.size,
                found: length,
            });
        }
        self.file()
            .write_all(bytes)
            .map_err(self.failed("written"))?;
        self.hasher.update(bytes);
        self.length = length;
        Ok(())
    }

    /// Verifies it and puts it in its place. What is wrong is thrown away.
    pub(crate) fn finish(mut self) -> Result<(), StoreError> {
        let found = std::mem::take(&mut self.hasher).finish();
        let problem = if self.length != self.wanted.size {
            StoreError::Size {
                digest: self.wanted.digest,
                wanted: self.wanted.size,
                found: self.length,
            }
        } else if found != self.wanted.digest {
            StoreError::Digest {
                wanted: self.wanted.digest,
                found,
            }
        } else {
            self.file().sync_all().map_err(self.failed("written"))?;
            fs::rename(&self.path, &self.whole).map_err(self.failed("renamed"))?;
            return sync_parent(&self.whole);
        };
        let _ = fs::remove_file(&self.path);
        Err(problem)
    }

    fn file(&self) -> &File {
        self.lock.file()
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(std::io::Error) -> StoreError + use<> {
        StoreError::io(self.path.clone(), doing)
    }
}

/// Makes sure that names in a file's directory survive a power cut.
pub(super) fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().unwrap_or(path);
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(StoreError::io(parent, "written"))
}
