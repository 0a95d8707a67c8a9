//! The capabilities of KVM that are asked for, and what for.

use kvm_bindings::{
    KVM_CAP_ADJUST_CLOCK, KVM_CAP_DEBUGREGS, KVM_CAP_EXT_CPUID, KVM_CAP_IOEVENTFD, KVM_CAP_IRQFD,
    KVM_CAP_MP_STATE, KVM_CAP_READONLY_MEM, KVM_CAP_SET_IDENTITY_MAP_ADDR, KVM_CAP_SET_TSS_ADDR,
    KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_TSC_DEADLINE_TIMER, KVM_CAP_USER_MEMORY, KVM_CAP_VCPU_EVENTS,
    KVM_CAP_XCRS, KVM_CAP_XSAVE,
};

/// A capability of KVM.
#[derive(Debug)]
pub struct Capability {
    /// Its name without `KVM_CAP_`.
    pub name: &'static str,
    /// Its number in `KVM_CHECK_EXTENSION`.
    pub number: u32,
    /// Whether a pod can do without it.
    pub required: bool,
    /// What it is for.
    pub purpose: &'static str,
}

const fn required(name: &'static str, number: u32, purpose: &'static str) -> Capability {
    Capability {
        name,
        number,
        required: true,
        purpose,
    }
}

const fn optional(name: &'static str, number: u32, purpose: &'static str) -> Capability {
    Capability {
        name,
        number,
        required: false,
        purpose,
    }
}

/// What the VMM uses, and what other VMMs require besides.
pub const CAPABILITIES: &[Capability] = &[
    required(
        "SPLIT_IRQCHIP",
        KVM_CAP_SPLIT_IRQCHIP,
        "local APICs in the kernel, the I/O APIC outside",
    ),
    required("USER_MEMORY", KVM_CAP_USER_MEMORY, "guest memory"),
    required(
        "SET_TSS_ADDR",
        KVM_CAP_SET_TSS_ADDR,
        "real mode on Intel's processors",
    ),
    required("EXT_CPUID", KVM_CAP_EXT_CPUID, "the CPUID table of a vCPU"),
    required(
        "MP_STATE",
        KVM_CAP_MP_STATE,
        "vCPUs that wait to be started",
    ),
    required("IRQFD", KVM_CAP_IRQFD, "interrupts from devices"),
    required("IOEVENTFD", KVM_CAP_IOEVENTFD, "doorbells of devices"),
    required(
        "SET_IDENTITY_MAP_ADDR",
        KVM_CAP_SET_IDENTITY_MAP_ADDR,
        "real mode on Intel's processors",
    ),
    required(
        "TSC_DEADLINE_TIMER",
        KVM_CAP_TSC_DEADLINE_TIMER,
        "the guest's timer: there is no other",
    ),
    optional(
        "ADJUST_CLOCK",
        KVM_CAP_ADJUST_CLOCK,
        "the guest's clock after a pause",
    ),
    optional("VCPU_EVENTS", KVM_CAP_VCPU_EVENTS, "saving a vCPU"),
    optional("DEBUGREGS", KVM_CAP_DEBUGREGS, "saving a vCPU"),
    optional("XSAVE", KVM_CAP_XSAVE, "saving a vCPU"),
    optional("XCRS", KVM_CAP_XCRS, "saving a vCPU"),
    optional(
        "READONLY_MEM",
        KVM_CAP_READONLY_MEM,
        "device registers that are read without an exit",
    ),
];
