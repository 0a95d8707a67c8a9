//! What of the host a guest sees: named directories and files.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustix::fs::FileType;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::server::{FsUsage, Server};
use super::spec::NAME_MAX;

/// How long the guest may believe what it was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CachePolicy {
    /// Nothing is cached: each access reaches the host.
    Never,
    /// Names and attributes for a second; data until the file is opened again. For what others
    /// write to as well.
    #[default]
    Auto,
    /// Names, attributes, data and absence for a day. For what nobody else changes: images, and
    /// directories that only this guest writes to.
    Always,
}

impl CachePolicy {
    /// For names and attributes.
    pub(super) fn timeout(self) -> Duration {
        match self {
            Self::Never => Duration::ZERO,
            Self::Auto => Duration::from_secs(1),
            Self::Always => Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// Which extended attributes a guest may use.
///
/// Whatever the policy, `security.*` is never written: on the host `security.capability` gives
/// privileges to whoever runs the file (CVE-2021-20263 is about a relative of it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum XattrPolicy {
    /// None: the export looks like a file system without them.
    Off,
    /// All are read, `user.*` is written.
    #[default]
    User,
    /// As `User`, and `trusted.overlay.*` is written: for the upper directory of an overlay that
    /// the guest mounts. The VMM needs CAP_SYS_ADMIN for that.
    Overlay,
}

/// An export that cannot be offered.
#[derive(Debug, Error)]
pub enum InvalidExport {
    /// The name cannot be that of a directory entry.
    #[error(
        "export name {name:?} must have 1 to 255 bytes, no '/' and no NUL, and be neither . nor .."
    )]
    Name {
        /// The name as it was given.
        name: String,
    },
    /// What was given is neither a directory nor a regular file.
    #[error("export {name:?} is neither a directory nor a regular file")]
    Kind {
        /// Name of the export.
        name: String,
    },
    /// The descriptor cannot be looked at.
    #[error("export {name:?} cannot be examined")]
    Stat {
        /// Name of the export.
        name: String,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// There is one of that name already.
    #[error("there is an export {name:?} already")]
    Exists {
        /// Name of the export.
        name: String,
    },
}

/// A directory or file of the host and the terms on which a guest may have it.
///
/// The descriptor is all that is needed of it: nothing is mounted, and no path of the host is
/// looked at again.
#[derive(Debug)]
pub struct Export {
    pub(super) name: CString,
    pub(super) fd: OwnedFd,
    pub(super) kind: FileType,
    pub(super) read_only: bool,
    pub(super) cache: CachePolicy,
    pub(super) xattr: XattrPolicy,
}

impl Export {
    /// Offers what `fd` stands for as `name`, read-only. `fd` may be an `O_PATH` descriptor.
    ///
    /// # Errors
    /// [`InvalidExport`] when the name is no name, or `fd` is neither directory nor regular file.
    pub fn new(name: &str, fd: OwnedFd) -> Result<Self, InvalidExport> {
        let wrong = || InvalidExport::Name { name: name.into() };
        let c_name = CString::new(name).map_err(|_| wrong())?;
        if name.is_empty()
            || name.len() > NAME_MAX
            || name.contains('/')
            || [".", ".."].contains(&name)
        {
            return Err(wrong());
        }
        let stat = rustix::fs::fstat(&fd).map_err(|errno| InvalidExport::Stat {
            name: name.into(),
            source: errno.into(),
        })?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !matches!(kind, FileType::Directory | FileType::RegularFile) {
            return Err(InvalidExport::Kind { name: name.into() });
        }
        Ok(Self {
            name: c_name,
            fd,
            kind,
            read_only: true,
            cache: CachePolicy::default(),
            xattr: XattrPolicy::default(),
        })
    }

    /// Lets the guest change it.
    #[must_use]
    pub fn writable(mut self) -> Self {
        self.read_only = false;
        self
    }

    /// Sets how long the guest may believe what it was told.
    #[must_use]
    pub fn cache(mut self, cache: CachePolicy) -> Self {
        self.cache = cache;
        self
    }

    /// Sets which extended attributes the guest may use.
    #[must_use]
    pub fn xattr(mut self, xattr: XattrPolicy) -> Self {
        self.xattr = xattr;
        self
    }
}

/// An export in use.
#[derive(Debug)]
pub(super) struct LiveExport {
    /// Unique in the life of the server, so that a new export of an old name is not mistaken for it.
    pub id: u32,
    pub name: CString,
    pub kind: FileType,
    pub read_only: bool,
    pub cache: CachePolicy,
    pub xattr: XattrPolicy,
    /// Cleared by the first refusal: `O_NOATIME` needs the owner's rights.
    pub noatime: AtomicBool,
    root: RwLock<Option<Arc<OwnedFd>>>,
}

impl LiveExport {
    pub fn new(id: u32, export: Export) -> Self {
        Self {
            id,
            name: export.name,
            kind: export.kind,
            read_only: export.read_only,
            cache: export.cache,
            xattr: export.xattr,
            noatime: AtomicBool::new(export.read_only),
            root: RwLock::new(Some(Arc::new(export.fd))),
        }
    }

    /// Its directory or file; `ESTALE` once it was removed.
    pub fn root(&self) -> Result<Arc<OwnedFd>, Errno> {
        let root = self.root.read().unwrap_or_else(PoisonError::into_inner);
        root.clone().ok_or(Errno::STALE)
    }

    /// Takes it out of use.
    pub fn close(&self) {
        *self.root.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The exports of a device, also while it runs. Clones refer to the same set.
#[derive(Clone)]
pub struct ExportHandle(pub(super) Arc<Server>);

impl ExportHandle {
    /// Offers one more.
    ///
    /// # Errors
    /// [`InvalidExport::Exists`] when the name is taken.
    pub fn add(&self, export: Export) -> Result<(), InvalidExport> {
        self.0.exports.add(export)
    }

    /// Takes the export `name` away and closes all descriptors that stem from it; what the guest
    /// still holds of it answers `ESTALE`. Requests that are being served end first or fail.
    /// Returns whether there was one.
    pub fn remove(&self, name: &str) -> bool {
        let Ok(name) = CString::new(name) else {
            return false;
        };
        self.0.remove_export(&name)
    }

    /// What the guest holds of the exports.
    #[must_use]
    pub fn usage(&self) -> FsUsage {
        self.0.usage()
    }

    /// Names of the exports, in the order in which they were added.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let list = self.0.exports.list();
        list.iter()
            .map(|export| export.name.to_string_lossy().into_owned())
            .collect()
    }
}

/// The set of exports in use.
#[derive(Debug, Default)]
pub(super) struct ExportSet(RwLock<(u32, Vec<Arc<LiveExport>>)>);

impl ExportSet {
    pub fn add(&self, export: Export) -> Result<(), InvalidExport> {
        let mut set = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if set.1.iter().any(|known| known.name == export.name) {
            return Err(InvalidExport::Exists {
                name: export.name.to_string_lossy().into_owned(),
            });
        }
        set.0 += 1;
        let id = set.0;
        set.1.push(Arc::new(LiveExport::new(id, export)));
        Ok(())
    }

    pub fn remove(&self, name: &CStr) -> Option<Arc<LiveExport>> {
        let mut set = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let at = set
            .1
            .iter()
            .position(|known| known.name.as_c_str() == name)?;
        Some(set.1.remove(at))
    }

    pub fn get(&self, name: &CStr) -> Option<Arc<LiveExport>> {
        let set = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let found = set.1.iter().find(|known| known.name.as_c_str() == name);
        found.cloned()
    }

    pub fn list(&self) -> Vec<Arc<LiveExport>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .clone()
    }
}
