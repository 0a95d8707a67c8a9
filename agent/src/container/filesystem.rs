//! Mounts and device nodes of a configuration.

use agent_protocol::{SHARE_PATH, VOLUMES_PATH};
use rustix::fs::FileType;

use super::mount_options::{self, MountOptions};
use super::{paths, spec};
use crate::rpc::Refusal;

/// Where a mount's content comes from.
#[derive(Debug, PartialEq)]
pub(crate) enum MountSource {
    /// A path relative to the share.
    Share(String),
    /// A path relative to the guest's own volumes.
    Volume(String),
    /// The pod's shared memory directory of the guest.
    PodShm,
    /// A new instance of a file system that needs no device.
    Filesystem(&'static str),
}

/// One entry of `mounts`.
#[derive(Debug)]
pub(crate) struct MountPlan {
    /// Absolute, inside the container.
    pub(crate) target: String,
    pub(crate) source: MountSource,
    pub(crate) options: MountOptions,
}

/// A device node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DevicePlan {
    pub(crate) path: String,
    pub(crate) kind: FileType,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// File systems that a configuration may ask for by type.
const FILESYSTEMS: [(&str, &str); 7] = [
    ("proc", "proc"),
    ("sysfs", "sysfs"),
    ("tmpfs", "tmpfs"),
    ("devpts", "devpts"),
    ("mqueue", "mqueue"),
    // What runc's users write for either version.
    ("cgroup", "cgroup2"),
    ("cgroup2", "cgroup2"),
];

/// Source of a bind mount that stands for the pod's shared memory.
const POD_SHM: &str = "/dev/shm";

/// Checks one of `mounts`.
pub(super) fn mount(mount: spec::Mount) -> Result<MountPlan, Refusal> {
    let target = paths::absolute("mounts[].destination", &mount.destination)?;
    let named = |problem: &str| format!("mount of {target}: {problem}");
    if target == "/" {
        return Err(Refusal::invalid(named("the root has a field of its own")));
    }
    if spec::is_set(&mount.uid_mappings) || spec::is_set(&mount.gid_mappings) {
        return Err(Refusal::unimplemented(named(
            "id mappings are not supported",
        )));
    }
    let mut options = mount_options::parse(&mount.options)
        .map_err(|option| Refusal::unimplemented(named(&format!("option {option:?}"))))?;
    let kind = mount.kind.as_deref().unwrap_or("none");
    let source = if options.bind || kind == "bind" {
        if let Some((key, _)) = options.data.first() {
            return Err(Refusal::invalid(named(&format!(
                "option {key:?} of a bind mount"
            ))));
        }
        bind_source(mount.source.as_deref().unwrap_or_default()).ok_or_else(|| {
            Refusal::invalid(named("source is not below the share or the volumes"))
        })?
    } else if options.subdir.is_some() {
        return Err(Refusal::invalid(named(
            "X-mount.subdir of what is no bind mount",
        )));
    } else {
        let (_, filesystem) = FILESYSTEMS
            .into_iter()
            .find(|(name, _)| *name == kind)
            .ok_or_else(|| Refusal::unimplemented(named(&format!("type {kind:?}"))))?;
        MountSource::Filesystem(filesystem)
    };
    if let Some(path) = &mut options.subdir {
        *path = paths::relative("X-mount.subdir", path)?;
    }
    Ok(MountPlan {
        target,
        source,
        options,
    })
}

fn bind_source(source: &str) -> Option<MountSource> {
    if source == POD_SHM {
        return Some(MountSource::PodShm);
    }
    let below = |top: &str| {
        let path = source.strip_prefix(top)?.strip_prefix('/')?;
        paths::relative("source", path).ok()
    };
    let volume = || below(VOLUMES_PATH).map(MountSource::Volume);
    below(SHARE_PATH).map(MountSource::Share).or_else(volume)
}

/// Checks one of `linux.devices`.
pub(super) fn device(device: spec::Device) -> Result<DevicePlan, Refusal> {
    let path = paths::absolute("linux.devices[].path", &device.path)?;
    let kind = match device.kind.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        other => {
            return Err(Refusal::unimplemented(format!(
                "device {path} of type {other:?}"
            )));
        }
    };
    Ok(DevicePlan {
        path,
        kind,
        major: device.major,
        minor: device.minor,
        mode: device.file_mode.unwrap_or(0o666) & 0o777,
        uid: device.uid.unwrap_or(0),
        gid: device.gid.unwrap_or(0),
    })
}
