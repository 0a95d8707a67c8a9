//! Layers, one upon the other, become one directory tree.
//!
//! ```text
//!   layer ──▶ decompressed ──▶ hashed ──▶ tar entries ──▶ names below the root ──▶ files
//!             (bounded)        (diff id)                  (Tree: by descriptor, never by path)
//! ```
//!
//! What a layer says is hostile. Every name is looked up by the kernel with the target as its root,
//! so neither `..` nor a symbolic link leads out of it. What an entry may cost is bounded by
//! [`Limits`].
//!
//! Some things of a layer are left out, and counted in [`Summary`]:
//!
//! - Device nodes: a pod's `/dev` is its own.
//! - Extended attributes other than `user.*` and `security.capability`: the others are meant for
//!   the host's kernel (SELinux) or for its overlay file system, which would trust them.
//!
//! A user other than root cannot give files away. Then everything belongs to that user
//! ([`Ownership::Squashed`]): its permissions always include reading and writing by the owner, and a
//! set-user-ID bit stays only where the owner was to be root, as whom the guest sees that user.

mod entry;
mod removal;
#[cfg(test)]
mod tests;
mod tree;

use std::io::{self, Read};
use std::os::fd::OwnedFd;

use thiserror::Error;

use self::tree::Tree;
use crate::compression::decompress;
use crate::digest::{Digest, Hashing};
use crate::tar::{Archive, TarError};

/// Levels of directories: what is deeper can be neither listed nor removed within the usual limit
/// of open files.
pub const MAX_DEPTH: usize = 256;

/// What an image may cost at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all layers after decompression.
    pub bytes: u64,
    /// Entries of all layers.
    pub entries: u64,
    /// Bytes of one file, holes included.
    pub file_size: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 64 << 30,
            entries: 4_000_000,
            file_size: 1 << 40,
        }
    }
}

/// Whom files belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Whom the layer says; needs root.
    Kept,
    /// Whoever unpacks.
    Squashed,
    /// Whoever unpacks, for whom these are files and nothing more: they have no set-ID bits and no
    /// attributes.
    Taken,
}

impl Ownership {
    /// What this process can do.
    #[must_use]
    pub fn of_this_process() -> Self {
        if rustix::process::geteuid().is_root() {
            Self::Kept
        } else {
            Self::Squashed
        }
    }
}

/// What was unpacked, and what was left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Entries.
    pub entries: u64,
    /// Bytes after decompression.
    pub bytes: u64,
    /// Device nodes that were left out.
    pub devices: u64,
    /// Extended attributes that were left out.
    pub attributes: u64,
}

