//! OCI image layouts, in a directory or an archive.

use std::io::Read;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Found, From, SourceError};
use crate::digest::Digest;
use crate::manifest::{Descriptor, Document, Index, MAX_DOCUMENT, ManifestError};
use crate::platform::Platform;
use crate::progress::Event;
use crate::reference::Reference;

/// Where tools note what a manifest is called, the whole name first.
const NAMES: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layout {
    image_layout_version: String,
}

pub(super) fn fetch(
    from: &From<'_>,
    tag: Option<&str>,
    platform: &Platform,
) -> Result<Found, SourceError> {
    let layout: Layout = from.json("oci-layout")?;
    if !layout.image_layout_version.starts_with("1.") {
        return Err(SourceError::Version {
            path: from.path.into(),
            version: layout.image_layout_version,
        });
    }
    let index: Index = from.json("index.json")?;
    let candidates = candidates(&index, tag);
    // Several manifests of one name, or of none, are those of one image for several platforms.
    let same = candidates
        .iter()
        .all(|entry| names(entry).eq(names(candidates[0])));
    if candidates.is_empty() || !same {
        return Err(SourceError::Choice {
            path: from.path.into(),
            tag: tag.map(str::to_owned),
            names: index.manifests.iter().map(shown).collect(),
        });
    }
    let called = names(candidates[0]).find_map(|name| whole_name(name));
    let chosen = match candidates[..] {
        [only] => only.clone(),
        _ => Index {
            manifests: candidates.into_iter().cloned().collect(),
        }
        .choose(platform)?
        .clone(),
    };
    let manifest = from.manifest(&chosen, platform)?;
    Ok(Found {
        manifest,
        name: called,
    })
}

/// The entries that a tag means; without one, all.
fn candidates<'a>(index: &'a Index, tag: Option<&str>) -> Vec<&'a Descriptor> {
    let Some(tag) = tag else {
        return index.manifests.iter().collect();
    };
    let meant = |entry: &&Descriptor| {
        names(entry)
            .any(|name| name == tag || whole_name(name).is_some_and(|name| name.tag() == Some(tag)))
            || entry.digest.to_string() == tag
    };
    index.manifests.iter().filter(meant).collect()
}

fn names(entry: &Descriptor) -> impl Iterator<Item = &String> {
    NAMES.iter().filter_map(|key| entry.annotations.get(*key))
}

/// A name that says more than a tag.
fn whole_name(name: &str) -> Option<Reference> {
    let whole = name.contains(['/', ':']);
    whole.then(|| name.parse().ok()).flatten()
}

fn shown(entry: &Descriptor) -> String {
    let name = names(entry).next().cloned();
    name.unwrap_or_else(|| entry.digest.to_string())
}

impl From<'_> {
    /// A small file with JSON.
    pub(super) fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, SourceError> {
        let bytes = self.small(name)?;
        serde_json::from_slice(&bytes).map_err(|source| SourceError::Syntax {
            path: self.path.into(),
            name: name.into(),
            source,
        })
    }

    /// The bytes of a small file.
    pub(super) fn small(&self, name: &str) -> Result<Vec<u8>, SourceError> {
        let (reader, size) = self.open(name)?;
        if size > MAX_DOCUMENT {
            return Err(SourceError::TooLarge {
                path: self.path.into(),
                name: name.into(),
                size,
                limit: MAX_DOCUMENT,
            });
        }
        let mut bytes = Vec::new();
        let read = reader.take(MAX_DOCUMENT).read_to_end(&mut bytes);
        read.map_err(|source| SourceError::file(self.path, source))?;
        Ok(bytes)
    }

    pub(super) fn open(&self, name: &str) -> Result<(Box<dyn Read + '_>, u64), SourceError> {
        let found = self.files.get(name);
        found
            .map_err(|source| SourceError::file(self.path, source))?
            .ok_or_else(|| SourceError::Missing {
                path: self.path.into(),
                name: name.into(),
            })
    }

    /// Takes in the manifest that an entry of an index leads to, and all that it needs.
    fn manifest(&self, entry: &Descriptor, platform: &Platform) -> Result<Descriptor, SourceError> {
        let mut at = entry.clone();
        // An index may lead to one more, which is that of one image for several platforms.
        for _ in 0..2 {
            match self.document(&at)? {
                Document::Index(index) => at = index.choose(platform)?.clone(),
                Document::Manifest(manifest) => {
                    self.blob(&manifest.config)?;
                    for layer in &manifest.layers {
                        self.blob(layer)?;
                    }
                    return Ok(at);
                }
            }
        }
        Err(ManifestError::Nested(entry.digest).into())
    }

    fn document(&self, at: &Descriptor) -> Result<Document, SourceError> {
        at.at_most("document", MAX_DOCUMENT)?;
        let bytes = self.small(&blob_name(at.digest))?;
        self.store.blobs().put(at, &bytes)?;
        Ok(Document::parse(at.digest, &at.media_type, &bytes)?)
    }

    fn blob(&self, wanted: &Descriptor) -> Result<(), SourceError> {
        if self.store.blobs().has(wanted)? {
            return Ok(());
        }
        let (mut reader, _) = self.open(&blob_name(wanted.digest))?;
        self.take(wanted, &mut reader)
    }

    /// Takes in a blob, and says so.
    pub(super) fn take(
        &self,
        wanted: &Descriptor,
        reader: &mut dyn Read,
    ) -> Result<(), SourceError> {
        self.store.blobs().copy(wanted, reader, self.progress)?;
        self.progress.event(Event::Fetched {
            digest: wanted.digest,
            size: wanted.size,
        });
        Ok(())
    }
}

fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
