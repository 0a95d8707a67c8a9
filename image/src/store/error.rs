//! What can go wrong in a store.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::digest::Digest;
use crate::manifest::ManifestError;
use crate::unpack::UnpackError;

/// A store that cannot do what it is asked for.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A system call failed.
    #[error("image store: {path}: cannot be {doing}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was to be done with it.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else could change what is kept there.
    #[error(
        "image store {path}: belongs to user {owner} or can be changed by others, who could change \
         what pods run; name another with --store"
    )]
    Foreign {
        /// The store.
        path: PathBuf,
        /// Whom it belongs to.
        owner: u32,
    },
    /// The index of names is damaged.
    #[error("image store: {path}: is damaged; move it away and pull the images again")]
    Names {
        /// The index.
        path: PathBuf,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// Bytes are not those that the digest names.
    #[error("{wanted} was asked for, but what came is {found}; the source is damaged or lies")]
    Digest {
        /// The digest that was asked for.
        wanted: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// There are more or fewer bytes than there should be.
    #[error("{digest} should have {wanted} bytes, but has {found}")]
    Size {
        /// What it is about.
        digest: Digest,
        /// How many there should be.
        wanted: u64,
        /// How many there are at least.
        found: u64,
    },
    /// A document cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// No such image.
    #[error("no image `{0}` is in the store; `podvmm image ls` lists those that are")]
    NotFound(String),
    /// Several images.
    #[error("`{text}` could be {}; write more of it", .names.join(" or "))]
    Ambiguous {
        /// What was asked for.
        text: String,
        /// What it could be.
        names: Vec<String>,
    },
    /// A pod uses it.
    #[error("image {0} is in use by a pod; end the pod first")]
    InUse(String),
    /// A layer cannot be unpacked.
    #[error("image {image}, layer {layer}")]
    Unpack {
        /// The image.
        image: String,
        /// The layer's number and digest.
        layer: String,
        /// Why.
        source: Box<UnpackError>,
    },
    /// A layer is not the one that the configuration names.
    #[error("image {image}: layer {layer} holds {found}, but its configuration says {wanted}")]
    DiffId {
        /// The image.
        image: String,
        /// The layer's number, from 1.
        layer: usize,
        /// The digest in the configuration.
        wanted: Digest,
        /// The digest of what is in it.
        found: Digest,
    },
    /// A part of the image is missing.
    #[error("image {image}: {digest} is missing in the store; pull the image again")]
    Missing {
        /// The image.
        image: String,
        /// What is missing.
        digest: Digest,
    },
}

impl StoreError {
    /// For `map_err`: what was to be done, and with what.
    pub(crate) fn io(
        path: impl Into<PathBuf>,
        doing: &'static str,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            path,
            doing,
            source,
        }
    }
}
