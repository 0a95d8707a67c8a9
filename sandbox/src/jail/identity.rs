//! Who the VMM is, and what it may do: users, groups, capabilities.

use std::io;

use rustix::process::Pid;
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, Gid, Uid, capabilities,
    clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::sys;

/// User of the VMM process with PID 0, which there is none; the others follow. Behind what
/// distributions, `useradd` and container engines give out. A process number is unique on a host at
/// any time, and so is the user.
pub const FIRST_UID: u32 = 2_000_000_000;

/// What serving files of any owner takes, over the files that the process can reach.
const FOR_FILES: CapabilitySet = CapabilitySet::CHOWN // files get the owner that the guest names
    .union(CapabilitySet::DAC_OVERRIDE) // which may be one who lets nobody in
    .union(CapabilitySet::FOWNER) // chmod, times, O_NOATIME of others' files
    .union(CapabilitySet::FSETID); // set-group-id stays where the guest sets it

/// The last capability of Linux 6.18 is number 40; a few more cost nothing.
const CAPABILITIES: u32 = 48;

/// The user of the VMM process `pid`.
pub(super) fn user_of(pid: Pid) -> Option<u32> {
    let number = u32::try_from(pid.as_raw_nonzero().get()).ok()?;
    FIRST_UID.checked_add(number)
}

/// Hands all capabilities of this thread on to the next program, whoever its user is.
pub(super) fn keep_capabilities_over_exec() -> io::Result<()> {
    let mut sets = capabilities(None)?;
    sets.inheritable = sets.permitted;
    set_capabilities(None, sets)?;
    for capability in sets.permitted.iter() {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// Becomes user and group `id`, who accesses files as root.
pub(super) fn become_user(id: u32) -> io::Result<()> {
    // The kernel would take capabilities away with the user; what goes is decided by `drop_rights`.
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)?;
    set_thread_groups(&[])?;
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    sys::access_files_as(0)
}

/// Gives up all rights but those that file passthrough needs, for good. A process in whose user
/// namespace only one user is mapped keeps none.
pub(super) fn drop_rights(all_ids: bool) -> io::Result<()> {
    let now = capabilities(None)?;
    let keep = if all_ids {
        now.permitted & FOR_FILES
    } else {
        CapabilitySet::empty()
    };
    if now.permitted.contains(CapabilitySet::SETPCAP) {
        for number in 0..CAPABILITIES {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            match remove_capability_from_bounding_set(capability) {
                // There is none of that number.
                Err(rustix::io::Errno::INVAL) => break,
                other => other?,
            }
        }
        set_capabilities_secure_bits(locked())?;
    }
    clear_ambient_capability_set()?;
    let sets = CapabilitySets {
        effective: keep,
        permitted: keep,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

/// Being or becoming root gives nothing, and nothing is handed on.
fn locked() -> CapabilitiesSecureBits {
    CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED
}
