//! From a launch message to a machine.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use devices::DeviceKind;
use devices::balloon::Balloon;
use devices::fs::{ExportHandle, Fs, FsConfig, FsSettings};
use devices::net::{Net, NetConfig, Tap};
use devices::rng::Rng;
use devices::vsock::{GuestCid, HostPorts, Limits, Vsock, VsockConfig};
use podvmm_sandbox::control::{GuestFile, Launch, LaunchShare};
use podvmm_sandbox::jail::seccomp::{Filters, Thread};
use podvmm_sandbox::jail::{self, Jail, Placement};
use podvmm_sandbox::logging::one_line;
use podvmm_sandbox::rundir;
use vmm::boot::KernelError;
use vmm::interrupts::LINES;
use vmm::{BuildError, MemorySize, ThreadHook, ThreadKind, VcpuCount, Vm, VmBuilder};

use crate::requests::export;

/// Every guest is alone on its socket, so all have the same address.
const GUEST_CID: u32 = 3;
/// Those that each machine has: vsock, file system, random numbers, balloon.
const FIXED_DEVICES: usize = 4;
/// More request queues than this have no work to do at once: the disk is behind them.
const MAX_FS_QUEUES: u64 = 4;
/// Nor are there more of them for CPUs that are not there yet.
const MAX_FS_THREADS: u64 = 16;

/// Why the machine could not be made, and which file is at fault.
pub struct Refusal {
    pub file: Option<GuestFile>,
    pub message: String,
}

impl From<String> for Refusal {
    fn from(message: String) -> Self {
        Self {
            file: None,
            message,
        }
    }
}

impl From<BuildError> for Refusal {
    fn from(error: BuildError) -> Self {
        let file = match &error {
            BuildError::Kernel(KernelError::Thread(_)) => None,
            BuildError::Kernel(error) if error.is_initrd() => Some(GuestFile::Initrd),
            BuildError::Kernel(_) => Some(GuestFile::Kernel),
            _ => None,
        };
        Self {
            file,
            message: one_line(&error),
        }
    }
}

/// A machine and what steers it while it runs.
pub struct Machine {
    pub vm: Vm,
    pub exports: ExportHandle,
    pub requests: OwnedFd,
    /// What of its jail is missing.
    pub gaps: Vec<String>,
}

/// Goes to jail and makes the machine there that `launch` describes of the files in `fds`.
pub fn build(
    launch: &Launch,
    fds: Vec<OwnedFd>,
    (placement, gate): (Placement, OwnedFd),
    filters: &Filters,
) -> Result<Machine, Refusal> {
    let mut fds = fds.into_iter();
    let mut next = |what: &str| {
        fds.next()
            .ok_or_else(|| format!("no descriptor for {what}"))
    };
    let kvm = File::from(next("/dev/kvm")?);
    let kernel = File::from(next("the kernel")?);
    let initrd = File::from(next("the initramfs")?);
    let listener = UnixListener::from(next("the vsock listener")?);
    let requests = next("requests")?;
    let root = if launch.root {
        Some(next("the root directory")?)
    } else {
        None
    };
    let console = if launch.console {
        Some(File::from(next("the console")?))
    } else {
        None
    };
    let shares = launch
        .shares
        .iter()
        .map(|share| Ok((share, next(&share.name)?)))
        .collect::<Result<Vec<_>, String>>()?;
    let nets = launch
        .nets
        .iter()
        .map(|config| net(*config, next("a network interface")?))
        .collect::<Result<Vec<_>, String>>()?;

    let jail = jail::enter(placement, &gate, root).map_err(|error| one_line(&error))?;
    drop(gate);
    let install = filters.install(Thread::Main);
    install.map_err(|error| one_line(&error))?;
    let sockets = if jail.has_root {
        rundir::vsock_inside()
    } else {
        PathBuf::from(&launch.vsock_path)
    };
    let fs = fs(launch, shares, &jail)?;
    let exports = fs.exports();
    let mut builder = VmBuilder::new(kernel)
        .kvm(kvm)
        .initrd(initrd)
        .vcpus(VcpuCount::new(launch.vcpus).map_err(|error| error.to_string())?)
        .memory(MemorySize::from_bytes(launch.memory).map_err(|error| error.to_string())?)
        .max_vcpus(VcpuCount::new(launch.max_vcpus).map_err(|error| error.to_string())?)
        .max_memory(MemorySize::from_bytes(launch.max_memory).map_err(|error| error.to_string())?)
        .cmdline(launch.cmdline.clone())
        .device(Box::new(vsock(listener, sockets)?))
        .device(Box::new(fs))
        .device(Box::new(Rng))
        .device(Box::new(Balloon))
        .on_thread_start(narrow(filters.clone()));
    let slots = slots(launch);
    for net in nets {
        builder = builder.device(Box::new(net));
    }
    builder = builder.slots(slots);
    if let Some(console) = console {
        builder = builder.console(console);
    }
    Ok(Machine {
        vm: builder.build()?,
        exports,
        requests,
        gaps: jail.gaps,
    })
}

