//! Archives of `docker save`.
//!
//! They have no manifest that could be verified: one is made here, of the configuration and the
//! layers, which are verified by the configuration's diff ids when the image is unpacked.

use std::io::{self, Read};

use serde::Deserialize;

use super::{Found, From, SourceError};
use crate::digest::{Digest, Hashing};
use crate::manifest::{Descriptor, Manifest, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use crate::reference::Reference;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default, deserialize_with = "crate::manifest::or_default")]
    repo_tags: Vec<String>,
    #[serde(deserialize_with = "crate::manifest::or_default")]
    layers: Vec<String>,
}

pub(super) fn fetch(from: &From<'_>, tag: Option<&str>) -> Result<Found, SourceError> {
    let entries: Vec<Entry> = from.json("manifest.json")?;
    let (entry, name) = choose(from, &entries, tag)?;
    let config = from.small(&entry.config)?;
    let config_at = Descriptor::new(OCI_CONFIG, Digest::of(&config), config.len() as u64);
    from.store.blobs().put(&config_at, &config)?;
    let mut layers = Vec::new();
    for layer in &entry.layers {
        layers.push(take_layer(from, layer)?);
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST.into(),
        config: config_at,
        layers,
    };
    let bytes = serde_json::to_vec(&manifest).map_err(|source| SourceError::Syntax {
        path: from.path.into(),
        name: "manifest.json".into(),
        source,
    })?;
    let at = Descriptor::new(OCI_MANIFEST, Digest::of(&bytes), bytes.len() as u64);
    from.store.blobs().put(&at, &bytes)?;
    Ok(Found { manifest: at, name })
}

fn choose<'a>(
    from: &From<'_>,
    entries: &'a [Entry],
    tag: Option<&str>,
) -> Result<(&'a Entry, Option<Reference>), SourceError> {
    let name = |text: &String| text.parse::<Reference>().ok();
    let choice = || SourceError::Choice {
        path: from.path.into(),
        tag: tag.map(str::to_owned),
        names: entries
            .iter()
            .flat_map(|entry| entry.repo_tags.clone())
            .collect(),
    };
    match (entries, tag) {
        ([entry], None) => Ok((entry, entry.repo_tags.iter().find_map(name))),
        (_, None) => Err(choice()),
        (_, Some(tag)) => {
            let named = entries.iter().find_map(|entry| {
                let mut names = entry.repo_tags.iter().filter_map(name);
                let meant = names.find(|name| name.tag() == Some(tag))?;
                Some((entry, Some(meant)))
            });
            named.ok_or_else(choice)
        }
    }
}

/// A layer's digest is known only when all of it has been read.
fn take_layer(from: &From<'_>, name: &str) -> Result<Descriptor, SourceError> {
    let (reader, size) = from.open(name)?;
    let mut hashing = Hashing::new(reader.take(size));
    io::copy(&mut hashing, &mut io::sink())
        .map_err(|source| SourceError::file(from.path, source))?;
    let at = Descriptor::new(OCI_LAYER, hashing.finish(), size);
    if !from.store.blobs().has(&at)? {
        let (mut reader, _) = from.open(name)?;
        from.take(&at, &mut reader)?;
    }
    Ok(at)
}
