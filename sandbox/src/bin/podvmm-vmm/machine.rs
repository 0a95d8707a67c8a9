//! From a launch message to a machine.

use std::error::Error;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use devices::fs::{ExportHandle, Fs, FsConfig, FsSettings};
use devices::rng::Rng;
use devices::vsock::{GuestCid, HostPorts, Limits, Vsock, VsockConfig};
use podvmm_sandbox::control::{GuestFile, Launch, LaunchShare};
use vmm::{BuildError, MemorySize, VcpuCount, Vm, VmBuilder};

use crate::requests::export;

/// Every guest is alone on its socket, so all have the same address.
const GUEST_CID: u32 = 3;
/// More request queues than this have no work to do at once: the disk is behind them.
const MAX_FS_QUEUES: u64 = 4;

/// An error and its causes in one line.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

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
            BuildError::Kernel(error) if error.is_initrd() => Some(GuestFile::Initrd),
            BuildError::Kernel(_) => Some(GuestFile::Kernel),
            _ => None,
        };
        Self {
            file,
            message: with_causes(&error),
        }
    }
}

/// A machine and what steers it while it runs.
pub struct Machine {
    pub vm: Vm,
    pub exports: ExportHandle,
    pub requests: OwnedFd,
}

/// Makes the machine that `launch` describes of the files in `fds`.
pub fn build(launch: &Launch, fds: Vec<OwnedFd>) -> Result<Machine, Refusal> {
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

    let fs = fs(&launch.share_tag, launch.vcpus, shares)?;
    let exports = fs.exports();
    let mut builder = VmBuilder::new(kernel)
        .kvm(kvm)
        .initrd(initrd)
        .vcpus(VcpuCount::new(launch.vcpus).map_err(|error| error.to_string())?)
        .memory(MemorySize::from_bytes(launch.memory).map_err(|error| error.to_string())?)
        .cmdline(launch.cmdline.clone())
        .device(Box::new(vsock(listener, &launch.vsock_path)?))
        .device(Box::new(fs))
        .device(Box::new(Rng));
    if let Some(console) = console {
        builder = builder.console(console);
    }
    Ok(Machine {
        vm: builder.build()?,
        exports,
        requests,
    })
}

fn vsock(listener: UnixListener, path: &str) -> Result<Vsock, String> {
    let config = VsockConfig {
        guest_cid: GuestCid::try_from(GUEST_CID).map_err(|error| error.to_string())?,
        listener,
        host_ports: HostPorts::UnixPrefix(PathBuf::from(path)),
        limits: Limits::default(),
    };
    Vsock::new(config).map_err(|error| with_causes(&error))
}

fn fs(tag: &str, vcpus: u64, shares: Vec<(&LaunchShare, OwnedFd)>) -> Result<Fs, String> {
    let settings = FsSettings {
        tag: tag.to_owned(),
        // The guest picks a queue by CPU; each is a thread here.
        request_queues: vcpus.clamp(1, MAX_FS_QUEUES) as u16,
        ..Default::default()
    };
    let config = FsConfig::try_from(settings).map_err(|error| with_causes(&error))?;
    let exports = shares
        .into_iter()
        .map(|(share, file)| export(share, file))
        .collect::<Result<Vec<_>, String>>()?;
    Fs::new(config, exports).map_err(|error| with_causes(&error))
}
