//! What the VMM does to itself between its launch packet and its machine.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount,
    open_tree, unmount,
};
use rustix::net::RecvFlags;
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal, getrlimit, setrlimit};
use thiserror::Error;

use super::{JailMode, Placement, identity, sys};

/// Longest placement in bytes: gaps are sentences.
const MAX_PLACEMENT: usize = 16 * 1024;
/// Threads that a VMM can need: 64 vCPUs, 8 queues of files, a few more; doubled.
const MAX_THREADS: u64 = 256;
const PROC_FDS: &std::ffi::CStr = c"/proc/self/fd";

/// Why the VMM cannot be jailed.
#[derive(Debug, Error)]
pub enum JailError {
    /// Nobody says where this process is.
    #[error("the warden gave no placement")]
    Placement(#[source] io::Error),
    /// `/proc` is not there.
    #[error("cannot open /proc/self/fd, through which files are opened")]
    ProcFds(#[source] io::Error),
    /// A step that no host has a reason to refuse.
    #[error("the VMM process cannot {step}")]
    Step {
        /// What it is to do.
        step: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Something is missing and [`JailMode::Full`] was asked for.
    #[error("--jail full: {}", .0.join("; "))]
    Incomplete(Vec<String>),
    /// The warden has died.
    #[error("the warden is gone")]
    Abandoned,
}

/// A process that is in its jail.
#[derive(Debug)]
pub struct Jail {
    /// `/proc/self/fd`, of which nothing else of procfs can be reached.
    pub proc_fds: OwnedFd,
    /// Whether the root directory is the one that was given.
    pub has_root: bool,
    /// Whether some users and groups look like nobody from here.
    pub hides_ids: bool,
    /// What is missing, a sentence each.
    pub gaps: Vec<String>,
}

/// Reads from the warden where this process is. `number` is the gate's descriptor; call it once.
///
/// # Errors
/// [`JailError::Placement`] when it was not started by a warden.
pub fn placement(number: i32) -> Result<(Placement, OwnedFd), JailError> {
    let read = || -> io::Result<(Placement, OwnedFd)> {
        let gate = sys::inherited(number)?;
        rustix::io::fcntl_setfd(&gate, rustix::io::FdFlags::CLOEXEC)?;
        let mut bytes = vec![0; MAX_PLACEMENT];
        let (len, _) = rustix::net::recv(&gate, &mut bytes[..], RecvFlags::empty())?;
        Ok((serde_json::from_slice(&bytes[..len])?, gate))
    };
    // What exec has made of the name is a number.
    let _ = rustix::thread::set_name(c"podvmm-vmm");
    read().map_err(JailError::Placement)
}

/// Takes a root directory and drops rights, as far as `placement` goes. `root` becomes the root
/// directory; it is a mount that is attached nowhere.
///
/// # Errors
/// [`JailError`]: what the mode does not forgive.
pub fn enter(
    placement: Placement,
    gate: &OwnedFd,
    root: Option<OwnedFd>,
) -> Result<Jail, JailError> {
    sys::share_one_heap();
    let mode = placement.mode;
    let mut gaps = Gaps(placement.gaps);
    let (mut proc_fds, mut has_root) = (None, false);
    if placement.user_namespace {
        forbid_user_namespaces();
    }
    if placement.namespaces {
        let moved = root.map_or_else(
            || Err(io::ErrorKind::NotFound.into()),
            |root| {
                let fds = clone_proc_fds()?;
                change_root(&root)?;
                Ok(fds)
            },
        );
        if let Some(fds) = gaps.unless("the root directory is the host's", moved) {
            (proc_fds, has_root) = (Some(fds), true);
        }
    }
    let proc_fds = match proc_fds {
        Some(fds) => fds,
        None => open_proc_fds().map_err(JailError::ProcFds)?,
    };
    if mode != JailMode::Off {
        set_limits(placement.uid.is_some()).map_err(failed("lower its limits"))?;
        if let Some(uid) = placement.uid {
            gaps.unless("it runs as root", identity::become_user(uid));
        }
        identity::drop_rights(placement.all_ids).map_err(failed("give up its rights"))?;
        rustix::thread::set_no_new_privs(true)
            .and_then(|()| rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable))
            .map_err(|errno| failed("seal itself")(errno.into()))?;
    }
    die_with(gate)?;
    if mode == JailMode::Full && !gaps.0.is_empty() {
        return Err(JailError::Incomplete(gaps.0));
    }
    Ok(Jail {
        proc_fds,
        has_root,
        hides_ids: !placement.all_ids,
        gaps: gaps.0,
    })
}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> JailError {
    move |source| JailError::Step { step, source }
}

/// What is missing.
struct Gaps(Vec<String>);

impl Gaps {
    /// Notes `what` if `step` has failed.
    fn unless<T>(&mut self, what: &str, step: io::Result<T>) -> Option<T> {
        step.map_err(|error| self.0.push(format!("{what}: {error}")))
            .ok()
    }
}

/// In a user namespace of its own anybody has all capabilities. The filter of system calls refuses to
/// make one; this is for the case that there is no filter.
fn forbid_user_namespaces() {
    // Where /proc/sys may not be written, as in most containers, the filter is left.
    if let Err(error) = std::fs::write("/proc/sys/user/max_user_namespaces", "0") {
        log::debug!("user.max_user_namespaces: {error}");
    }
}

fn open_proc_fds() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(PROC_FDS, flags, Mode::empty())?)
}

