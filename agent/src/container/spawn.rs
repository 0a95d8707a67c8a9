//! The forks that become processes of a container.
#![allow(unsafe_code)] // forks

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Cgroup, ExecPlan, Plan};
use crate::guest;
use crate::init::{self, Inherited};
use crate::lifeline;
use crate::sys::process::{self, Child, Fork};

/// Forks the first process into its namespaces and its cgroup. `pids_of` is the first process of
/// the pid namespace that it shares.
pub(super) fn first_process(
    plan: &Plan,
    inherited: Inherited,
    cgroup: &Cgroup,
    pids_of: Option<&Child>,
) -> io::Result<Child> {
    let new = plan.namespaces.new | libc::CLONE_NEWNS as u64;
    // SAFETY: the agent never starts a thread.
    let fork = || unsafe { process::fork_into(new, Some(cgroup.as_fd())) };
    let forked = match pids_of {
        Some(owner) => in_pid_namespace_of(&owner.pidfd, fork),
        None => fork(),
    };
    match forked? {
        Fork::Parent(child) => Ok(child),
        Fork::Child => {
            lifeline::forget();
            init::main(plan, inherited)
        }
    }
}

/// Forks a further process of a container, whose first one is behind `first`, into the pid namespace of
/// that and into the container's cgroup. It joins the other namespaces itself.
pub(super) fn further_process(
    plan: &ExecPlan,
    inherited: Inherited,
    cgroup: &Cgroup,
    first: &Child,
) -> io::Result<Child> {
    let container = first.pidfd.try_clone()?;
    let fork = |cgroup: BorrowedFd<'_>| {
        // SAFETY: the agent never starts a thread.
        in_pid_namespace_of(&first.pidfd, || unsafe {
            process::fork_into(0, Some(cgroup))
        })
    };
    let forked = match fork(cgroup.as_fd()) {
        // The container has put its processes into cgroups of its own below, which leaves no place in
        // between (cgroups(7), "no internal processes").
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            fork(cgroup.of_process(first.pid)?.as_fd())
        }
        forked => forked,
    };
    match forked? {
        Fork::Parent(child) => Ok(child),
        Fork::Child => {
            lifeline::forget();
            init::further(plan, inherited, container)
        }
    }
}

/// Runs `fork` so that the child is in the pid namespace of the process behind `pidfd`.
///
/// A pid namespace cannot be entered, only given to children. The agent gives it to the one and takes its
/// own back, which needs no process in between: the child is the agent's and reaped like any other.
fn in_pid_namespace_of(
    pidfd: &OwnedFd,
    fork: impl FnOnce() -> io::Result<Fork>,
) -> io::Result<Fork> {
    let own = File::open("/proc/self/ns/pid")?;
    process::join_namespaces(pidfd.as_fd(), libc::CLONE_NEWPID)?;
    let forked = fork();
    if matches!(forked, Ok(Fork::Child)) {
        return forked;
    }
    if let Err(error) = process::join_namespaces(own.as_fd(), libc::CLONE_NEWPID) {
        // Every later container would be inside of this one.
        lifeline::report_failure(&format!("return to the agent's pid namespace: {error}"));
        guest::stop();
    }
    forked
}