/// How many disks may come: none where the network's interfaces have taken all interrupt lines.
fn slots(launch: &Launch) -> u8 {
    let devices = FIXED_DEVICES + launch.nets.len();
    if devices < LINES.len() {
        launch.block_slots
    } else {
        0
    }
}

fn net(config: NetConfig, tap: OwnedFd) -> Result<Net, String> {
    let tap = Tap::new(tap).map_err(|error| one_line(&error))?;
    Ok(Net::new(config, Arc::new(tap)))
}

/// Narrows each thread of the machine to its list of system calls before it does anything.
fn narrow(filters: Filters) -> ThreadHook {
    Arc::new(move |kind| {
        let thread = match kind {
            ThreadKind::Vcpu => Thread::Vcpu,
            ThreadKind::Worker(DeviceKind::Vsock) => Thread::Vsock,
            ThreadKind::Worker(DeviceKind::Fs) => Thread::Fs,
            ThreadKind::Worker(DeviceKind::Rng) => Thread::Rng,
            ThreadKind::Worker(DeviceKind::Balloon) => Thread::Balloon,
            ThreadKind::Worker(DeviceKind::Mem) => Thread::Mem,
            ThreadKind::Worker(DeviceKind::Net) => Thread::Net,
            ThreadKind::Worker(DeviceKind::Blk) => Thread::Blk,
        };
        narrow_to(&filters, thread);
    })
}

/// Ends the process where a thread would run without its filter.
pub fn narrow_to(filters: &Filters, thread: Thread) {
    if let Err(error) = filters.install(thread) {
        eprintln!("podvmm-vmm: {}", one_line(&error));
        std::process::exit(125);
    }
}

fn vsock(listener: UnixListener, sockets: PathBuf) -> Result<Vsock, String> {
    let config = VsockConfig {
        guest_cid: GuestCid::try_from(GUEST_CID).map_err(|error| error.to_string())?,
        listener,
        host_ports: HostPorts::UnixPrefix(sockets),
        limits: Limits::default(),
    };
    Vsock::new(config).map_err(|error| one_line(&error))
}

/// How many queues for requests the file system has; each is a thread here.
///
/// Linux gives each queue as many CPUs as the next, with consecutive numbers, and counts those that are not
/// there yet. So a machine that may grow needs more queues for its first CPUs to have different ones.
fn request_queues(vcpus: u64, max_vcpus: u64) -> u16 {
    let used = vcpus.clamp(1, MAX_FS_QUEUES);
    let queues = match used {
        // What one CPU asks for is served by one thread, also when others come.
        1 => 1,
        used => (used * max_vcpus.max(vcpus)).div_ceil(vcpus),
    };
    queues.min(MAX_FS_THREADS) as u16
}

fn fs(launch: &Launch, shares: Vec<(&LaunchShare, OwnedFd)>, jail: &Jail) -> Result<Fs, String> {
    let settings = FsSettings {
        tag: launch.share_tag.clone(),
        request_queues: request_queues(launch.vcpus, launch.max_vcpus),
        hides_ids: jail.hides_ids,
        limit: launch.disk_limit,
        ..Default::default()
    };
    let config = FsConfig::try_from(settings).map_err(|error| one_line(&error))?;
    let exports = shares
        .into_iter()
        .map(|(share, file)| export(share, file))
        .collect::<Result<Vec<_>, String>>()?;
    let proc_fds = rustix::io::dup(&jail.proc_fds).map_err(|errno| errno.to_string())?;
    Fs::with_proc_fds(config, exports, proc_fds).map_err(|error| one_line(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpus_that_are_there_have_queues_of_their_own() {
        for (vcpus, max, queues) in [
            (1, 1, 1),
            (2, 2, 2),
            (4, 4, 4),
            (8, 8, 4),
            (8, 1, 4),
            (1, 8, 1),
            (2, 8, 8),
            (3, 8, 8),
            (4, 8, 8),
            (8, 16, 8),
            (2, 64, 16),
        ] {
            assert_eq!(request_queues(vcpus, max), queues, "{vcpus} of {max}");
        }
    }
}
