//! The configuration's mounts, and the paths that it hides or protects.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags};

use super::error::{InitError, Step};
use super::root::{self, Kind, Root};
use super::rootfs::{self, new_mount, open_in_share, open_volume};
use super::subdir;
use crate::container::{MountOptions, MountPlan, MountSource};
use crate::sys::mount::{Change, set_attributes};

/// Carries out one mount.
pub(super) fn mount(plan: &MountPlan, root: &Root) -> Result<(), InitError> {
    let step = || format!("mount of {}", plan.target);
    let options = &plan.options;
    let mut set = options.set;
    // Device nodes work where `devices` puts them. devpts holds terminals and nothing else.
    if plan.source != MountSource::Filesystem("devpts") {
        set |= MountAttrFlags::MOUNT_ATTR_NODEV;
    }
    let (mount, kind) = match &plan.source {
        MountSource::Filesystem(name) => (new_mount(name, &options.data, set)?, Kind::Directory),
        MountSource::Share(path) => bind(open_in_share(path)?, options).step(step)?,
        MountSource::Volume(path) => bind(open_volume(path)?, options).step(step)?,
        MountSource::PodShm => {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let shm = rustix::fs::open("/dev/shm", flags, Mode::empty()).step(step)?;
            bind(shm, options).step(step)?
        }
    };
    let own = Change {
        set,
        clear: options.clear,
        propagation: MountPropagationFlags::empty(),
    };
    set_attributes(&mount, own, false).step(step)?;
    // Below a recursive bind mount the kernel's files stay as they are, but neither are devices let in.
    let mut below = MountAttrFlags::MOUNT_ATTR_NODEV;
    if options.recursive_readonly {
        below |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    if options.recursive_bind || options.recursive_readonly {
        rootfs::change(&mount, below, true).step(step)?;
    }
    let place = root.place(&plan.target, kind)?;
    if let MountSource::Filesystem("proc" | "sysfs" | "cgroup2") = plan.source {
        root.open_plain(&plan.target)
            .step(|| format!("{} without links", plan.target))?;
    }
    root::attach(&mount, place).step(step)?;
    propagate(&mount, options.propagation).step(step)
}

fn bind(source: OwnedFd, options: &MountOptions) -> rustix::io::Result<(OwnedFd, Kind)> {
    let source = match &options.subdir {
        Some(path) => subdir::open(&source, path)?,
        None => source,
    };
    let kind = root::kind_of(&source)?;
    Ok((root::clone_mount(&source, options.recursive_bind)?, kind))
}

fn propagate(mount: &OwnedFd, propagation: MountPropagationFlags) -> std::io::Result<()> {
    if propagation.is_empty() {
        return Ok(());
    }
    let change = Change {
        set: MountAttrFlags::empty(),
        clear: MountAttrFlags::empty(),
        propagation: propagation - MountPropagationFlags::REC,
    };
    set_attributes(
        mount,
        change,
        propagation.contains(MountPropagationFlags::REC),
    )
}

/// Makes paths read-only; those that are not there need nothing.
pub(super) fn protect(paths: &[String], root: &Root) -> Result<(), InitError> {
    for path in paths {
        let step = || format!("read-only path {path}");
        let Some(place) = existing(root, path)? else {
            continue;
        };
        let mount = root::clone_mount(&place, true).step(step)?;
        rootfs::change(&mount, MountAttrFlags::MOUNT_ATTR_RDONLY, true).step(step)?;
        root::attach(&mount, place).step(step)?;
    }
    Ok(())
}

/// Hides paths: files below `null`, directories below an empty one.
pub(super) fn mask(paths: &[String], root: &Root, null: &OwnedFd) -> Result<(), InitError> {
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let step = || format!("masked path {path}");
        let Some(place) = existing(root, path)? else {
            continue;
        };
        let cover = match (root::kind_of(&place).step(step)?, &empty) {
            (Kind::File, _) => root::clone_mount(null, false).step(step)?,
            (Kind::Directory, Some(empty)) => root::clone_mount(empty, false).step(step)?,
            (Kind::Directory, None) => {
                let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
                    | MountAttrFlags::MOUNT_ATTR_NODEV
                    | MountAttrFlags::MOUNT_ATTR_NOSUID
                    | MountAttrFlags::MOUNT_ATTR_NOEXEC;
                new_mount(
                    "tmpfs",
                    &[("mode", Some("0555")), ("nr_inodes", Some("1"))],
                    attributes,
                )?
            }
        };
        root::attach(&cover, place).step(step)?;
        if empty.is_none() && root::kind_of(&cover).step(step)? == Kind::Directory {
            empty = Some(cover);
        }
    }
    Ok(())
}

fn existing(root: &Root, path: &str) -> Result<Option<OwnedFd>, InitError> {
    match root.open(path, OFlags::PATH) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        result => result.map(Some).step(|| format!("open {path}")),
    }
}
