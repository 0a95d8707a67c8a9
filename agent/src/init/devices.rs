//! Device nodes.
//!
//! All of a container's own mounts are nodev, so nodes that an image brings or that the container makes
//! cannot be opened. The nodes that the configuration grants are made on the stage, whose mount allows
//! devices, and each is bind-mounted to its place. That takes the part of a device cgroup's rules: what is
//! not granted is denied, without a BPF program and without the kernel's BPF machinery in the guest.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, makedev};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::error::{InitError, Step};
use super::root::{self, Kind, Root};
use super::rootfs::Stage;
use crate::container::{DevicePlan, MountPlan, MountSource};

/// Name, major and minor number: what runtime-spec v1.2 wants everywhere.
const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// `f_type` of devpts (linux/magic.h).
const DEVPTS_MAGIC: rustix::fs::FsWord = 0x1cd1;

const LINKS: [(&str, &str); 5] = [
    ("/dev/ptmx", "pts/ptmx"),
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// Makes all nodes and links; gives the stage's /dev/null.
pub(super) fn make(
    wanted: &[DevicePlan],
    mounts: &[MountPlan],
    root: &Root,
    stage: &Stage,
) -> Result<OwnedFd, InitError> {
    let nodes = stage.directory("dev")?;
    let mut null = None;
    for (index, device) in all(wanted).enumerate() {
        let is_default = index < DEFAULTS.len();
        let node = make_node(&device, &index.to_string(), &nodes)?;
        if !(is_default && brings_own_dev(mounts)) {
            let mount = root::clone_mount(&node, false).step(|| device.path.clone())?;
            let place = root.place(&device.path, Kind::File)?;
            root::attach(mount, place).step(|| device.path.clone())?;
        }
        null.get_or_insert(node);
    }
    if !brings_own_dev(mounts) {
        for (path, target) in LINKS {
            root.link(path, target)?;
        }
    }
    null.ok_or_else(|| InitError::new("/dev/null", "not made"))
}

/// A /dev that is somebody's directory is complete as it is.
fn brings_own_dev(mounts: &[MountPlan]) -> bool {
    let is_bind = |source: &MountSource| !matches!(source, MountSource::Filesystem(_));
    mounts
        .iter()
        .any(|mount| mount.target == "/dev" && is_bind(&mount.source))
}

fn all(wanted: &[DevicePlan]) -> impl Iterator<Item = DevicePlan> {
    let defaults = DEFAULTS.into_iter().map(|(path, major, minor)| DevicePlan {
        path: path.to_owned(),
        kind: FileType::CharacterDevice,
        major,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
    });
    // Engines list the defaults again.
    let further = wanted
        .iter()
        .filter(|device| DEFAULTS.iter().all(|(path, ..)| device.path != *path));
    defaults.chain(further.cloned())
}

fn make_node(device: &DevicePlan, name: &str, nodes: &OwnedFd) -> Result<OwnedFd, InitError> {
    let step = || format!("device {}", device.path);
    let number = makedev(device.major, device.minor);
    let mode = Mode::from_raw_mode(device.mode);
    rustix::fs::mknodat(nodes, name, device.kind, mode, number).step(step)?;
    if (device.uid, device.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        rustix::fs::chownat(nodes, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .step(step)?;
    }
    rustix::fs::openat(nodes, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).step(step)
}

/// Opens a terminal of the container's own devpts and makes it /dev/console. Gives both sides.
pub(super) fn terminal(root: &Root, size: Winsize) -> Result<(OwnedFd, OwnedFd), InitError> {
    let (master, slave) = open_terminal(root, size)?;
    let console = root::clone_mount(&slave, false).step(|| "/dev/console")?;
    root::attach(console, root.place("/dev/console", Kind::File)?).step(|| "/dev/console")?;
    Ok((master, slave))
}

/// Opens a terminal of the container's own devpts. Gives both sides.
pub(super) fn open_terminal(root: &Root, size: Winsize) -> Result<(OwnedFd, OwnedFd), InitError> {
    let step = || "terminal in /dev/pts";
    // What is there may be of the container's making, such as a pipe that nobody writes to.
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
    let master = root.open("/dev/pts/ptmx", flags).step(step)?;
    let is_ptmx = rustix::fs::fstat(&master).step(step)?.st_rdev == makedev(5, 2);
    if !is_ptmx || rustix::fs::fstatfs(&master).step(step)?.f_type != DEVPTS_MAGIC {
        return Err(InitError::new(step(), "/dev/pts/ptmx is no devpts' one"));
    }
    rustix::pty::unlockpt(&master).step(step)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).step(step)?;
    rustix::termios::tcsetwinsize(&slave, size).step(step)?;
    Ok((master, slave))
}
