//! What the device is told: settings as they come in, and types that cannot be wrong.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::rate::RateLimit;

/// Length of the tag field in the configuration space (virtio-v1.2 §5.11.4).
const TAG_BYTES: usize = 36;
/// Most request queues that one device has.
pub const MAX_REQUEST_QUEUES: u16 = 8;

/// Settings that are not what the device needs.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InvalidFsConfig {
    /// The tag is empty, longer than 36 bytes or has a NUL in it.
    #[error("tag {tag:?} must have 1 to 36 bytes and no NUL")]
    Tag {
        /// The tag as it was given.
        tag: String,
    },
    /// No request queue, or too many.
    #[error("{request_queues} request queues asked for, 1 to {MAX_REQUEST_QUEUES} are possible")]
    RequestQueues {
        /// The number as it was given.
        request_queues: u16,
    },
    /// A limit of zero would serve nothing.
    #[error("{limit} must not be zero")]
    ZeroLimit {
        /// Name of the setting.
        limit: &'static str,
    },
}

/// The name by which a guest mounts the file system.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FsTag([u8; TAG_BYTES]);

impl FsTag {
    /// The tag as it stands in the configuration space: padded with NULs.
    #[must_use]
    pub fn padded(&self) -> &[u8; TAG_BYTES] {
        &self.0
    }
}

impl TryFrom<&str> for FsTag {
    type Error = InvalidFsConfig;

    fn try_from(tag: &str) -> Result<Self, InvalidFsConfig> {
        let bytes = tag.as_bytes();
        if bytes.is_empty() || bytes.len() > TAG_BYTES || bytes.contains(&0) {
            return Err(InvalidFsConfig::Tag { tag: tag.into() });
        }
        let mut padded = [0; TAG_BYTES];
        padded[..bytes.len()].copy_from_slice(bytes);
        Ok(Self(padded))
    }
}

/// Who files belong to that the guest makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ownership {
    /// The user and group of the guest's process. Where the VMM may not give files away, its own.
    #[default]
    Requested,
    /// Always the VMM's own user and group. It saves a refused system call per new file.
    Server,
}

/// The device as configuration files and messages describe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FsSettings {
    /// Name by which the guest mounts it: 1 to 36 bytes.
    pub tag: String,
    /// Request queues, one worker each.
    pub request_queues: u16,
    /// Nodes that the guest may hold at once; a lookup beyond fails with `ENFILE`.
    pub max_nodes: usize,
    /// `O_PATH` descriptors kept open for nodes; the rest are opened again when needed.
    pub max_node_fds: usize,
    /// Files and directories that the guest may have open at once; beyond it `ENFILE`.
    pub max_handles: usize,
    /// Who new files belong to.
    pub ownership: Ownership,
    /// This process's user namespace does not map all ids: to it, files of others look like nobody's
    /// (65534). The guest is told that they are root's.
    pub hides_ids: bool,
    /// Announce each export as a mount of its own (own device number in the guest).
    pub announce_submounts: bool,
    /// What all queues together may do. Bytes are those of requests and replies, and those that the
    /// host copies from file to file.
    pub limit: RateLimit,
}

impl Default for FsSettings {
    fn default() -> Self {
        Self {
            tag: "podvmm".into(),
            request_queues: 1,
            max_nodes: 1 << 20,
            max_node_fds: 1024,
            max_handles: 16_384,
            ownership: Ownership::Requested,
            hides_ids: false,
            announce_submounts: false,
            limit: RateLimit::default(),
        }
    }
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsConfig {
    pub(super) tag: FsTag,
    pub(super) request_queues: u16,
    pub(super) max_nodes: usize,
    pub(super) max_node_fds: usize,
    pub(super) max_handles: usize,
    pub(super) ownership: Ownership,
    pub(super) hides_ids: bool,
    pub(super) announce_submounts: bool,
    pub(super) limit: RateLimit,
}

impl TryFrom<FsSettings> for FsConfig {
    type Error = InvalidFsConfig;

    fn try_from(settings: FsSettings) -> Result<Self, InvalidFsConfig> {
        let tag = FsTag::try_from(settings.tag.as_str())?;
        if !(1..=MAX_REQUEST_QUEUES).contains(&settings.request_queues) {
            return Err(InvalidFsConfig::RequestQueues {
                request_queues: settings.request_queues,
            });
        }
        for (limit, value) in [
            ("max_nodes", settings.max_nodes),
            ("max_node_fds", settings.max_node_fds),
            ("max_handles", settings.max_handles),
        ] {
            if value == 0 {
                return Err(InvalidFsConfig::ZeroLimit { limit });
            }
        }
        Ok(Self {
            tag,
            request_queues: settings.request_queues,
            max_nodes: settings.max_nodes,
            max_node_fds: settings.max_node_fds,
            max_handles: settings.max_handles,
            ownership: settings.ownership,
            hides_ids: settings.hides_ids,
            announce_submounts: settings.announce_submounts,
            limit: settings.limit,
        })
    }
}
