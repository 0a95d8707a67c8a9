//! Making processes and hearing of their end.
#![allow(unsafe_code)] // clone3, execve and signal calls

use std::ffi::{CStr, CString};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::process::Pid;

/// From linux/sched.h; beyond what `clone` could take, so it has no constant of the right type in libc.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// A process that was forked.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    /// Refers to the process and to no later one of its number.
    pub(crate) pidfd: OwnedFd,
}

/// Which side of a [`fork_into`] this is.
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The process that asked.
    Parent(Child),
}

/// Forks into new namespaces (`CLONE_NEW*` in `namespaces`) and into `cgroup`, or else into this process's.
///
/// # Safety
/// This process has one thread: the child has only a copy of the calling one, and a lock that another
/// held would never be released.
pub(crate) unsafe fn fork_into(
    namespaces: u64,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Fork> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all zeroes is a valid clone_args, a structure of integers.
    let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
    arguments.flags = namespaces | libc::CLONE_PIDFD as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    arguments.pidfd = &raw mut pidfd as u64;
    // SAFETY: clone3 reads `size` bytes of a live structure and writes a live integer. Without CLONE_VM the
    // child goes on with its own copy of this stack, which is sound in a process of one thread.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        )
    };
    Ok(match Pid::from_raw(super::check_long(result)? as i32) {
        None => Fork::Child,
        Some(pid) => Fork::Parent(Child {
            pid,
            // SAFETY: clone3 has succeeded, so the descriptor is new and nobody else's.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    })
}

/// Takes on namespaces (`CLONE_NEW*` in `flags`) of the process behind `pidfd`; of a pid namespace, for
/// children only.
pub(crate) fn join_namespaces(pidfd: BorrowedFd<'_>, flags: i32) -> io::Result<()> {
    // SAFETY: setns takes a descriptor and flags and touches no memory.
    super::check(unsafe { libc::setns(pidfd.as_raw_fd(), flags) }).map(drop)
}

/// Replaces this process's program; returns only to say why it could not.
pub(crate) fn execute(path: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: execve takes a C string and two null-terminated arrays of C strings, all alive here.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// The same with a program that is open.
pub(crate) fn execute_file(
    program: &OwnedFd,
    arguments: &[CString],
    environment: &[CString],
) -> io::Error {
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: execveat takes a descriptor, a C string and two null-terminated arrays of C strings, all
    // alive here, and flags.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// An array as execve takes it.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    let strings = strings.iter().map(|string| string.as_ptr());
    strings.chain([ptr::null()]).collect()
}

/// Ends this process without running destructors or exit handlers, which belong to the parent.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no conditions.
    unsafe { libc::_exit(status) }
}

/// Turns SIGCHLD into a readable descriptor instead of an interruption.
pub(crate) fn child_events() -> io::Result<OwnedFd> {
    let set = signal_set(&[libc::SIGCHLD])?;
    // SAFETY: sigprocmask reads a live set and may be given no place for the old one.
    super::check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) })?;
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: signalfd reads a live set.
    let fd = super::check(unsafe { libc::signalfd(-1, &raw const set, flags) })?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes writing to a closed pipe an error instead of this process's end.
pub(crate) fn ignore_broken_pipes() {
    // SAFETY: SIG_IGN is a valid disposition of SIGPIPE and runs no code.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Lets the kernel reap this process's children, also those that it inherits.
pub(crate) fn ignore_children() {
    // SAFETY: SIG_IGN is a valid disposition of SIGCHLD and runs no code.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Undoes [`child_events`]' and [`ignore_broken_pipes`]' effect on what this process executes next, and
/// that of whoever started the agent: shells ignore some signals on behalf of background jobs.
pub(crate) fn reset_signals() -> io::Result<()> {
    for signal in [libc::SIGPIPE, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: SIG_DFL is a valid disposition of each of them and runs no code.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let set = signal_set(&[])?;
    // SAFETY: sigprocmask reads a live set and may be given no place for the old one.
    super::check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) })?;
    Ok(())
}

fn signal_set(signals: &[libc::c_int]) -> io::Result<libc::sigset_t> {
    // SAFETY: sigset_t is an array of integers; sigemptyset gives it its value next.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: the set is live.
    super::check(unsafe { libc::sigemptyset(&raw mut set) })?;
    for &signal in signals {
        // SAFETY: the set is live and was emptied.
        super::check(unsafe { libc::sigaddset(&raw mut set, signal) })?;
    }
    Ok(set)
}

/// Sends any signal number to a process.
pub(crate) fn kill(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: kill has no memory conditions, and Pid is never 0 or negative, so one process is meant.
    super::check(unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) }).map(drop)
}

/// Closes descriptors `from..=to`, or marks them to be closed by exec.
///
/// # Safety
/// Without `on_exec`: no owner of a descriptor in the range is used or dropped afterwards.
pub(crate) unsafe fn close_range(from: u32, to: u32, on_exec: bool) -> io::Result<()> {
    let flags = if on_exec {
        libc::CLOSE_RANGE_CLOEXEC
    } else {
        0
    };
    // SAFETY: the caller vouches for the descriptors.
    super::check_long(unsafe { libc::syscall(libc::SYS_close_range, from, to, flags) }).map(drop)
}

/// Puts a copy of `fd` at descriptor `target`, to survive exec.
///
/// # Safety
/// No owner of `target` is used or dropped afterwards.
pub(crate) unsafe fn place_fd(fd: BorrowedFd<'_>, target: i32) -> io::Result<()> {
    // SAFETY: the caller vouches for `target`.
    super::check(unsafe { libc::dup2(fd.as_raw_fd(), target) }).map(drop)
}

/// Leaves the namespaces named in `flags` (`CLONE_NEW*`) for new ones.
pub(crate) fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: the agent passes namespace flags only, which have no effect on memory or descriptors.
    super::check(unsafe { libc::unshare(flags) }).map(drop)
}
