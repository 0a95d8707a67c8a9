//! The thread that listens to the sandbox while the VM runs.

use std::os::fd::{AsFd, OwnedFd};

use devices::fs::{CachePolicy, Export, ExportHandle};
use podvmm_sandbox::control::{self, Answer, LaunchShare, MachineSize, Request};
use rustix::event::{PollFd, PollFlags, poll};
use vmm::{MemorySize, VcpuCount, VmHandle};

use crate::machine::with_causes;

/// What the thread steers.
pub struct Steering {
    /// Stops and resizes the machine.
    pub vm: VmHandle,
    /// What the guest sees of the host.
    pub exports: ExportHandle,
    /// Where requests come from.
    pub requests: OwnedFd,
}

/// Carries out requests until the sandbox closes `lifeline`, wholly or for writing; then stops the
/// machine.
pub fn serve(lifeline: &OwnedFd, steering: Steering) {
    let Steering {
        vm,
        exports,
        requests,
    } = steering;
    let mut requests = Some(requests);
    while is_open(lifeline, &mut requests) {
        let Some(socket) = &requests else { continue };
        match control::receive::<Request>(socket) {
            Ok(Some((request, fds))) => {
                let answer = match carry_out(&vm, &exports, request, fds) {
                    Ok(answer) => answer,
                    Err(message) => Answer::Refused { message },
                };
                if control::send(socket, &answer, &[]).is_err() {
                    requests = None;
                }
            }
            Ok(None) => requests = None,
            Err(error) => {
                log::warn!("requests are no longer heard: {error}");
                requests = None;
            }
        }
    }
    vm.stop();
}

/// Waits for a request; `false` once the sandbox is gone or wants the end.
fn is_open(lifeline: &OwnedFd, requests: &mut Option<OwnedFd>) -> bool {
    loop {
        // Without requests to wait for, the lifeline stands in twice.
        let other = requests.as_ref().unwrap_or(lifeline);
        let mut set =
            [lifeline.as_fd(), other.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut set, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return false,
            Ok(_) => {}
        }
        // Nothing is said on the lifeline after the first packet: it is readable when it ends.
        if !set[0].revents().is_empty() {
            return false;
        }
        if requests.is_some() {
            return true;
        }
    }
}

fn carry_out(
    vm: &VmHandle,
    exports: &ExportHandle,
    request: Request,
    fds: Vec<OwnedFd>,
) -> Result<Answer, String> {
    match request {
        Request::AddShare(share) => {
            let fd = fds.into_iter().next();
            let fd = fd.ok_or_else(|| format!("no descriptor for {}", share.name))?;
            let export = export(&share, fd)?;
            exports.add(export).map_err(|error| with_causes(&error))?;
            Ok(Answer::Done)
        }
        Request::RemoveShare { name } if exports.remove(&name) => Ok(Answer::Done),
        Request::RemoveShare { name } => Err(format!("there is no share {name}")),
        Request::Resize { vcpus, memory } => {
            let vcpus = VcpuCount::new(vcpus).map_err(|error| error.to_string())?;
            let memory = MemorySize::from_bytes(memory).map_err(|error| error.to_string())?;
            let resized = vm.resize(vcpus, memory);
            resized.map_err(|error| with_causes(&error))?;
            Ok(size(vm))
        }
        Request::Size => Ok(size(vm)),
    }
}

fn size(vm: &VmHandle) -> Answer {
    let size = vm.size();
    Answer::Size(MachineSize {
        vcpus: size.vcpus.into(),
        max_vcpus: size.max_vcpus.into(),
        memory: size.memory,
        wanted_memory: size.wanted_memory,
        max_memory: size.max_memory,
    })
}

/// The terms on which a guest may have `share`.
pub fn export(share: &LaunchShare, fd: OwnedFd) -> Result<Export, String> {
    let cache = if share.unchanging {
        CachePolicy::Always
    } else {
        CachePolicy::Auto
    };
    let export = Export::new(&share.name, fd).map_err(|error| with_causes(&error))?;
    let export = export.cache(cache);
    Ok(if share.read_only {
        export
    } else {
        export.writable()
    })
}
