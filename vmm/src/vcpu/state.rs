//! A vCPU's state as plain data.
//!
//! The order of [`VcpuState::restore`] is KVM's: CPUID before anything that it validates, local APIC
//! before the registers that depend on it, pending events last.

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state,
    kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Which part of a vCPU's state could not be read or set.
#[derive(Debug, Error)]
#[error("cannot transfer the {part} of a vCPU")]
pub struct StateError {
    /// The part.
    pub part: &'static str,
    /// KVM's reason.
    #[source]
    pub source: kvm_ioctls::Error,
}

/// Everything that a vCPU is, version 1.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VcpuState {
    cpuid: Vec<kvm_bindings::kvm_cpuid_entry2>,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    xcrs: kvm_xcrs,
    debug: kvm_debugregs,
    lapic: kvm_lapic_state,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
    mp: kvm_mp_state,
}

fn failed(part: &'static str) -> impl Fn(kvm_ioctls::Error) -> StateError {
    move |source| StateError { part, source }
}

impl VcpuState {
    /// Reads the state of a vCPU that does not run. `msrs` are the indices that KVM lists as saved.
    ///
    /// # Errors
    /// [`StateError`] names the part.
    pub fn save(vcpu: &VcpuFd, msrs: &[u32]) -> Result<Self, StateError> {
        Ok(Self {
            mp: vcpu
                .get_mp_state()
                .map_err(failed("multiprocessing state"))?,
            cpuid: vcpu
                .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
                .map_err(failed("CPUID"))?
                .as_slice()
                .to_vec(),
            regs: vcpu.get_regs().map_err(failed("general registers"))?,
            sregs: vcpu.get_sregs().map_err(failed("system registers"))?,
            xsave: vcpu.get_xsave().map_err(failed("extended registers"))?,
            xcrs: vcpu
                .get_xcrs()
                .map_err(failed("extended control registers"))?,
            debug: vcpu.get_debug_regs().map_err(failed("debug registers"))?,
            lapic: vcpu.get_lapic().map_err(failed("local APIC"))?,
            msrs: read_msrs(vcpu, msrs)?,
            events: vcpu.get_vcpu_events().map_err(failed("pending events"))?,
        })
    }

    /// Sets the state of a new vCPU.
    ///
    /// # Errors
    /// [`StateError`] names the part that KVM refused, as it does with values that no CPU can have.
    pub fn restore(&self, vcpu: &VcpuFd) -> Result<(), StateError> {
        let no_memory = |_| StateError {
            part: "CPUID",
            source: kvm_ioctls::Error::new(libc::E2BIG),
        };
        let cpuid = CpuId::from_entries(&self.cpuid).map_err(no_memory)?;
        vcpu.set_cpuid2(&cpuid).map_err(failed("CPUID"))?;
        vcpu.set_mp_state(self.mp)
            .map_err(failed("multiprocessing state"))?;
        vcpu.set_regs(&self.regs)
            .map_err(failed("general registers"))?;
        vcpu.set_sregs(&self.sregs)
            .map_err(failed("system registers"))?;
        set_xsave(vcpu, &self.xsave)?;
        vcpu.set_xcrs(&self.xcrs)
            .map_err(failed("extended control registers"))?;
        vcpu.set_debug_regs(&self.debug)
            .map_err(failed("debug registers"))?;
        vcpu.set_lapic(&self.lapic).map_err(failed("local APIC"))?;
        write_msrs(vcpu, &self.msrs)?;
        vcpu.set_vcpu_events(&self.events)
            .map_err(failed("pending events"))
    }
}

#[allow(
    unsafe_code,
    reason = "kvm-ioctls cannot know the size of the extended state"
)]
fn set_xsave(vcpu: &VcpuFd, xsave: &kvm_xsave) -> Result<(), StateError> {
    // SAFETY: KVM reads more than `kvm_xsave` holds only where this process enabled dynamic features
    // (ARCH_REQ_XCOMP_GUEST_PERM), which it never does.
    unsafe { vcpu.set_xsave(xsave) }.map_err(failed("extended registers"))
}

fn read_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, StateError> {
    let part = "model-specific registers";
    let mut read = Vec::with_capacity(indices.len());
    let mut rest = indices;
    // KVM stops at the first index that this vCPU does not have: skip it and go on.
    while !rest.is_empty() {
        let entries: Vec<_> = rest
            .iter()
            .map(|index| kvm_msr_entry {
                index: *index,
                ..Default::default()
            })
            .collect();
        let mut msrs = Msrs::from_entries(&entries).map_err(|_| StateError {
            part,
            source: kvm_ioctls::Error::new(libc::E2BIG),
        })?;
        let got = vcpu
            .get_msrs(&mut msrs)
            .map_err(failed(part))?
            .min(rest.len());
        read.extend_from_slice(&msrs.as_slice()[..got]);
        rest = rest.get(got + 1..).unwrap_or_default();
    }
    Ok(read)
}

fn write_msrs(vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), StateError> {
    let part = "model-specific registers";
    let msrs = Msrs::from_entries(entries).map_err(|_| StateError {
        part,
        source: kvm_ioctls::Error::new(libc::E2BIG),
    })?;
    match vcpu.set_msrs(&msrs).map_err(failed(part))? {
        set if set == entries.len() => Ok(()),
        _ => Err(StateError {
            part,
            source: kvm_ioctls::Error::new(libc::EINVAL),
        }),
    }
}
