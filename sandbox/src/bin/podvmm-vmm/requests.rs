//! The thread that listens to the sandbox while the VM runs.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use devices::blk::{Blk, BlkConfig, BlkSettings};
use devices::fs::{CachePolicy, Export, ExportHandle};
use devices::rate::RateLimit;
use podvmm_sandbox::control::{self, Answer, LaunchBlock, LaunchShare, MachineSize, Request};
use rustix::event::{PollFd, PollFlags, poll};
use vmm::{MemorySize, VcpuCount, VmHandle};

use podvmm_sandbox::logging::one_line;

/// What the thread steers.
pub struct Steering {
    /// Stops and resizes the machine, and gives it disks.
    pub vm: VmHandle,
    /// What the guest sees of the host.
    pub exports: ExportHandle,
    /// Where requests come from.
    pub requests: OwnedFd,
    /// How fast the guest may use a disk.
    pub disk_limit: RateLimit,
}

/// Carries out requests until the sandbox closes `lifeline`, wholly or for writing; then stops the
/// machine.
pub fn serve(lifeline: &OwnedFd, steering: Steering) {
    let mut requests = Some(steering.requests);
    let (vm, exports) = (&steering.vm, &steering.exports);
    while is_open(lifeline, &mut requests) {
        let Some(socket) = &requests else { continue };
        match control::receive::<Request>(socket) {
            Ok(Some((request, fds))) => {
                let carried_out = match request {
                    Request::AddBlock(block) => add_block(vm, &block, steering.disk_limit, fds),
                    Request::RemoveBlock { address } => remove_block(vm, address),
                    Request::AddShare(share) => add_share(exports, &share, fds),
                    Request::RemoveShare { name } => remove_share(exports, &name),
                    Request::Resize { vcpus, memory } => resize(vm, vcpus, memory),
                    Request::Size => Ok(size(vm)),
                };
                let answer = carried_out.unwrap_or_else(|message| Answer::Refused { message });
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

fn add_share(
    exports: &ExportHandle,
    share: &LaunchShare,
    fds: Vec<OwnedFd>,
) -> Result<Answer, String> {
    let export = export(share, only(fds, &share.name)?)?;
    let added = exports.add(export);
    added.map_err(|error| one_line(&error))?;
    Ok(Answer::Done)
}

fn remove_share(exports: &ExportHandle, name: &str) -> Result<Answer, String> {
    if exports.remove(name) {
        Ok(Answer::Done)
    } else {
        Err(format!("there is no share {name}"))
    }
}

/// Puts a disk into a slot of the machine.
fn add_block(
    vm: &VmHandle,
    block: &LaunchBlock,
    limit: RateLimit,
    fds: Vec<OwnedFd>,
) -> Result<Answer, String> {
    let file = File::from(only(fds, &block.id)?);
    let config = BlkConfig::try_from(BlkSettings {
        geometry: block.geometry,
        read_only: block.read_only,
        id: block.id.clone(),
        limit,
    });
    let config = config.map_err(|error| one_line(&error))?;
    let plugged = vm.plug(Box::new(Blk::new(config, file)));
    let address = plugged.map_err(|error| one_line(&error))?;
    Ok(Answer::Plugged { address })
}

fn remove_block(vm: &VmHandle, address: u64) -> Result<Answer, String> {
    vm.unplug(address).map_err(|error| one_line(&error))?;
    Ok(Answer::Done)
}

/// The descriptor that a request for `what` comes with.
fn only(fds: Vec<OwnedFd>, what: &str) -> Result<OwnedFd, String> {
    let fd = fds.into_iter().next();
    fd.ok_or_else(|| format!("no descriptor for {what}"))
}

fn resize(vm: &VmHandle, vcpus: u64, memory: u64) -> Result<Answer, String> {
    let vcpus = VcpuCount::new(vcpus).map_err(|error| error.to_string())?;
    let memory = MemorySize::from_bytes(memory).map_err(|error| error.to_string())?;
    let resized = vm.resize(vcpus, memory);
    resized.map_err(|error| one_line(&error))?;
    Ok(size(vm))
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
    let export = Export::new(&share.name, fd).map_err(|error| one_line(&error))?;
    let export = export.cache(cache);
    Ok(if share.read_only {
        export
    } else {
        export.writable()
    })
}
