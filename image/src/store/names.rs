//! The index of names: one small file, replaced as a whole.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::blobs::sync_parent;
use super::error::StoreError;
use super::lock::Lock;
use crate::digest::Digest;
use crate::manifest::Descriptor;
use crate::platform::Platform;

const VERSION: u32 = 1;
const MAX_SIZE: u64 = 64 << 20;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The name, whole.
    pub name: String,
    /// What the image runs on.
    pub platform: Platform,
    /// The manifest.
    pub manifest: Descriptor,
    /// The digest of the configuration, by which the image itself is known.
    pub id: Digest,
    /// The name of all its layers, one upon the other.
    pub chain_id: Digest,
    /// Bytes of configuration and layers as they are stored.
    pub size: u64,
    /// When it came, in seconds since 1970.
    pub added: u64,
}

#[derive(Serialize, Deserialize)]
struct File1 {
    version: u32,
    images: Vec<Record>,
}

/// The index.
#[derive(Clone, Debug)]
pub(super) struct Names {
    path: PathBuf,
    lock: PathBuf,
}

impl Names {
    pub(super) fn new(store: &Path) -> Self {
        Self {
            path: store.join("names.json"),
            lock: store.join("names.lock"),
        }
    }

    /// All records, as they were at one moment.
    pub(super) fn load(&self) -> Result<Vec<Record>, StoreError> {
        let mut bytes = Vec::new();
        match File::open(&self.path) {
            Ok(file) => {
                let read = file.take(MAX_SIZE).read_to_end(&mut bytes);
                read.map_err(StoreError::io(&self.path, "read"))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::io(&self.path, "opened")(error)),
        }
        let damaged = |source| StoreError::Names {
            path: self.path.clone(),
            source,
        };
        let file: File1 = serde_json::from_slice(&bytes).map_err(damaged)?;
        if file.version != VERSION {
            let text = format!("its version is {}, and {VERSION} is known", file.version);
            return Err(damaged(serde::de::Error::custom(text)));
        }
        Ok(file.images)
    }

    /// Changes the index; nobody else does meanwhile. Nothing is written if `change` fails.
    pub(super) fn update<T>(
        &self,
        change: impl FnOnce(&mut Vec<Record>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _lock = Lock::exclusive(&self.lock).map_err(StoreError::io(&self.lock, "locked"))?;
        let before = self.load()?;
        let mut images = before.clone();
        let outcome = change(&mut images)?;
        if images != before {
            images.sort_by(|a, b| a.name.cmp(&b.name));
            self.write(images)?;
        }
        Ok(outcome)
    }

    fn write(&self, images: Vec<Record>) -> Result<(), StoreError> {
        let file = File1 {
            version: VERSION,
            images,
        };
        let new = self.path.with_extension("json.new");
        let written = serde_json::to_vec_pretty(&file)
            .map_err(std::io::Error::from)
            .and_then(|bytes| {
                let mut file = File::create(&new)?;
                file.write_all(&bytes)?;
                file.sync_all()
            });
        written.map_err(StoreError::io(&new, "written"))?;
        fs::rename(&new, &self.path).map_err(StoreError::io(&self.path, "replaced"))?;
        sync_parent(&self.path)
    }
}
