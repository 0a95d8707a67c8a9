//! What the host makes of the guest before containers come.

use std::ffi::CString;
use std::fs;
use std::io;

use agent_protocol::proto::SetupPodRequest;
use agent_protocol::{MAX_ENTROPY_LEN, SHARE_PATH};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags};
use rustix::time::{ClockId, Timespec};

use crate::container::sysctls;
use crate::rpc::Refusal;
use crate::sys::random;

/// Longest name that the kernel takes (__NEW_UTS_LEN).
const MAX_HOSTNAME_LEN: usize = 64;
/// As it was mounted: a remount sets them all.
const SHM_FLAGS: MountFlags = MountFlags::NODEV
    .union(MountFlags::NOSUID)
    .union(MountFlags::NOEXEC);
const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

/// Carries out SetupPod. All of the request is checked before anything is done.
pub(crate) fn set_up(request: &SetupPodRequest) -> Result<(), Refusal> {
    let sysctls = sysctls(request.sysctls.clone())?;
    if request.entropy.len() > MAX_ENTROPY_LEN {
        return Err(Refusal::invalid(format!(
            "entropy of more than {MAX_ENTROPY_LEN} bytes"
        )));
    }
    if request.hostname.len() > MAX_HOSTNAME_LEN {
        return Err(Refusal::invalid(format!(
            "hostname of more than {MAX_HOSTNAME_LEN} bytes"
        )));
    }
    let failed =
        |what: &'static str| move |error: io::Error| Refusal::internal(format!("{what}: {error}"));
    if !request.entropy.is_empty() {
        random::add_entropy(&request.entropy).map_err(failed("entropy"))?;
    }
    if request.wall_clock_ns != 0 {
        set_clock(request.wall_clock_ns).map_err(failed("clock"))?;
    }
    if !request.hostname.is_empty() {
        let name = request.hostname.as_bytes();
        rustix::system::sethostname(name)
            .map_err(io::Error::from)
            .map_err(failed("hostname"))?;
    }
    for (path, value) in sysctls {
        fs::write(format!("/proc/sys/{path}"), value)
            .map_err(|error| Refusal::internal(format!("sysctl {path}: {error}")))?;
    }
    if request.shm_size != 0 {
        let size = CString::new(format!("size={}", request.shm_size)).unwrap_or_default();
        rustix::mount::mount_remount("/dev/shm", SHM_FLAGS, size.as_c_str())
            .map_err(io::Error::from)
            .map_err(failed("shared memory"))?;
    }
    if !request.share_tag.is_empty() {
        mount_share(&request.share_tag, &request.share_options).map_err(failed("share"))?;
    }
    Ok(())
}

fn set_clock(now_ns: u64) -> io::Result<()> {
    let now = Timespec {
        tv_sec: (now_ns / NANOSECONDS_PER_SECOND) as i64,
        tv_nsec: (now_ns % NANOSECONDS_PER_SECOND) as i64,
    };
    Ok(rustix::time::clock_settime(ClockId::Realtime, now)?)
}

/// Mounts the pod's share. Containers' root directories are below it, so set-user-ID programs must work.
fn mount_share(tag: &str, options: &[String]) -> io::Result<()> {
    let context = rustix::mount::fsopen("virtiofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "source", tag)?;
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => rustix::mount::fsconfig_set_string(&context, key, value)?,
            None => rustix::mount::fsconfig_set_flag(&context, option.as_str())?,
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = rustix::fs::open(SHARE_PATH, flags, Mode::empty())?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(&mount, "", &target, "", flags)?)
}
