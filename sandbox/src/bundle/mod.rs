//! An OCI bundle on its way into a guest.
//!
//! ```text
//!   config.json ──Bundle::open──▶ Bundle ──for_guest──▶ GuestSpec { spec, shares, blocks, seccomp }
//!   mounts of a rootfs ──rootfs::mount──▶ a directory that is mounted nowhere
//! ```
//!
//! A container engine writes a configuration for the host's kernel: it names the host's files,
//! namespaces and security labels. Here it becomes one that means the same inside the guest.
//! Whatever would mean something else there is refused, never left out in silence.

mod bpf;
mod devices;
pub mod rootfs;
mod seccomp;
mod translate;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use thiserror::Error;

use crate::block::{BlockError, BlockVolume, GuestBlock};
use crate::config::{Share, ShareError};
use crate::container::SeccompFilter;
use crate::sizing::Limits;
pub use seccomp::{SeccompError, compile as compile_seccomp};

/// Longest `config.json` that is read, in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// Why a bundle cannot become a container of a guest.
#[derive(Debug, Error)]
pub enum BundleError {
    /// The configuration cannot be read.
    #[error("{path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is too long.
    #[error("{path}: has {length} bytes, at most {MAX_CONFIG} are read")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        length: u64,
    },
    /// It is no JSON object.
    #[error("{path}: is no OCI configuration")]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A field has not the form that the runtime specification gives it.
    #[error("config.json: {field} is malformed")]
    Malformed {
        /// Its name.
        field: String,
    },
    /// A namespace of the host is asked for.
    #[error(
        "config.json: the container asks for the host's {namespace} namespace; a pod in a VM of its own has none of the host's: leave {option} out, or use another runtime class"
    )]
    HostNamespace {
        /// Its type.
        namespace: &'static str,
        /// How a pod manifest asks for it.
        option: &'static str,
    },
    /// Something that a guest cannot have.
    #[error("config.json: {field} {reason}")]
    Unsupported {
        /// The field.
        field: String,
        /// Why not.
        reason: &'static str,
    },
    /// A file cannot be shared.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// A block device cannot be given.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// A seccomp profile cannot be carried over.
    #[error("config.json: linux.seccomp")]
    Seccomp(#[from] SeccompError),
}

/// A container as the guest's agent is to be asked for it.
#[derive(Debug)]
pub struct GuestSpec {
    /// The configuration. Block devices have numbers in it that mean nothing yet.
    spec: Value,
    /// What it needs of the host's files.
    pub shares: Vec<Share>,
    /// What it needs of the host's block devices.
    pub blocks: Vec<SpecBlock>,
    /// Whether it joins the pid namespace of the pod's other containers.
    pub joins_pid_namespace: bool,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// What its processes may ask of the kernel.
    pub seccomp: Option<SeccompFilter>,
}

/// A block device that a configuration lists.
#[derive(Debug)]
pub struct SpecBlock {
    /// Its place in `linux.devices`.
    index: usize,
    /// What it is on the host.
    pub volume: BlockVolume,
}

impl GuestSpec {
    /// Has one of its [`blocks`](Self::blocks) be what the guest was given for it.
    pub fn set_block(&mut self, block: &SpecBlock, given: &GuestBlock) {
        let device = &mut self.spec["linux"]["devices"][block.index];
        device["major"] = given.major.into();
        device["minor"] = given.minor.into();
    }

    /// The configuration for the agent, once all blocks are set.
    #[must_use]
    pub fn spec_json(&self) -> Vec<u8> {
        self.spec.to_string().into_bytes()
    }
}

/// A parsed `config.json`.
#[derive(Clone, Debug)]
pub struct Bundle {
    spec: Value,
}

