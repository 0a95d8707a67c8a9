//! Whom the command runs as.

use std::ffi::{CString, OsStr};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::{Gid, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::error::{InitError, Step};
use crate::container::{CapabilityPlan, ProcessPlan};
use crate::sys::seccomp;

/// Most of /etc/passwd that is looked at, in bytes.
const MAX_PASSWD_LEN: u64 = 1 << 20;

/// Takes on limits, user, groups and capabilities. The root directory must be the container's.
pub(super) fn assume(plan: &ProcessPlan) -> Result<(), InitError> {
    // What programs are used to; the agent's own limit is of another order.
    let files = (
        Resource::Nofile,
        Rlimit {
            current: Some(1024),
            maximum: files_ceiling(),
        },
    );
    for (resource, limit) in [&files].into_iter().chain(&plan.rlimits) {
        rustix::process::setrlimit(*resource, *limit)
            .step(|| format!("resource limit {resource:?}"))?;
    }
    drop_bounding(plan.capabilities.bounding)?;
    let groups: Vec<Gid> = plan.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
    let step = || format!("user {}:{}", plan.uid, plan.gid);
    rustix::thread::set_keep_capabilities(true).step(step)?;
    rustix::thread::set_thread_groups(&groups).step(step)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).step(step)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).step(step)?;
    set_capabilities(CapabilityPlan {
        permitted: plan.capabilities.permitted | for_filter(plan),
        effective: plan.capabilities.effective | for_filter(plan),
        ..plan.capabilities
    })?;
    if plan.no_new_privileges {
        rustix::thread::set_no_new_privs(true).step(|| "no_new_privs")?;
    }
    rustix::process::umask(Mode::from_raw_mode(plan.umask));
    Ok(())
}

/// Becomes a user that has no rights at all and cannot gain any.
pub(super) fn renounce() -> Result<(), InitError> {
    /// As the kernel shows users that it cannot show ("overflow").
    const NOBODY: u32 = 65_534;
    drop_bounding(CapabilitySet::empty())?;
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    let step = || "become nobody";
    rustix::thread::set_thread_groups(&[]).step(step)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).step(step)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).step(step)?;
    let none = CapabilitySet::empty();
    set_capabilities(CapabilityPlan {
        bounding: none,
        effective: none,
        inheritable: none,
        permitted: none,
        ambient: none,
    })?;
    rustix::thread::set_no_new_privs(true).step(|| "no_new_privs")
}

/// Installs the seccomp filter, as late as can be: what follows must be allowed by it, which is `capset`
/// and `execve`.
pub(super) fn confine(plan: &ProcessPlan) -> Result<(), InitError> {
    let Some(filter) = &plan.seccomp else {
        return Ok(());
    };
    seccomp::install(&filter.program, filter.flags).step(|| "seccomp filter")?;
    if for_filter(plan).is_empty() {
        return Ok(());
    }
    let sets = sets(plan.capabilities);
    rustix::thread::set_capabilities(None, sets).step(|| "capabilities")
}

/// The capability without which only a process that gains no privileges may install a filter.
fn for_filter(plan: &ProcessPlan) -> CapabilitySet {
    match plan.seccomp {
        Some(_) if !plan.no_new_privileges => CapabilitySet::SYS_ADMIN,
        _ => CapabilitySet::empty(),
    }
}

fn files_ceiling() -> Option<u64> {
    rustix::process::getrlimit(Resource::Nofile).maximum
}

/// The kernel is asked which capabilities exist: /proc/sys/kernel/cap_last_cap is the image's to fake.
fn drop_bounding(keep: CapabilitySet) -> Result<(), InitError> {
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if rustix::thread::capability_is_in_bounding_set(capability).is_err() {
            break;
        }
        if !keep.contains(capability) {
            rustix::thread::remove_capability_from_bounding_set(capability)
                .step(|| "capability bounding set")?;
        }
    }
    Ok(())
}

fn set_capabilities(plan: CapabilityPlan) -> Result<(), InitError> {
    rustix::thread::clear_ambient_capability_set().step(|| "ambient capabilities")?;
    rustix::thread::set_capabilities(None, sets(plan)).step(|| "capabilities")?;
    for capability in plan.ambient.iter() {
        rustix::thread::configure_capability_in_ambient_set(capability, true)
            .step(|| "ambient capabilities")?;
    }
    Ok(())
}

fn sets(plan: CapabilityPlan) -> CapabilitySets {
    CapabilitySets {
        effective: plan.effective,
        permitted: plan.permitted,
        inheritable: plan.inheritable,
    }
}

/// The environment with HOME, which programs expect and configurations leave to the runtime.
pub(super) fn environment(plan: &ProcessPlan) -> Vec<CString> {
    let mut environment = plan.environment.clone();
    if !environment
        .iter()
        .any(|variable| variable.as_bytes().starts_with(b"HOME="))
    {
        let home = home_of(plan.uid, &read_passwd().unwrap_or_default());
        environment.extend(CString::new([b"HOME=".as_slice(), &home].concat()));
    }
    environment
}

/// Reads the container's /etc/passwd, if it is a file and not something that could block.
fn read_passwd() -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open("/etc/passwd", flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut content = Vec::new();
    std::fs::File::from(file)
        .take(MAX_PASSWD_LEN)
        .read_to_end(&mut content)
        .ok()?;
    Some(content)
}

fn home_of(uid: u32, passwd: &[u8]) -> Vec<u8> {
    let wanted = uid.to_string();
    for line in passwd.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':').skip(2);
        if fields.next() != Some(wanted.as_bytes()) {
            continue;
        }
        if let Some(home) = fields.nth(2)
            && Path::new(OsStr::from_bytes(home)).is_absolute()
        {
            return home.to_vec();
        }
    }
    b"/".to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_comes_from_the_first_line_of_the_user() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nbroken\n\nu:x:7:7::/home/u:\nv:x:7:7::/no:\n";
        assert_eq!(home_of(0, passwd), b"/root");
        assert_eq!(home_of(7, passwd), b"/home/u");
        assert_eq!(home_of(8, passwd), b"/");
        assert_eq!(home_of(0, b"root:x:0:0:root:relative:\n"), b"/");
    }
}
