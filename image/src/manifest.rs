//! The documents that describe an image: index, manifest, and which layers there are.
//!
//! What is read comes from strangers. Documents are bounded before they are parsed, and whatever
//! fits neither an index nor a manifest, or could be read as both, is refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::digest::Digest;
use crate::platform::Platform;

/// Largest index, manifest or configuration.
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// Largest layer as it is stored.
pub const MAX_BLOB: u64 = 64 << 30;
/// Most layers of an image.
pub const MAX_LAYERS: usize = 512;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// What a layer's media type may be; how it is compressed is seen from its first bytes.
const LAYERS: [&str; 8] = [
    OCI_LAYER,
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

/// A document that describes no image that podvmm can run.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// No JSON, or members of the wrong kind.
    #[error("the {what} {digest} cannot be read")]
    Syntax {
        /// Which document.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// Neither an index nor a manifest.
    #[error("{digest} is neither an index nor a manifest of an image, but `{media_type}`")]
    Kind {
        /// The document.
        digest: Digest,
        /// What it says it is.
        media_type: String,
    },
    /// Both an index and a manifest.
    #[error("{0} could be read as an index and as a manifest; such a document is not trusted")]
    Ambiguous(Digest),
    /// The old kind of manifest.
    #[error(
        "{0} is of Docker's schema 1, which is no longer supported; push the image again with a \
         current tool"
    )]
    Schema1(Digest),
    /// Not for this platform.
    #[error("there is no image for {wanted}; there are: {offered}; choose with --platform")]
    Platform {
        /// What was asked for.
        wanted: Platform,
        /// What is there.
        offered: String,
    },
    /// An index within an index, again and again.
    #[error("the index {0} leads to another index; only one within another is followed")]
    Nested(Digest),
    /// A file of another kind that is kept like an image.
    #[error("{digest} is no container image: its configuration is `{media_type}`")]
    NoImage {
        /// The manifest.
        digest: Digest,
        /// The configuration's media type.
        media_type: String,
    },
    /// No layers.
    #[error("image {0} has no layers, so there is nothing in it to run")]
    NoLayers(Digest),
    /// Too many layers.
    #[error("image {digest} has {count} layers; at most {MAX_LAYERS} are supported")]
    TooManyLayers {
        /// The manifest.
        digest: Digest,
        /// How many.
        count: usize,
    },
    /// A layer of an unknown kind.
    #[error("layer {digest} is a `{media_type}`; only tar archives are supported")]
    Layer {
        /// The layer.
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
    /// The configuration does not list as many layers as the manifest.
    #[error("image {digest} has {layers} layers, but its configuration knows {diff_ids}")]
    Layers {
        /// The manifest.
        digest: Digest,
        /// Layers of the manifest.
        layers: usize,
        /// Layers of the configuration.
        diff_ids: usize,
    },
    /// A document or layer beyond all bounds.
    #[error("{what} {digest} has {size} bytes; at most {limit} are supported")]
    TooLarge {
        /// Which kind.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// Its size.
        size: u64,
        /// The bound.
        limit: u64,
    },
}

/// Points to a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its name.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What it runs on, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Anything else.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Refuses what is larger than `limit`.
    pub(crate) fn at_most(&self, what: &'static str, limit: u64) -> Result<(), ManifestError> {
        if self.size <= limit {
            return Ok(());
        }
        Err(ManifestError::TooLarge {
            what,
            digest: self.digest,
            size: self.size,
            limit,
        })
    }
}

/// What is there for several platforms, or under several names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Index {
    /// Manifests, or further indices.
    pub manifests: Vec<Descriptor>,
}

/// One image: its configuration and layers, the lowest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// The layers.
    pub layers: Vec<Descriptor>,
}

/// An index or a manifest.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    Index(Index),
    Manifest(Manifest),
}

/// The members by which documents are told apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    config: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a document whose digest has been verified. `media_type` is what its source calls it.
    pub(crate) fn parse(
        digest: Digest,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Self, ManifestError> {
        let outline: Outline = parse("document", digest, bytes)?;
        if outline.schema_version == 1 {
            return Err(ManifestError::Schema1(digest));
        }
        let said = outline.media_type.as_deref().unwrap_or(media_type);
        let has = (
            outline.manifests.is_some(),
            outline.layers.is_some() || outline.config.is_some(),
        );
        match (said, has) {
            (_, (true, true)) => Err(ManifestError::Ambiguous(digest)),
            (OCI_MANIFEST | DOCKER_MANIFEST, (true, false))
            | (OCI_INDEX | DOCKER_LIST, (false, true)) => Err(ManifestError::Ambiguous(digest)),
            (_, (true, false)) => Ok(Self::Index(parse("index", digest, bytes)?)),
            (_, (false, true)) => {
                let manifest: Manifest = parse("manifest", digest, bytes)?;
                manifest.check(digest)?;
                Ok(Self::Manifest(manifest))
            }
            (_, (false, false)) => Err(ManifestError::Kind {
                digest,
                media_type: said.into(),
            }),
        }
    }
}

/// Reads a document and tells which one could not be read.
pub(crate) fn parse<'a, T: Deserialize<'a>>(
    what: &'static str,
    digest: Digest,
    bytes: &'a [u8],
) -> Result<T, ManifestError> {
    serde_json::from_slice(bytes).map_err(|source| ManifestError::Syntax {
        what,
        digest,
        source,
    })
}

