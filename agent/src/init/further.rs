//! A further process of a container, from the fork until it executes its command.
//!
//! It is a fork of the agent in the pid namespace and the cgroup of a running container, so the container's
//! processes can see it before it has become one of theirs. While it has the agent's capabilities they may
//! not look into it; nor may they when it has shed them, because [`crate::serve`] makes the agent
//! undumpable, which its forks inherit and exec ends.
//! Nothing that it finds in the container is followed blindly.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::error::{InitError, Step};
use super::root::Root;
use super::{Inherited, connect_stdio, devices, enter_working_directory, finish, leave_agent};
use crate::container::{ExecPlan, Message, send_message};
use crate::sys::process;

/// All but the pid namespace, in which it was made, and the user and time namespaces, which are the guest's.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWNET;

/// Runs the process in the container whose first process is behind `container`; does not return.
pub(crate) fn main(plan: &ExecPlan, inherited: Inherited, container: OwnedFd) -> ! {
    let Inherited { control, stdio } = inherited;
    let joined = join(plan, &control, stdio, container);
    finish(joined, &plan.process, &control)
}

fn join(
    plan: &ExecPlan,
    control: &OwnedFd,
    stdio: [OwnedFd; 3],
    container: OwnedFd,
) -> Result<(), InitError> {
    let [stdin, stdout, stderr] = &stdio;
    let mut kept = vec![control, stdin, stdout, stderr, &container];
    kept.extend(&plan.process.program);
    leave_agent(&kept, &plan.process)?;
    // Root and working directory become those of the mount namespace.
    process::join_namespaces(container.as_fd(), NAMESPACES)
        .step(|| "join the container's namespaces")?;
    drop(container);
    let terminal = match plan.terminal {
        None => None,
        Some(size) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::open("/", flags, Mode::empty()).step(|| "open /")?;
            Some(devices::open_terminal(&Root::new(root), size)?)
        }
    };
    let master = connect_stdio(stdio, terminal, plan.process.uid)?;
    enter_working_directory(&plan.process)?;
    send_message(control, &Message::Ready(master)).step(|| "report to the agent")
}
