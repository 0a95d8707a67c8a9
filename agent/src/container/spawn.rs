//! The fork that becomes a container.
#![allow(unsafe_code)] // forks

use std::io;
use std::os::fd::AsFd;

use rustix::process::Pid;

use super::{Cgroup, Plan};
use crate::init::{self, Inherited};
use crate::lifeline;
use crate::sys::process::{self, Fork};

/// Forks the first process into its namespaces and its cgroup.
pub(super) fn first_process(plan: &Plan, inherited: Inherited, cgroup: &Cgroup) -> io::Result<Pid> {
    let own = (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64;
    // SAFETY: the agent never starts a thread.
    match unsafe { process::fork_into(own | plan.namespaces, cgroup.as_fd()) }? {
        Fork::Parent(pid) => Ok(pid),
        Fork::Child => {
            lifeline::forget();
            init::main(plan, inherited)
        }
    }
}
