//! Calls to the kernel that are tried because no file says whether they work.
//!
//! What a call makes is gone when this returns: descriptors are closed, namespaces die with the
//! process that was started for them.

// Three of the calls have no safe interface, and namespaces need a process of their own.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd};

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, ResolveFlags};

use crate::errno::Errno;
use crate::host::Attempt;

const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;
/// Since Linux 5.11: faults of user code alone, which needs no privilege.
const UFFD_USER_MODE_ONLY: libc::c_int = 1;

pub(super) fn attempt(attempt: Attempt) -> Result<u64, Errno> {
    match attempt {
        Attempt::Openat2 => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat2(CWD, ".", flags, Mode::empty(), ResolveFlags::BENEATH)?;
            Ok(0)
        }
        Attempt::Memfd => {
            rustix::fs::memfd_create("host-check", MemfdFlags::CLOEXEC)?;
            Ok(0)
        }
        Attempt::Tun => {
            rustix::fs::open(
                "/dev/net/tun",
                OFlags::RDWR | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            Ok(0)
        }
        Attempt::Userfaultfd => userfaultfd(),
        Attempt::Landlock => landlock(),
        Attempt::UserNamespace => in_child(&[libc::CLONE_NEWUSER]),
        Attempt::NetworkInUserNamespace => in_child(&[libc::CLONE_NEWUSER, libc::CLONE_NEWNET]),
    }
}

fn userfaultfd() -> Result<u64, Errno> {
    // SAFETY: the call takes flags and no pointer.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | UFFD_USER_MODE_ONLY) };
    let fd = i32::try_from(fd).map_err(|_| Errno(libc::EIO))?;
    if fd < 0 {
        return Err(last());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(0)
}

fn landlock() -> Result<u64, Errno> {
    // SAFETY: asked for its version the call wants a null pointer of length 0, and makes nothing.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u64::try_from(version).map_err(|_| last())
}

fn last() -> Errno {
    std::io::Error::last_os_error().into()
}

/// Unshares one namespace after the other in a child, which ends at the first that is refused.
///
/// A child that sends no signal when it ends: the program around us may count its own children.
fn in_child(namespaces: &[libc::c_int]) -> Result<u64, Errno> {
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: without CLONE_VM this is a fork. In a process with threads the child may only make
    // calls that are safe in a signal handler, which those below are; it does not return.
    let child = unsafe { libc::syscall(libc::SYS_clone, 0_usize, none, none, none, none) };
    if child == 0 {
        let mut status = 0;
        for namespace in namespaces {
            // SAFETY: the call takes a number.
            if unsafe { libc::unshare(*namespace) } != 0 {
                status = last().0;
                break;
            }
        }
        // SAFETY: ends this process without running anything of its parent's.
        unsafe { libc::_exit(status) }
    }
    let child = i32::try_from(child).map_err(|_| Errno(libc::EIO))?;
    if child < 0 {
        return Err(last());
    }
    let mut status = 0;
    loop {
        // SAFETY: `status` is ours for the time of the call; the child is ours to wait for.
        if unsafe { libc::waitpid(child, &raw mut status, libc::__WALL) } == child {
            break;
        }
        match last() {
            Errno(libc::EINTR) => {}
            error => return Err(error),
        }
    }
    if !libc::WIFEXITED(status) {
        return Err(Errno(libc::EIO));
    }
    match libc::WEXITSTATUS(status) {
        0 => Ok(0),
        errno => Err(Errno(errno)),
    }
}