/// A layer that cannot be unpacked.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// The archive is damaged.
    #[error("the layer's archive")]
    Archive(#[from] TarError),
    /// The compressed data are damaged.
    #[error("the layer cannot be decompressed")]
    Compression(#[source] io::Error),
    /// An entry cannot be what it says.
    #[error("entry `{path}`")]
    Entry {
        /// Its name, printable.
        path: String,
        /// Why.
        source: EntryError,
    },
    /// The limit of bytes is reached.
    #[error("the image has more than {0} bytes when it is unpacked, which is the limit")]
    Bytes(u64),
    /// The limit of entries is reached.
    #[error("the image has more than {0} files, which is the limit")]
    Entries(u64),
    /// The target itself cannot be used.
    #[error("the target directory")]
    Target(#[source] io::Error),
}

/// Why an entry cannot be unpacked.
#[derive(Debug, Error)]
pub enum EntryError {
    /// Its name has `..`.
    #[error("`..` would lead out of the image")]
    Outside,
    /// Its name cannot be a file's.
    #[error("no file can have this name")]
    Name,
    /// Too many levels of directories.
    #[error("more than {MAX_DEPTH} levels of directories")]
    Depth,
    /// The file is too large.
    #[error("a file of {size} bytes; the limit is {limit}")]
    Size {
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A user or group that Linux cannot have.
    #[error("owner {0} is no user or group that there can be")]
    Owner(u64),
    /// What a hard link is to.
    #[error("is a hard link to `{target}`, which is not in the image")]
    LinkTarget {
        /// The target.
        target: String,
    },
    /// Its data end too early.
    #[error(transparent)]
    Data(#[from] TarError),
    /// A system call failed.
    #[error("{doing}")]
    System {
        /// What it was to do.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// For `map_err` on system calls: what they were to do.
fn failed(doing: &'static str) -> impl Fn(rustix::io::Errno) -> EntryError {
    move |errno| EntryError::System {
        doing,
        source: errno.into(),
    }
}

/// A name from an archive, such that it can be shown.
fn printable(path: &[u8]) -> String {
    const SHOWN: usize = 200;
    let mut text = path.escape_ascii().to_string();
    if text.len() > SHOWN {
        text.truncate(SHOWN);
        text.push('…');
    }
    text
}

/// Unpacks layers into a directory.
pub struct Unpacker {
    tree: Tree,
    limits: Limits,
    summary: Summary,
}

impl Unpacker {
    /// Unpacks into `dir`, which is empty and which nobody else changes.
    #[must_use]
    pub fn new(dir: OwnedFd, ownership: Ownership, limits: Limits) -> Self {
        Self {
            tree: Tree::new(dir, ownership),
            limits,
            summary: Summary::default(),
        }
    }

    /// Puts a layer, compressed or not, over what is there, and gives its digest before compression.
    ///
    /// # Errors
    /// [`UnpackError`]; the tree is then of no use.
    pub fn layer(&mut self, layer: impl Read) -> Result<Digest, UnpackError> {
        let plain = decompress(layer).map_err(UnpackError::Compression)?;
        let mut archive = Archive::new(Metered {
            from: Hashing::new(plain),
            left: self.limits.bytes - self.summary.bytes,
        });
        let unpacked = self
            .entries(&mut archive)
            .and_then(|()| self.tree.end_layer());
        let mut rest = archive.into_inner();
        // A limit shows as an error of whatever was being read.
        if unpacked.is_err() && rest.left == 0 {
            return Err(UnpackError::Bytes(self.limits.bytes));
        }
        unpacked?;
        // What comes after the end of the archive belongs to the digest.
        match io::copy(&mut rest, &mut io::sink()) {
            Ok(_) => {}
            Err(_) if rest.left == 0 => return Err(UnpackError::Bytes(self.limits.bytes)),
            Err(error) => return Err(UnpackError::Compression(error)),
        }
        self.summary.bytes = self.limits.bytes - rest.left;
        Ok(rest.from.finish())
    }

    /// Unpacks an archive of files, not compressed, in which no name deletes anything.
    ///
    /// # Errors
    /// [`UnpackError`]; the tree is then of no use.
    pub fn files(&mut self, archive: impl Read) -> Result<(), UnpackError> {
        self.tree.names_are_plain = true;
        let mut archive = Archive::new(Metered {
            from: archive,
            left: self.limits.bytes - self.summary.bytes,
        });
        let unpacked = self
            .entries(&mut archive)
            .and_then(|()| self.tree.end_layer());
        let left = archive.into_inner().left;
        self.summary.bytes = self.limits.bytes - left;
        match unpacked {
            Err(_) if left == 0 => Err(UnpackError::Bytes(self.limits.bytes)),
            other => other,
        }
    }

    /// What has been unpacked so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let (devices, attributes) = self.tree.left_out();
        Summary {
            devices,
            attributes,
            ..self.summary
        }
    }

    fn entries(&mut self, archive: &mut Archive<impl Read>) -> Result<(), UnpackError> {
        while let Some(entry) = archive.next_entry()? {
            self.summary.entries += 1;
            if self.summary.entries > self.limits.entries {
                return Err(UnpackError::Entries(self.limits.entries));
            }
            let named = |source| UnpackError::Entry {
                path: printable(&entry.path),
                source,
            };
            if entry.size > self.limits.file_size {
                return Err(named(EntryError::Size {
                    size: entry.size,
                    limit: self.limits.file_size,
                }));
            }
            self.tree.add(&entry, archive).map_err(named)?;
        }
        Ok(())
    }
}

/// Gives no more than `left` bytes; there is an error in place of the next.
struct Metered<R> {
    from: R,
    left: u64,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            // Exactly as much as is allowed is no error.
            return match self.from.read(&mut [0]) {
                Ok(1..) => Err(io::ErrorKind::FileTooLarge.into()),
                other => other,
            };
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let length = self.from.read(&mut buffer[..most])?;
        self.left -= length as u64;
        Ok(length)
    }
}
