//! The pid namespace that a pod's containers may share (shareProcessNamespace).

use std::io::{self, Read};

use crate::init;
use crate::lifeline;
use crate::sys::process::{self, Child, Fork};

/// Makes it, with a first process that lives as long as the agent. Containers come and go in it.
#[allow(unsafe_code)] // forks
pub(crate) fn hold() -> io::Result<Child> {
    let (mut failure, ready) = io::pipe()?;
    let new = (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64;
    // SAFETY: the agent never starts a thread.
    match unsafe { process::fork_into(new, None) }? {
        Fork::Child => {
            lifeline::forget();
            drop(failure);
            init::hold_pids(ready.into())
        }
        Fork::Parent(child) => {
            drop(ready);
            // It takes a handful of system calls. Until then no container may see it.
            let mut text = String::new();
            failure.read_to_string(&mut text)?;
            match text.as_str() {
                "" => Ok(child),
                text => Err(io::Error::other(text.to_owned())),
            }
        }
    }
}