impl Manifest {
    fn check(&self, digest: Digest) -> Result<(), ManifestError> {
        if ![OCI_CONFIG, DOCKER_CONFIG].contains(&self.config.media_type.as_str()) {
            return Err(ManifestError::NoImage {
                digest,
                media_type: self.config.media_type.clone(),
            });
        }
        if self.layers.is_empty() {
            return Err(ManifestError::NoLayers(digest));
        }
        if self.layers.len() > MAX_LAYERS {
            return Err(ManifestError::TooManyLayers {
                digest,
                count: self.layers.len(),
            });
        }
        self.config.at_most("configuration", MAX_DOCUMENT)?;
        for layer in &self.layers {
            layer.at_most("layer", MAX_BLOB)?;
            if !LAYERS.contains(&layer.media_type.as_str()) {
                return Err(ManifestError::Layer {
                    digest: layer.digest,
                    media_type: layer.media_type.clone(),
                });
            }
        }
        Ok(())
    }

    /// Bytes of configuration and layers, as they are stored.
    #[must_use]
    pub fn size(&self) -> u64 {
        let layers = self.layers.iter().map(|layer| layer.size);
        layers.fold(self.config.size, u64::saturating_add)
    }
}

impl Index {
    /// The entry for a platform. An entry that names none is taken if it is the only one.
    pub(crate) fn choose(&self, wanted: &Platform) -> Result<&Descriptor, ManifestError> {
        let named = self.manifests.iter().find(|entry| {
            let offered = entry.platform.as_ref();
            offered.is_some_and(|offered| wanted.accepts(offered))
        });
        let unnamed = match &self.manifests[..] {
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        };
        named.or(unnamed).ok_or_else(|| {
            let mut offered: Vec<_> = self
                .manifests
                .iter()
                .map(|entry| match &entry.platform {
                    Some(platform) => platform.to_string(),
                    None => "one that names no platform".into(),
                })
                .filter(|name| !name.starts_with("unknown/"))
                .collect();
            offered.dedup();
            offered.truncate(20);
            ManifestError::Platform {
                wanted: wanted.clone(),
                offered: if offered.is_empty() {
                    "none".into()
                } else {
                    offered.join(", ")
                },
            }
        })
    }
}

/// Many tools write `null` for what is not there.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(document: &Value) -> Result<Document, ManifestError> {
        let bytes = document.to_string().into_bytes();
        Document::parse(Digest::of(&bytes), "", &bytes)
    }

    fn blob(media_type: &str, size: u64) -> Value {
        json!({ "mediaType": media_type, "digest": Digest::of(b"").to_string(), "size": size })
    }

    fn manifest(layers: &[Value]) -> Value {
        json!({ "schemaVersion": 2, "config": blob(OCI_CONFIG, 2), "layers": layers })
    }

    #[test]
    fn what_describes_no_image_is_refused_with_the_reason() {
        let layer = blob(OCI_LAYER, 1);
        let mut both = manifest(std::slice::from_ref(&layer));
        both["manifests"] = json!([]);
        let mut lying = manifest(std::slice::from_ref(&layer));
        lying["mediaType"] = OCI_INDEX.into();
        let mut chart = manifest(std::slice::from_ref(&layer));
        chart["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into();
        let mut huge = manifest(&[]);
        huge["config"]["size"] = (MAX_DOCUMENT + 1).into();
        huge["layers"] = json!([layer]);
        for (document, word) in [
            (json!({ "schemaVersion": 1 }), "schema 1"),
            (json!({ "schemaVersion": 2 }), "neither"),
            (json!("text"), "cannot be read"),
            (both, "as an index and as a manifest"),
            (lying, "as an index and as a manifest"),
            (chart, "helm"),
            (manifest(&[]), "no layers"),
            (
                manifest(&vec![layer.clone(); MAX_LAYERS + 1]),
                "at most 512",
            ),
            (manifest(&[blob("text/plain", 1)]), "text/plain"),
            (manifest(&[blob(OCI_LAYER, MAX_BLOB + 1)]), "layer"),
            (huge, "configuration"),
        ] {
            let error = read(&document).unwrap_err().to_string();
            assert!(error.contains(word), "{document}: {error}");
        }
        assert!(matches!(
            read(&manifest(&[layer])),
            Ok(Document::Manifest(_))
        ));
    }

    #[test]
    fn the_entry_for_a_platform_is_found() {
        let entry = |platform: Option<&str>, size| Descriptor {
            platform: platform.map(|text| text.parse().unwrap()),
            ..Descriptor::new(OCI_MANIFEST, Digest::of(b""), size)
        };
        let index = Index {
            manifests: vec![
                entry(Some("unknown/unknown"), 0),
                entry(Some("linux/arm64"), 1),
                entry(Some("linux/amd64"), 2),
            ],
        };
        assert_eq!(index.choose(&Platform::default()).unwrap().size, 2);
        let error = index.choose(&"linux/s390x".parse().unwrap()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("linux/arm64, linux/amd64") && !text.contains("unknown"),
            "{text}"
        );
        let index = Index {
            manifests: vec![entry(None, 7)],
        };
        assert_eq!(index.choose(&Platform::default()).unwrap().size, 7);
    }
}
