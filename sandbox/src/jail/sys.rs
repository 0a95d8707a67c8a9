//! System calls of the jail that nobody offers safely.
#![allow(
    unsafe_code,
    reason = "clone3, execveat, fork and others that have no safe interface"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::process::Pid;

/// From linux/sched.h; libc's constant is of a type that is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// First descriptor behind standard input, output and error.
const FIRST_OTHER: u32 = 3;

/// Starts a process in new namespaces (`CLONE_NEW*` in `namespaces`) and in `cgroup`, which does `work`
/// and ends with its status. The caller must have one thread: the child has a copy of the calling one
/// only, so a lock that another held would never be released. That is checked.
pub(super) fn start(
    namespaces: u64,
    cgroup: Option<BorrowedFd<'_>>,
    work: impl FnOnce() -> i32,
) -> io::Result<Pid> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("this process has several threads"));
    }
    // SAFETY: all zeroes is a valid clone_args, a structure of integers.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = namespaces;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: clone3 reads `size` bytes of a live structure. Without CLONE_VM the child goes on with
    // its own copy of this stack, which is sound in a process of one thread.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        )
    };
    match (result, result == -1 && last_is(libc::ENOSYS)) {
        // Where a container's filter hides clone3, there are no namespaces to be had either.
        (-1, true) if arguments.flags == 0 => fork(work),
        (-1, _) => Err(io::Error::last_os_error()),
        (0, _) => exit_now(work()),
        (pid, _) => child(pid as i32),
    }
}

/// Starts a process that is a copy of this one and does `work`. Where this one has several threads,
/// `work` must do nothing but system calls.
pub(super) fn fork(work: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: the child has a copy of this thread and of memory. In a process of several threads the
    // callers keep to system calls, which need no lock that another thread might have held.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => exit_now(work()),
        pid => child(pid),
    }
}

/// Leaves the namespaces named in `flags` (`CLONE_NEW*`) for new ones.
pub(super) fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: the callers pass namespace flags only, which have no effect on memory or descriptors.
    check(unsafe { libc::unshare(flags) })
}

fn child(pid: i32) -> io::Result<Pid> {
    Pid::from_raw(pid).ok_or_else(|| io::Error::other("a process without a number"))
}

/// Ends this process without destructors and exit handlers, which belong to the parent.
fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no conditions.
    unsafe { libc::_exit(status) }
}

/// Replaces this process's program by `program`; returns only to say why it could not.
pub(super) fn execute(
    program: BorrowedFd<'_>,
    arguments: &[CString],
    environment: &[CString],
) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*mut libc::c_char> {
        let each = strings.iter().map(|string| string.as_ptr().cast_mut());
        each.chain([ptr::null_mut()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: execveat takes a descriptor, a C string and two null-terminated arrays of C strings, all
    // alive here, and changes none of them.
    unsafe {
        libc::execveat(
            program.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Closes everything but standard input, output and error. For the very start of a process: nothing
/// may own another descriptor yet.
pub(super) fn close_all_others() -> io::Result<()> {
    // SAFETY: as documented, no owner of a descriptor in the range exists.
    let result = unsafe { libc::syscall(libc::SYS_close_range, FIRST_OTHER, u32::MAX, 0) };
    check(result as i32)
}

/// Closes the child's copy of a descriptor that its parent keeps. For a child that executes another
/// program or ends: it must not use or drop the owner.
pub(super) fn close_in_child(fd: &OwnedFd) {
    // SAFETY: as documented, the owner is not used in this process again.
    unsafe { libc::close(fd.as_raw_fd()) };
}

/// Takes over a descriptor that the starting process has passed by number.
pub(super) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl with F_GETFD has no conditions and tells whether the number is open.
    check(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    if (0..FIRST_OTHER as i32).contains(&number) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: it is open, and the warden's argument is its only owner: this is called once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Adds `attributes` (`MOUNT_ATTR_*`) to a mount, and to those below it.
pub(super) fn add_mount_attributes(
    mount: impl AsFd,
    attributes: u64,
    recursive: bool,
) -> io::Result<()> {
    let change = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: mount_setattr reads a C string and `size` bytes of a live structure.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result as i32)
}

/// Accesses files as `id` (user and group), whoever this thread is otherwise.
pub(super) fn access_files_as(id: u32) -> io::Result<()> {
    // SAFETY: setfsgid has no conditions; it gives the old identifier and no error.
    unsafe { libc::setfsgid(id) };
    // SAFETY: as above.
    unsafe { libc::setfsuid(id) };
    // SAFETY: as above; an impossible identifier changes nothing, so this tells the present one.
    let now = unsafe { libc::setfsuid(u32::MAX) };
    if now as u32 == id {
        Ok(())
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

/// `fd`'s number as an argument for the next program, and that program's to keep.
pub(super) fn passed_number(fd: &OwnedFd) -> io::Result<CString> {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
    CString::new(fd.as_raw_fd().to_string()).map_err(io::Error::other)
}

/// Has the allocator serve all threads from one heap, the first thread's. The C library (glibc 2.36,
/// `malloc/arena.c`) gives each thread one of its own otherwise, and reads
/// `/proc/sys/vm/overcommit_memory` when one of these first shrinks: at a moment of the guest's choice,
/// in a thread that may open no file. Data paths do not allocate, so nobody waits for the one heap.
pub(super) fn share_one_heap() {
    // SAFETY: mallopt takes two numbers. A parameter that it does not know changes nothing.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

fn check(result: i32) -> io::Result<()> {
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn last_is(errno: i32) -> bool {
    io::Error::last_os_error().raw_os_error() == Some(errno)
}
