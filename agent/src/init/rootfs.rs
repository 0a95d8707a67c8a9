//! The container's root directory: a directory of the share, alone or below an overlay.

use std::os::fd::{AsFd, OwnedFd};

use agent_protocol::proto::rootfs::Mode as RootfsMode;
use agent_protocol::{SHARE_PATH, VOLUMES_PATH};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags};

use super::error::{InitError, Step};
use super::root::{self, Root};
use crate::container::RootfsPlan;
use crate::sys::mount::{Change, set_attributes};

/// Where each container puts together what it is made of, in its own mount namespace.
const STAGE: &str = "/run/podvmm/stage";

/// A tmpfs that only the container's mount namespace has. It goes with the container, and with it all
/// that was written to an overlay.
pub(super) struct Stage(OwnedFd);

impl Stage {
    /// Mounts it, after cutting this mount namespace off from the one it was copied from.
    pub(super) fn mount() -> Result<Self, InitError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::open("/", flags, Mode::empty()).step(|| "open /")?;
        let private = Change {
            propagation: MountPropagationFlags::PRIVATE,
            set: MountAttrFlags::empty(),
            clear: MountAttrFlags::empty(),
        };
        set_attributes(&top, private, true).step(|| "make mounts private")?;
        let options = [("mode", Some("0755"))];
        // The only mount of a container where device nodes work; nothing of it is seen inside but
        // single nodes.
        let mount = new_mount("tmpfs", &options, MountAttrFlags::empty())?;
        let target = rustix::fs::open(STAGE, flags, Mode::empty()).step(|| STAGE)?;
        root::attach(&mount, target).step(|| STAGE)?;
        Ok(Self(mount))
    }

    /// Makes it the root itself, for a process that needs no files.
    pub(super) fn into_root(self) -> Root {
        Root::new(self.0)
    }

    /// Makes a directory in it and opens that.
    pub(super) fn directory(&self, name: &str) -> Result<OwnedFd, InitError> {
        rustix::fs::mkdirat(&self.0, name, Mode::from_raw_mode(0o755)).step(|| name.to_owned())?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.0, name, flags, Mode::empty()).step(|| name.to_owned())
    }
}

/// Opens a path below the share. Links are not followed: what they name is a container's choice.
pub(super) fn open_in_share(path: &str) -> Result<OwnedFd, InitError> {
    open_below(SHARE_PATH, path, || format!("open {path} of the share"))
}

/// Likewise one below the guest's own volumes.
pub(super) fn open_volume(path: &str) -> Result<OwnedFd, InitError> {
    open_below(VOLUMES_PATH, path, || format!("open volume {path}"))
}

fn open_below(
    top: &str,
    path: &str,
    step: impl Fn() -> String + Copy,
) -> Result<OwnedFd, InitError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let top = rustix::fs::open(top, flags | OFlags::DIRECTORY, Mode::empty()).step(step)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(top, path, flags, Mode::empty(), resolve).step(step)
}

/// Mounts the root directory and gives it.
pub(super) fn mount(plan: &RootfsPlan, stage: &Stage) -> Result<Root, InitError> {
    let source = open_in_share(&plan.path)?;
    let step = || format!("root file system {}", plan.path);
    if root::kind_of(&source).step(step)? != root::Kind::Directory {
        return Err(InitError::new(step(), "not a directory"));
    }
    let lower = root::clone_mount(&source, true).step(step)?;
    // Which devices a container may open is decided by its configuration, not by nodes of an image.
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
    let target = stage.directory("root")?;
    let mounted = match plan.mode {
        RootfsMode::OVERLAY => overlay(&lower, stage, attributes)?,
        RootfsMode::READ_ONLY | RootfsMode::READ_WRITE => {
            if plan.mode == RootfsMode::READ_ONLY {
                attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
            }
            change(&lower, attributes, true).step(step)?;
            lower
        }
    };
    root::attach(&mounted, target).step(step)?;
    Ok(Root::new(mounted))
}

fn overlay(
    lower: &OwnedFd,
    stage: &Stage,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, InitError> {
    let place = stage.directory("lower")?;
    stage.directory("upper")?;
    stage.directory("work")?;
    root::attach(lower, place).step(|| "attach the overlay's lower directory")?;
    copy_root_owner(lower)?;
    let path = |name: &str| format!("{STAGE}/{name}");
    let (lower, upper, work) = (path("lower"), path("upper"), path("work"));
    let options = [
        ("lowerdir", Some(lower.as_str())),
        ("upperdir", Some(upper.as_str())),
        ("workdir", Some(work.as_str())),
    ];
    new_mount("overlay", &options, attributes)
}

/// An overlay's top directory has the upper one's owner and mode.
fn copy_root_owner(lower: &OwnedFd) -> Result<(), InitError> {
    let step = || "copy the root directory's owner and mode";
    let stat = rustix::fs::fstat(lower).step(step)?;
    let upper = format!("{STAGE}/upper");
    let owner = rustix::fs::Uid::from_raw(stat.st_uid);
    let group = rustix::fs::Gid::from_raw(stat.st_gid);
    rustix::fs::chown(&upper, Some(owner), Some(group)).step(step)?;
    rustix::fs::chmod(&upper, Mode::from_raw_mode(stat.st_mode)).step(step)
}

/// A new instance of a file system, attached nowhere yet.
pub(super) fn new_mount<K: AsRef<str>, V: AsRef<str>>(
    filesystem: &str,
    options: &[(K, Option<V>)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, InitError> {
    let context = rustix::mount::fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC)
        .step(|| format!("file system {filesystem}"))?;
    // What /proc/mounts shows; without it, "none".
    rustix::mount::fsconfig_set_string(&context, "source", filesystem)
        .step(|| format!("source of {filesystem}"))?;
    for (key, value) in options {
        let key = key.as_ref();
        match value {
            Some(value) => rustix::mount::fsconfig_set_string(&context, key, value.as_ref()),
            None => rustix::mount::fsconfig_set_flag(&context, key),
        }
        .step(|| format!("option {key} of {filesystem}"))?;
    }
    rustix::mount::fsconfig_create(&context).step(|| format!("create {filesystem}"))?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .step(|| format!("mount {filesystem}"))
}

/// Sets attributes of a mount, and of those below it if `recursive`.
pub(super) fn change(
    mount: impl AsFd,
    set: MountAttrFlags,
    recursive: bool,
) -> std::io::Result<()> {
    let change = Change {
        set,
        clear: MountAttrFlags::empty(),
        propagation: MountPropagationFlags::empty(),
    };
    set_attributes(mount, change, recursive)
}

/// Makes the new root the root, and the old one unreachable.
pub(super) fn enter(root: &Root) -> Result<(), InitError> {
    let step = || "enter the root directory";
    rustix::process::fchdir(root).step(step)?;
    // The old root lands on top of the new one, where "." still is the old one.
    rustix::process::pivot_root(".", ".").step(step)?;
    rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH).step(step)?;
    rustix::process::chdir("/").step(step)
}
