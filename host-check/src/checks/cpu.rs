//! Does the processor virtualize, and does the firmware let it?

use crate::advice;
use crate::check::{Check, Group, Look, Weight};
use crate::checks::kvm;
use crate::errno::Errno;
use crate::facts::{Facts, Vendor};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "cpu.virtualization",
        group: Group::Cpu,
        parameter: "CPU: VMX or SVM",
        expected: "VMX (CPUID.1:ECX[5]) or SVM (CPUID.8000_0001h:ECX[2])",
        why: "a pod is a virtual machine; without VMX or SVM there is nothing to run it on",
        weight: Weight::VITAL,
        fast: true,
        look: virtualization,
    },
    Check {
        id: "cpu.firmware",
        group: Group::Cpu,
        parameter: "firmware: virtualization",
        expected: "not locked by the firmware",
        why: "firmware can lock virtualization until the next reset, and KVM refuses to load then",
        weight: Weight::VITAL,
        fast: true,
        look: firmware,
    },
];

fn virtualization(facts: &Facts<'_>) -> Look {
    let cpu = facts.cpu();
    if cpu.virtualizes() {
        return Look::pass(if cpu.vmx { "VMX" } else { "SVM" });
    }
    let has_kvm = match facts.kvm().open {
        Ok(()) => true,
        // A node that is not for us may still be one behind which there is nothing.
        Err(Errno::ACCES | Errno::PERM) => kvm::loaded(facts).is_some(),
        Err(_) => false,
    };
    if has_kvm {
        return Look::info(
            "neither VMX nor SVM",
            "the CPU shows neither VMX nor SVM, and there is a KVM nevertheless: its speed decides",
        );
    }
    if facts.other_hypervisor() {
        return Look::does_not_apply("Microsoft's hypervisor keeps it for itself: see kvm.mshv");
    }
    let advice = advice::virtualization(facts.place(), cpu);
    Look::fail("neither VMX nor SVM", advice.message, advice.remedy).at(advice.parameter)
}

/// IA32_FEATURE_CONTROL: locked, and VMX outside SMX allowed.
const FEATURE_CONTROL: u32 = 0x3a;
const LOCKED: u64 = 1;
const VMX_OUTSIDE_SMX: u64 = 1 << 2;
/// VM_CR: SVM disabled.
const VM_CR: u32 = 0xc001_0114;
const SVM_DISABLED: u64 = 1 << 4;

/// Whether the firmware has locked virtualization, and what says so.
enum Lock {
    Locked(&'static str),
    Free(&'static str),
    Unknown,
}

fn lock(facts: &Facts<'_>) -> Lock {
    let cpu = facts.cpu();
    let register = match cpu.vendor {
        Vendor::Intel => facts
            .host()
            .msr(FEATURE_CONTROL)
            .map(|value| value & LOCKED != 0 && value & VMX_OUTSIDE_SMX == 0),
        Vendor::Amd => facts
            .host()
            .msr(VM_CR)
            .map(|value| value & SVM_DISABLED != 0),
        Vendor::Other(_) => Err(Errno::NOENT),
    };
    match (register, cpu.kernel_agrees) {
        (Ok(true), _) => Lock::Locked("a model-specific register says that it is locked"),
        (Ok(false), _) => Lock::Free("not locked"),
        (Err(_), Some(false)) => {
            Lock::Locked("CPUID shows the feature, and the kernel has taken it off its own list")
        }
        (Err(_), Some(true)) if facts.kernel() >= since(&cpu.vendor) => Lock::Free(
            "the kernel lists the feature, which it does not where the firmware has locked it",
        ),
        (Err(_), _) => Lock::Unknown,
    }
}

/// Whether the firmware is known to have locked it.
pub(super) fn is_locked(facts: &Facts<'_>) -> bool {
    matches!(lock(facts), Lock::Locked(_))
}

fn firmware(facts: &Facts<'_>) -> Look {
    if !facts.cpu().virtualizes() {
        return Look::does_not_apply("nothing is there that could be locked: cpu.virtualization");
    }
    if facts.kvm().open.is_ok() {
        return Look::pass("KVM uses it");
    }
    match lock(facts) {
        Lock::Locked(observed) => locked(facts, observed),
        Lock::Free(observed) => Look::pass(observed),
        Lock::Unknown => {
            Look::skip("only root can read the register that tells, and it takes the module msr")
                .with_remedy("run `modprobe msr` and the check as root")
        }
    }
}

/// The kernel that began to take the feature off its list where the firmware has locked it.
fn since(vendor: &Vendor) -> Option<(u32, u32)> {
    Some(match vendor {
        Vendor::Intel => (5, 6),
        Vendor::Amd | Vendor::Other(_) => (6, 7),
    })
}

fn locked(facts: &Facts<'_>, observed: &str) -> Look {
    let (cpu, place) = (facts.cpu(), facts.place());
    let extension = cpu.extension();
    if place.is_bare_metal() {
        let setting = advice::firmware_setting(cpu);
        return Look::fail(
            observed,
            format!("{extension} is there and the firmware has locked it"),
            format!(
                "switch {setting} on in the firmware's setup (BIOS, UEFI) and power the machine \
                 off and on; rented hardware: ask the provider to do it"
            ),
        )
        .at(format!("firmware: {setting}"));
    }
    let advice = advice::virtualization(place, cpu);
    Look::fail(
        observed,
        format!(
            "{extension} is there and switched off by the hypervisor below ({})",
            place.hypervisor
        ),
        advice.remedy,
    )
    .at(advice.parameter)
}
