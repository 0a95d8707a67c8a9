//! Where images come from.
//!
//! ```text
//!   directory ─┐                ┌─ OCI layout ──────┐
//!   tar ───────┼─▶ Files ───────┤                   ├─▶ blobs, verified ──▶ name
//!   tar.gz ────┘                └─ docker archive ──┤
//!   registry ───────────────────────────────────────┘
//! ```

mod docker;
mod error;
mod files;
mod oci;
pub mod registry;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use self::error::SourceError;
use self::files::Files;
pub use self::registry::{RegistryError, RegistryOptions};
use crate::manifest::Descriptor;
use crate::platform::Platform;
use crate::progress::{Event, Progress};
use crate::reference::Reference;
use crate::store::{Image, Store};
use crate::unpack::Limits;

/// Where an image is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a file or directory of this host.
    Path(PathBuf),
    /// In the store, or in a registry.
    Name(Reference),
}

impl FromStr for Source {
    type Err = crate::reference::ReferenceError;

    /// What begins with `/`, `./` or `../` is a path; anything else is a name.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = ["/", "./", "../"]
            .iter()
            .any(|start| text.starts_with(start));
        if path || text == "." || text == ".." {
            return Ok(Self::Path(text.into()));
        }
        text.parse().map(Self::Name)
    }
}

/// Whether an image is asked of its registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pull {
    /// Even if it is in the store: the name may stand for another by now.
    Always,
    /// If it is not in the store.
    #[default]
    Missing,
    /// Never.
    Never,
}

/// What is to be taken from a source.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// For which platform.
    pub platform: Platform,
    /// Under which name it is to be known; by default the one that the source has for it.
    pub name: Option<Reference>,
    /// What it may cost.
    pub limits: Limits,
    /// How a registry is spoken to.
    pub registry: RegistryOptions,
}

/// An image in a source: where its manifest is, and what it is called there.
struct Found {
    manifest: Descriptor,
    name: Option<Reference>,
}

impl Store {
    /// The image of a source: out of a file, out of the store, or out of a registry.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn acquire(
        &self,
        source: &Source,
        pull: Pull,
        wanted: &Wanted,
        progress: &dyn Progress,
    ) -> Result<Image, SourceError> {
        let name = match source {
            Source::Path(path) => return self.import(path, wanted, progress),
            Source::Name(name) => name,
        };
        if pull != Pull::Always
            && let Some(image) = self.resolve_for(name, &wanted.platform)?
        {
            return Ok(image);
        }
        if pull == Pull::Never {
            return Err(SourceError::Absent(name.to_string()));
        }
        let _busy = self.busy()?;
        let options = &wanted.registry;
        let found = registry::fetch(self, name, &wanted.platform, options, progress)?;
        Ok(self.add(name, &wanted.platform, &found.manifest)?)
    }

    /// Takes an image out of a file or directory: an OCI layout, or an archive of one or of
    /// `docker save`. `path` may end in `:NAME` or `:TAG` if there are several.
    ///
    /// # Errors
    /// [`SourceError`] when there is none, or a part is missing, damaged or lies about its digest.
    pub fn import(
        &self,
        path: &Path,
        wanted: &Wanted,
        progress: &dyn Progress,
    ) -> Result<Image, SourceError> {
        let (path, tag) = split_tag(path);
        let shown = path.display().to_string();
        progress.event(Event::Resolving(&shown));
        let _busy = self.busy()?;
        let files = Files::open(&path, &self.scratch(), wanted.limits.bytes)
            .map_err(|source| SourceError::file(&path, source))?;
        let from = From {
            store: self,
            files: &files,
            path: &path,
            progress,
        };
        let tag = tag.as_deref();
        let found = if files.has("oci-layout") {
            oci::fetch(&from, tag, &wanted.platform)?
        } else if files.has("manifest.json") {
            docker::fetch(&from, tag)?
        } else {
            return Err(SourceError::Unknown(path));
        };
        let name = wanted.name.clone().or(found.name);
        let name = name.map_or_else(|| made_up_name(&path, found.manifest.digest), Ok)?;
        Ok(self.add(&name, &wanted.platform, &found.manifest)?)
    }
}

/// What reading an image from files needs.
struct From<'a> {
    store: &'a Store,
    files: &'a Files,
    path: &'a Path,
    progress: &'a dyn Progress,
}

/// A path that is not there as it stands may be one with a name or tag after it.
fn split_tag(path: &Path) -> (PathBuf, Option<String>) {
    let text = path.to_str().filter(|_| !path.exists()).unwrap_or_default();
    let mut colons = text.rmatch_indices(':');
    let found = colons.find(|(colon, _)| Path::new(&text[..*colon]).exists());
    match found {
        Some((colon, _)) => (text[..colon].into(), Some(text[colon + 1..].into())),
        None => (path.into(), None),
    }
}

/// `localhost/` and the file's name, with as much of the digest as makes it the image's own.
fn made_up_name(path: &Path, digest: crate::digest::Digest) -> Result<Reference, SourceError> {
    let stem = std::fs::canonicalize(path)
        .ok()
        .and_then(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .unwrap_or_default();
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let name: String = stem.to_lowercase().chars().filter(|c| word(*c)).collect();
    let name = if name.is_empty() { "image" } else { &name };
    let text = format!("localhost/{name}:{}", digest.short());
    text.parse().map_err(SourceError::Name)
}
