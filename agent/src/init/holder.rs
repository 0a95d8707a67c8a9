//! The first process of the pid namespace that a pod's containers share.
//!
//! Containers can see it, and one with CAP_SYS_PTRACE can look into it. So it has nothing: no descriptor, no
//! file but an empty root directory of its own, no user that means anything and no capability.

use std::os::fd::OwnedFd;

use rustix::event::poll;
use rustix::process::Signal;

use super::error::{InitError, Step};
use super::{identity, keep_only, rootfs};
use crate::sys::process;

/// What /proc shows as its name, as with other runtimes.
const NAME: &std::ffi::CStr = c"pause";

/// Runs the process, which is in new pid and mount namespaces; does not return. `ready` is closed when that
/// is done, after the reason if it failed.
pub(crate) fn main(ready: OwnedFd) -> ! {
    let outcome = keep_only(&[&ready])
        .step(|| "close the agent's descriptors")
        .and_then(|()| shed());
    if let Err(error) = outcome {
        let _ = rustix::io::write(&ready, error.text().as_bytes());
        process::exit_now(1);
    }
    drop(ready);
    loop {
        // Nothing is waited for: this is to be there, and the kernel reaps what it inherits.
        let _ = poll(&mut [], None);
    }
}

fn shed() -> Result<(), InitError> {
    process::ignore_children();
    rustix::process::setsid().step(|| "new session")?;
    rustix::thread::set_name(NAME).step(|| "name")?;
    rootfs::enter(&rootfs::Stage::mount()?.into_root())?;
    identity::renounce()?;
    // A change of the user has undone it if it came before.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).step(|| "end with parent")
}
