//! The jail of the VMM process against somebody in it who can make any system call.
//!
//! Each way out is tried three times by `podvmm-jail-payload`: without a jail, where it works, so that
//! the test shows something; in the jail without a filter of system calls, where the jail alone must
//! refuse it; and in both, where the filter ends the process and says why.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod payload;

use std::fs;
use std::time::{Duration, Instant};

use payload::{Bed, Running, Try};

/// A way out.
struct Way {
    /// Name of the attempt.
    name: &'static str,
    /// Error of the jail, as root and as another user.
    refused: [&'static [i32]; 2],
    /// System call that the filter of a virtual CPU refuses.
    call: &'static str,
}

const fn way(
    name: &'static str,
    root: &'static [i32],
    user: &'static [i32],
    call: &'static str,
) -> Way {
    Way {
        name,
        refused: [root, user],
        call,
    }
}

use libc::{EACCES, ECONNREFUSED, ENETUNREACH, ENOENT, ENOSPC, EPERM, EROFS, ESRCH};

const WAYS: &[Way] = &[
    way("read-a-host-file", &[ENOENT], &[ENOENT], "openat"),
    way("climb-from-a-share", &[ENOENT], &[ENOENT], "openat"),
    way("climb-from-proc", &[ENOENT], &[ENOENT], "openat"),
    way("look-at-a-process", &[ENOENT], &[ENOENT], "openat"),
    way("write-to-a-read-only-share", &[EROFS], &[EROFS], "openat"),
    way("write-to-the-root", &[EROFS], &[EROFS], "openat"),
    way("open-a-device-node", &[EACCES], &[EACCES], "openat"),
    way("make-a-device-node", &[EPERM], &[EPERM], "mknodat"),
    way("map-a-file-to-execute", &[EPERM], &[EPERM], "openat"),
    way("open-by-handle", &[EPERM], &[EPERM], "name_to_handle_at"),
    way("execute", &[ENOENT], &[ENOENT], "execve"),
    way("signal-a-process", &[ESRCH], &[ESRCH], "kill"),
    way("trace-a-process", &[ESRCH], &[ESRCH], "ptrace"),
    way(
        "connect-by-network",
        &[ENETUNREACH],
        &[ENETUNREACH],
        "socket",
    ),
    way(
        "connect-to-an-abstract-socket",
        &[ECONNREFUSED],
        &[ECONNREFUSED],
        "socket",
    ),
    way("make-a-mount", &[EPERM], &[EPERM], "fsopen"),
    way("change-the-root", &[EPERM], &[EPERM], "chroot"),
    way("name-the-host", &[EPERM], &[EPERM], "uname"),
    way("become-root", &[EPERM], &[libc::EINVAL], "setresuid"),
    way("gain-a-capability", &[EPERM], &[EPERM], "capget"),
    way("make-a-user-namespace", &[ENOSPC], &[ENOSPC], "unshare"),
    way("allow-core-dumps", &[EPERM], &[EPERM], "prlimit64"),
    way("read-the-kernel-log", &[EPERM], &[EPERM], "syslog"),
];

/// What only the filter refuses, and to whom: the rest of the jail has no opinion on it.
const FILTERED: &[(&str, &str, &str)] = &[
    ("map-memory-to-execute", "fs", "mmap"),
    ("map-memory-to-execute", "main", "mmap"),
    ("connect-by-network", "vsock", "socket"),
    ("fork", "main", "clone"),
    ("make-an-io-ring", "main", "io_uring_setup"),
    ("survive-the-warden", "main", "prctl"),
    ("type-into-the-terminal", "vsock", "ioctl"),
    ("type-into-the-terminal", "main", "ioctl"),
    ("make-a-user-namespace", "fs", "unshare"),
    ("execute", "main", "execve"),
    ("signal-a-process", "main", "kill"),
    ("make-a-mount", "main", "fsopen"),
];

#[test]
fn outside_a_jail_each_way_is_open() {
    let bed = Bed::new();
    if !bed.is_root() {
        println!("skipped: only root can go all of these ways");
        return;
    }
    for way in WAYS {
        let outcome = bed.attempt(&Try::new(way.name).without_jail());
        assert!(outcome.worked(), "{}: {outcome:?}", way.name);
    }
}

#[test]
fn the_jail_alone_closes_each_way() {
    let bed = Bed::new();
    for user in bed.users() {
        for way in WAYS {
            let outcome = bed.attempt(&Try::new(way.name).by(user));
            if outcome.is_no_jail(user) {
                break;
            }
            let expected = way.refused[usize::from(user.is_some() || !bed.is_root())];
            let errno = outcome.refused();
            assert!(
                errno.is_some_and(|errno| expected.contains(&errno)),
                "{} by {user:?}: {outcome:?}",
                way.name
            );
        }
    }
}

#[test]
fn the_filter_ends_whoever_tries_and_says_what() {
    let bed = Bed::new();
    for way in WAYS {
        let outcome = bed.attempt(&Try::new(way.name).filtered_as("vcpu"));
        outcome.ended_for(way.call);
    }
    for (name, thread, call) in FILTERED {
        let outcome = bed.attempt(&Try::new(name).filtered_as(thread));
        outcome.ended_for(call);
    }
}

/// Its flags are in memory, where no filter sees them.
#[test]
fn clone3_is_not_there() {
    let outcome = Bed::new().attempt(&Try::new("fork-by-clone3").filtered_as("main"));
    assert_eq!(outcome.refused(), Some(libc::ENOSYS), "{outcome:?}");
}

#[test]
fn what_the_filter_alone_refuses_works_without_it() {
    let bed = Bed::new();
    for name in [
        "map-memory-to-execute",
        "survive-the-warden",
        "fork-by-clone3",
    ] {
        let outcome = bed.attempt(&Try::new(name));
        if !outcome.is_no_jail(None) {
            assert!(outcome.worked(), "{name}: {outcome:?}");
        }
    }
}

/// Number of the process in the jail, once it has gone in: it has one mount then. `None` if it has ended.
fn jailed(running: &mut Running) -> Option<u32> {
    let warden = running.child.id();
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let children = fs::read_to_string(format!("/proc/{warden}/task/{warden}/children"));
        let child = children.unwrap_or_default().trim().parse().ok();
        let mounts = child.map(|pid: u32| fs::read_to_string(format!("/proc/{pid}/mountinfo")));
        if let Some(Ok(mounts)) = mounts
            && mounts.lines().count() == 1
        {
            return child;
        }
        if running.child.try_wait().unwrap().is_some() {
            return None;
        }
        assert!(Instant::now() < until, "there is more than one mount");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_jailed_process_has_namespaces_and_a_root_of_its_own() {
    let bed = Bed::new();
    let mut running = bed.start(&Try::new("wait"));
    let Some(pid) = jailed(&mut running) else {
        assert!(running.wait().is_no_jail(None));
        return;
    };
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap();
        assert_ne!(of(&pid.to_string()), of("self"), "shared namespace: {kind}");
    }
    let root = fs::read_dir(format!("/proc/{pid}/root")).unwrap();
    assert_eq!(
        root.count(),
        0,
        "the root directory is the one that was given"
    );
    rustix::net::shutdown(&running.control, rustix::net::Shutdown::Write).unwrap();
    assert!(running.wait().worked());
}
