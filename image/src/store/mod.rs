//! Where images are kept.
//!
//! ```text
//!   STORE/names.json           what each name stands for, replaced as a whole
//!         blobs/sha256/HEX     manifests, configurations and layers, as they came
//!         partial/HEX          a blob that is still coming; the next process goes on with it
//!         roots/HEX/           all layers of an image, unpacked; HEX is their chain id
//!         roots/HEX.lock       shared by pods that use the root, alone for who makes or removes it
//!         tmp/                 roots that are being made or removed
//!         busy.lock            shared by who brings blobs or reads them, alone for who throws away
//! ```
//!
//! Whatever is in its place is whole: it was renamed there. Locks go with their process, so a process
//! that is killed leaves at most something to take up or to throw away.

mod blobs;
mod collect;
mod error;
mod lock;
mod names;
mod roots;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) use self::blobs::{Blobs, Partial};
pub use self::collect::Freed;
pub use self::error::StoreError;
use self::lock::Lock;
use self::names::Names;
pub use self::names::Record;
pub use self::roots::RootFs;
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::manifest::{Descriptor, Document, MAX_DOCUMENT, Manifest, ManifestError};
use crate::platform::Platform;
use crate::reference::Reference;

/// Digits of an id that are taken as one.
const MIN_ID: usize = 4;

/// A store of images, which any number of processes may use at once.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    blobs: Blobs,
    names: Names,
}

impl Store {
    /// Opens the store in a directory, which is made if it is missing.
    ///
    /// # Errors
    /// [`StoreError::Foreign`] when others could change it, [`StoreError::Io`].
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let dir = dir.into();
        let make = |path: &Path| {
            let mut builder = DirBuilder::new();
            let made = builder.recursive(true).mode(0o700).create(path);
            made.map_err(StoreError::io(path, "made"))
        };
        make(&dir)?;
        let found = fs::metadata(&dir).map_err(StoreError::io(&dir, "looked at"))?;
        let user = rustix::process::geteuid().as_raw();
        if found.uid() != user || found.mode() & 0o022 != 0 {
            return Err(StoreError::Foreign {
                owner: found.uid(),
                path: dir,
            });
        }
        for part in ["blobs/sha256", "partial", "roots", "tmp"] {
            let path = dir.join(part);
            make(&path)?;
            // Images hold set-user-ID programs, which are for nobody on this host to run.
            fs::set_permissions(&path, Permissions::from_mode(0o700))
                .map_err(StoreError::io(&path, "closed to others"))?;
        }
        Ok(Self {
            blobs: Blobs::new(&dir),
            names: Names::new(&dir),
            dir,
        })
    }

    /// Where images are kept unless told otherwise: `/var/lib/podvmm/images` for root, below
    /// `XDG_DATA_HOME` or `~/.local/share` for others.
    #[must_use]
    pub fn default_dir() -> PathBuf {
        if rustix::process::geteuid().is_root() {
            return "/var/lib/podvmm/images".into();
        }
        let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share"));
        let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
        data.or_else(home)
            .unwrap_or_else(|| "/tmp".into())
            .join("podvmm/images")
    }

    /// The image of this name for linux/amd64, if it is here.
    ///
    /// # Errors
    /// [`StoreError`] when it is here, but damaged.
    pub fn resolve(&self, name: &Reference) -> Result<Option<Image>, StoreError> {
        self.resolve_for(name, &Platform::default())
    }

    /// The image of this name for a platform, if it is here.
    ///
    /// # Errors
    /// [`StoreError`] when it is here, but damaged.
    pub fn resolve_for(
        &self,
        name: &Reference,
        platform: &Platform,
    ) -> Result<Option<Image>, StoreError> {
        let name = name.to_string();
        let records = self.names.load()?;
        let mut records = records.into_iter();
        let found =
            records.find(|record| record.name == name && platform.accepts(&record.platform));
        found.map(|record| self.load(record)).transpose()
    }

    /// Everything that has a name, by name.
    ///
    /// # Errors
    /// [`StoreError`] when the index cannot be read.
    pub fn list(&self) -> Result<Vec<Record>, StoreError> {
        self.names.load()
    }

    /// What is meant by a name, or by the first digits of an id.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Ambiguous`].
    pub fn find(&self, text: &str) -> Result<Record, StoreError> {
        find(&self.names.load()?, text).cloned()
    }

    /// Reads what a record stands for.
    ///
    /// # Errors
    /// [`StoreError`] when a part is missing or damaged.
    pub fn load(&self, record: Record) -> Result<Image, StoreError> {
        let missing = |digest| StoreError::Missing {
            image: record.name.clone(),
            digest,
        };
        let digest = record.manifest.digest;
        let bytes = self.blobs.read(&record.manifest)?;
        let bytes = bytes.ok_or_else(|| missing(digest))?;
        let manifest = self.manifest(&record.manifest, &bytes)?;
        let bytes = self.blobs.read(&manifest.config)?;
        let bytes = bytes.ok_or_else(|| missing(manifest.config.digest))?;
        let config = ImageConfig::parse(&manifest, &bytes)?;
        Ok(Image {
            store: self.clone(),
            record,
            manifest,
            config,
        })
    }

    /// Gives a manifest, all of whose blobs are here, a name. An image that does not say what it runs
    /// on is taken for what was asked for.
    pub(crate) fn add(
        &self,
        name: &Reference,
        wanted: &Platform,
        manifest: &Descriptor,
    ) -> Result<Image, StoreError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let digest = manifest.digest;
        let mut record = Record {
            name: name.to_string(),
            platform: wanted.clone(),
            manifest: Descriptor::new(&manifest.media_type, digest, manifest.size),
            id: digest,
            chain_id: digest,
            size: 0,
            added: now.map_or(0, |now| now.as_secs()),
        };
        let image = self.load(record.clone())?;
        let platform = image.config.platform();
        if !platform.os.is_empty() && !platform.architecture.is_empty() {
            if !wanted.accepts(&platform) {
                return Err(StoreError::Manifest(ManifestError::Platform {
                    wanted: wanted.clone(),
                    offered: platform.to_string(),
                }));
            }
            record.platform = platform;
        }
        record.id = image.manifest.config.digest;
        record.size = image.manifest.size();
        // There is at least one layer, and as many diff ids.
        record.chain_id = image.config.rootfs.chain_id().unwrap_or(digest);
        self.names.update(|records| {
            records.retain(|known| known.name != record.name || !wanted.accepts(&known.platform));
            records.push(record.clone());
            Ok(())
        })?;
        Ok(Image { record, ..image })
    }

    fn manifest(&self, at: &Descriptor, bytes: &[u8]) -> Result<Manifest, StoreError> {
        at.at_most("manifest", MAX_DOCUMENT)?;
        match Document::parse(at.digest, &at.media_type, bytes)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(_) => Err(ManifestError::Nested(at.digest).into()),
        }
    }

    pub(crate) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Where something may be put that is gone when nobody uses the store.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    /// Keeps others from throwing away blobs that have no name yet.
    pub(crate) fn busy(&self) -> Result<Busy, StoreError> {
        let path = self.dir.join("busy.lock");
        let lock = Lock::shared(&path).map_err(StoreError::io(path, "locked"))?;
        Ok(Busy { _lock: lock })
    }
}

