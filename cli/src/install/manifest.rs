//! What an installation has put in place, written down in a file of its own: the ground for taking it out.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::install::root::Root;

/// The version of the file's form.
const FORMAT: u32 = 1;
/// Its name, below `lib/podvmm` of the prefix.
pub const NAME: &str = "installed.json";

/// Everything that was put in place. Paths are as they are in the system that was installed into.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    /// The version of podvmm that installed.
    pub podvmm_version: String,
    /// Directories that were made, the upper ones first.
    pub directories: Vec<PathBuf>,
    /// Files that were made.
    pub files: Vec<Installed>,
    /// A file of containerd's configuration that was changed.
    pub edit: Option<Edit>,
}

/// A file that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Installed {
    /// Where it is.
    pub path: PathBuf,
    /// Its SHA-256: with another one it is somebody else's by now.
    pub sha256: String,
    /// The SHA-256 of what was there from an earlier installation. An installation that was killed may
    /// have left that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<String>,
}

impl Installed {
    /// Whether a file of this digest is one that was installed.
    pub fn is(&self, digest: &str) -> bool {
        self.sha256 == digest || self.replaced.as_deref() == Some(digest)
    }
}

/// A file of containerd's configuration that has runtimes more than it had.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// Where it is.
    pub path: PathBuf,
    /// The tables that were put in, by name.
    pub runtimes: Map<String, Value>,
    /// A copy of it from before.
    pub copy: PathBuf,
    /// Its SHA-256 after the change, while that copy and the change are all that is between.
    pub sha256: Option<String>,
}

impl Manifest {
    /// Of an installation that is about to be made.
    pub fn new() -> Self {
        Self {
            format: FORMAT,
            podvmm_version: env!("CARGO_PKG_VERSION").to_owned(),
            directories: Vec::new(),
            files: Vec::new(),
            edit: None,
        }
    }

    /// Where it is kept.
    pub fn path(prefix: &Path) -> PathBuf {
        prefix.join("lib/podvmm").join(NAME)
    }

    /// Reads it; nothing if nothing was installed.
    pub fn read(root: &Root, prefix: &Path) -> anyhow::Result<Option<Self>> {
        let path = Self::path(prefix);
        let place = root.resolve(&path)?;
        let shown = || place.display().to_string();
        if !place.try_exists().with_context(shown)? {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&place).with_context(shown)?;
        let manifest: Self = serde_json::from_str(&text).with_context(|| {
            format!(
                "{}: it is no record of an installation by this version",
                shown()
            )
        })?;
        ensure!(
            manifest.format == FORMAT,
            "{}: format {} is another version's; this one knows {FORMAT}",
            shown(),
            manifest.format
        );
        Ok(Some(manifest))
    }

    /// Its form as a file.
    pub fn text(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// What was recorded of a file.
    pub fn file(&self, path: &Path) -> Option<&Installed> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Whether a file of this digest is one that was installed there.
    pub fn has(&self, path: &Path, digest: &str) -> bool {
        self.file(path).is_some_and(|file| file.is(digest))
    }
}