impl Bundle {
    /// Reads the configuration in the directory `dir`.
    ///
    /// # Errors
    /// [`BundleError`] when it is missing, too long or no JSON object.
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        let path = dir.join("config.json");
        let read = |source| BundleError::Read {
            path: path.clone(),
            source,
        };
        let length = std::fs::metadata(&path).map_err(read)?.len();
        if length > MAX_CONFIG {
            return Err(BundleError::TooLong { path, length });
        }
        let text = std::fs::read(&path).map_err(read)?;
        Self::from_json(&text).map_err(|source| BundleError::Json { path, source })
    }

    /// Takes a configuration as text.
    ///
    /// # Errors
    /// When it is no JSON object.
    pub fn from_json(text: &[u8]) -> serde_json::Result<Self> {
        let spec: serde_json::Map<String, Value> = serde_json::from_slice(text)?;
        Ok(Self {
            spec: Value::Object(spec),
        })
    }

    /// One of its annotations.
    #[must_use]
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.spec.get("annotations")?.get(name)?.as_str()
    }

    /// All annotations.
    pub fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.spec.get("annotations").and_then(Value::as_object);
        all.into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
    }

    /// Directory of its root file system, which is where the engine's mounts would be mounted.
    #[must_use]
    pub fn root_dir(&self, bundle: &Path) -> PathBuf {
        let path = self.spec.pointer("/root/path").and_then(Value::as_str);
        bundle.join(path.unwrap_or("rootfs"))
    }

    /// The host name that it asks for.
    #[must_use]
    pub fn hostname(&self) -> Option<&str> {
        let name = self.spec.get("hostname")?.as_str()?;
        Some(name).filter(|name| !name.is_empty())
    }

    /// Where the cgroup of the container would be on the host.
    #[must_use]
    pub fn cgroups_path(&self) -> Option<&str> {
        self.spec.pointer("/linux/cgroupsPath")?.as_str()
    }

    /// The network namespace that was prepared for it, if one was.
    #[must_use]
    pub fn network_namespace(&self) -> Option<&Path> {
        let all = self.spec.pointer("/linux/namespaces")?.as_array()?;
        let network = all.iter().find(|entry| entry["type"] == "network")?;
        let path = network.get("path")?.as_str()?;
        Some(Path::new(path)).filter(|path| !path.as_os_str().is_empty())
    }

    /// Kernel parameters that it asks for.
    #[must_use]
    pub fn sysctls(&self) -> BTreeMap<String, String> {
        let all = self
            .spec
            .pointer("/linux/sysctl")
            .and_then(Value::as_object);
        all.into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect()
    }

    /// Sources of its bind mounts.
    pub fn bind_sources(&self) -> impl Iterator<Item = &Path> {
        let mounts = self.spec.get("mounts").and_then(Value::as_array);
        mounts
            .into_iter()
            .flatten()
            .filter(|mount| mount["type"] == "bind")
            .filter_map(|mount| Some(Path::new(mount.get("source")?.as_str()?)))
    }

    /// What the container may use at most.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let resources = self.spec.pointer("/linux/resources");
        resources.map_or_else(Limits::default, |resources| {
            changed_limits(Limits::default(), resources)
        })
    }

    /// The container as it is inside the guest. `id` names its shares; a bind mount of the pod's
    /// shared memory on the host becomes the guest's if `is_pod_shm` says that it is one.
    ///
    /// # Errors
    /// [`BundleError`]: the field that means nothing in a guest, or the path that cannot be shared.
    pub fn for_guest(
        &self,
        id: &str,
        is_pod_shm: impl Fn(&Path) -> bool,
    ) -> Result<GuestSpec, BundleError> {
        translate::container(self.spec.clone(), id, is_pod_shm)
    }
}

/// A process to be added to a container, as it is inside the guest. `json` is an OCI `process`.
///
/// # Errors
/// [`BundleError::Malformed`].
pub fn process_for_guest(json: &[u8]) -> Result<(Vec<u8>, bool), BundleError> {
    translate::process(json)
}

/// What becomes of a container's limits when it is given new `resources`, the part of a configuration of this
/// name: what is not named there stays.
#[must_use]
pub fn changed_limits(limits: Limits, resources: &Value) -> Limits {
    let quota = resources.pointer("/cpu/quota").and_then(Value::as_i64);
    let period = resources.pointer("/cpu/period").and_then(Value::as_u64);
    let memory = resources.pointer("/memory/limit").and_then(Value::as_i64);
    Limits {
        cpu_millis: match quota {
            // 0 is how engines leave it out.
            None | Some(0) => limits.cpu_millis,
            Some(quota) => {
                let period = period.filter(|period| *period > 0);
                Limits::cpu_of_quota(quota, period.unwrap_or(100_000))
            }
        },
        memory: match memory {
            None | Some(0) => limits.memory,
            Some(bytes) => u64::try_from(bytes).ok(),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_that_are_not_named_stay() {
        let limits = |cpu_millis, memory| Limits { cpu_millis, memory };
        let before = limits(Some(500), Some(1 << 20));
        for (resources, after) in [
            (json!({}), before),
            (json!({ "cpu": { "shares": 2 }, "memory": {} }), before),
            (
                json!({ "cpu": { "quota": 0 }, "memory": { "limit": 0 } }),
                before,
            ),
            (
                json!({ "cpu": { "quota": 150_000, "period": 100_000 } }),
                limits(Some(1500), Some(1 << 20)),
            ),
            (
                json!({ "cpu": { "quota": 200_000 } }),
                limits(Some(2000), Some(1 << 20)),
            ),
            (
                json!({ "cpu": { "quota": -1 } }),
                limits(None, Some(1 << 20)),
            ),
            (
                json!({ "memory": { "limit": 4096 } }),
                limits(Some(500), Some(4096)),
            ),
            (
                json!({ "memory": { "limit": -1 } }),
                limits(Some(500), None),
            ),
            (json!({ "cpu": "x", "memory": { "limit": "9" } }), before),
        ] {
            assert_eq!(changed_limits(before, &resources), after, "{resources}");
        }
    }
}