/// `/proc/self/fd` without the rest of procfs: `..` ends in it.
fn clone_proc_fds() -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let fds = open_tree(CWD, PROC_FDS, flags)?;
    let attributes = libc::MOUNT_ATTR_RDONLY
        | libc::MOUNT_ATTR_NOSUID
        | libc::MOUNT_ATTR_NODEV
        | libc::MOUNT_ATTR_NOEXEC;
    sys::add_mount_attributes(&fds, attributes, false)?;
    Ok(fds)
}

/// Makes `root` the root of this mount namespace and lets go of the old one.
fn change_root(root: &OwnedFd) -> io::Result<()> {
    // What happens here must not be seen outside, nor the other way round.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c"/", private)?;
    // Over the old root, which is the one directory that is sure to be there.
    move_mount(
        root,
        c"",
        CWD,
        c"/",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    rustix::process::fchdir(root)?;
    match rustix::process::pivot_root(c".", c".") {
        // The old root is now stacked on the new one, at the same place.
        Ok(()) => unmount(c".", UnmountFlags::DETACH)?,
        // A host that runs from its initramfs has no root to move. The old one stays below, with no
        // way to it.
        Err(rustix::io::Errno::INVAL) => rustix::process::chroot(c".")?,
        Err(errno) => return Err(errno.into()),
    }
    Ok(rustix::process::chdir(c"/")?)
}

/// No core dumps, no locked memory or message queues, and no more threads than it can need, where it
/// has a user of its own to count them by.
fn set_limits(has_own_user: bool) -> io::Result<()> {
    let mut limits = vec![
        (Resource::Core, 0),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
    ];
    if has_own_user {
        limits.push((Resource::Nproc, MAX_THREADS));
    }
    for (resource, most) in limits {
        let most = getrlimit(resource)
            .maximum
            .map_or(most, |now| now.min(most));
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit)?;
    }
    Ok(())
}

/// Has this process killed when its warden dies, by whatever hand.
fn die_with(gate: &OwnedFd) -> Result<(), JailError> {
    // Last of all: a change of user or capabilities takes it back.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|_| JailError::Abandoned)?;
    let mut gate = [PollFd::from_borrowed_fd(gate.as_fd(), PollFlags::IN)];
    let at_once = Timespec::default();
    match poll(&mut gate, Some(&at_once)) {
        Ok(0) => Ok(()),
        // It died before.
        _ => Err(JailError::Abandoned),
    }
}
