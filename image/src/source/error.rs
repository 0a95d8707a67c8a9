//! Why an image could not be had.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::registry::RegistryError;
use crate::manifest::ManifestError;
use crate::reference::ReferenceError;
use crate::store::StoreError;
use crate::tar::TarError;

/// An image that could not be had.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The file or directory cannot be read.
    #[error("{path}: cannot be read")]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else.
    #[error(
        "{0}: holds no image: neither an OCI layout (`oci-layout`) nor what `docker save` writes \
         (`manifest.json`)"
    )]
    Unknown(PathBuf),
    /// A part is not there.
    #[error("{path}: `{name}` is missing")]
    Missing {
        /// The path of the source.
        path: PathBuf,
        /// The part.
        name: String,
    },
    /// A part is larger than anything of its kind.
    #[error("{path}: `{name}` has {size} bytes; at most {limit} are supported")]
    TooLarge {
        /// The path of the source.
        path: PathBuf,
        /// The part.
        name: String,
        /// Its size.
        size: u64,
        /// The bound.
        limit: u64,
    },
    /// A part cannot be parsed.
    #[error("{path}: `{name}` cannot be read")]
    Syntax {
        /// The path of the source.
        path: PathBuf,
        /// The part.
        name: String,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// It is of a version that is not known.
    #[error("{path}: is an OCI layout of version `{version}`; 1.x is supported")]
    Version {
        /// The path of the source.
        path: PathBuf,
        /// Its version.
        version: String,
    },
    /// There are several images, or none of this tag.
    #[error("{path}: {}", choice(.tag.as_deref(), .names))]
    Choice {
        /// The path of the source.
        path: PathBuf,
        /// Which one was asked for.
        tag: Option<String>,
        /// The images that there are.
        names: Vec<String>,
    },
    /// It is not in the store, and no registry is to be asked.
    #[error("image {0} is not in the store; pull it, or allow it with --pull missing")]
    Absent(String),
    /// A name cannot be one.
    #[error(transparent)]
    Name(#[from] ReferenceError),
    /// A document cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A registry did not give it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The store cannot take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn choice(tag: Option<&str>, names: &[String]) -> String {
    let there = match names {
        [] => "there is none".into(),
        names => format!("there are: {}", names.join(", ")),
    };
    match tag {
        Some(tag) => format!("no image is called `{tag}`; {there}"),
        None => format!("name one image, as PATH:NAME or PATH:TAG; {there}"),
    }
}

impl SourceError {
    pub(super) fn file(path: &Path, source: io::Error) -> Self {
        Self::File {
            path: path.into(),
            source,
        }
    }

    /// An archive that is damaged.
    pub(super) fn damaged(error: TarError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}