/// While this lives, no blob is thrown away.
pub(crate) struct Busy {
    _lock: Lock,
}

/// The record that a text means: a name, or the first digits of an id.
fn find<'a>(records: &'a [Record], text: &str) -> Result<&'a Record, StoreError> {
    let name = text.parse::<Reference>().map(|name| name.to_string());
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let is_id = digits.len() >= MIN_ID && digits.chars().all(|c| c.is_ascii_hexdigit());
    let by_name = |record: &&Record| name.as_ref() == Ok(&record.name);
    let by_id = |record: &&Record| {
        let ids = [record.id, record.manifest.digest];
        is_id && ids.iter().any(|id| id.hex().starts_with(digits))
    };
    let mut found: Vec<_> = records.iter().filter(by_name).collect();
    if found.is_empty() {
        found = records.iter().filter(by_id).collect();
    }
    if found.len() > 1 && found.iter().all(|record| record.name == found[0].name) {
        // The same name for several platforms: the one that pods run is meant.
        found.retain(|record| record.platform.runs_here());
    }
    match found[..] {
        [] => Err(StoreError::NotFound(text.into())),
        [record] => Ok(record),
        _ => Err(StoreError::Ambiguous {
            text: text.into(),
            names: found.iter().map(|record| record.name.clone()).collect(),
        }),
    }
}

/// An image in a store.
#[derive(Clone, Debug)]
pub struct Image {
    store: Store,
    record: Record,
    manifest: Manifest,
    config: ImageConfig,
}

impl Image {
    /// What its name stands for.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// The digest of its configuration.
    #[must_use]
    pub fn id(&self) -> Digest {
        self.record.id
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What its containers are like.
    #[must_use]
    pub fn config(&self) -> &ImageConfig {
        &self.config
    }
}
