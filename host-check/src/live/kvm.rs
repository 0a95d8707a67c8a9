//! The processor, `/dev/kvm` and the probe's machine.

use std::arch::x86_64::__cpuid;

use vmm::probe::{self, ProbeError};

use crate::capabilities::CAPABILITIES;
use crate::errno::Errno;
use crate::host::{Hex, Kvm, Probe, Registers, Speed};

/// A leaf, or zeros where the processor has none of that number: Intel's would answer with another.
pub(super) fn cpuid(leaf: u32) -> Registers {
    let range = leaf & 0xffff_ff00;
    if leaf != range && __cpuid(range).eax < leaf {
        return Registers::default();
    }
    let found = __cpuid(leaf);
    Registers {
        eax: Hex(found.eax),
        ebx: Hex(found.ebx),
        ecx: Hex(found.ecx),
        edx: Hex(found.edx),
    }
}

/// VMX (`CPUID.1:ECX[5]`) or SVM (`CPUID.8000_0001h:ECX[2]`), for those who want to know no more.
#[must_use]
pub fn processor_virtualizes() -> bool {
    let vmx = __cpuid(1).ecx & (1 << 5) != 0;
    let svm = __cpuid(0x8000_0000).eax >= 0x8000_0001 && __cpuid(0x8000_0001).ecx & (1 << 2) != 0;
    vmx || svm
}

pub(super) fn device() -> Kvm {
    let kvm = match kvm_ioctls::Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            return Kvm {
                open: Err(Errno(error.errno())),
                ..Kvm::default()
            };
        }
    };
    let value = |number: u32| kvm.check_extension_raw(number.into());
    Kvm {
        open: Ok(()),
        api_version: Some(kvm.get_api_version()),
        capabilities: CAPABILITIES
            .iter()
            .map(|capability| (capability.name.to_owned(), value(capability.number)))
            .collect(),
    }
}

pub(super) fn probe() -> Probe {
    match probe::measure() {
        Ok(speed) => Probe::Measured(Speed {
            create_vm_us: microseconds(speed.create_vm),
            exit_us: microseconds(speed.exit),
            cpl0_mips: rounded(speed.cpl0_mips),
            cpl3_mips: rounded(speed.cpl3_mips),
        }),
        Err(error) => answer(error),
    }
}

fn answer(error: ProbeError) -> Probe {
    match error {
        ProbeError::Missing { .. }
        | ProbeError::Permission
        | ProbeError::NoDevice
        | ProbeError::Open(_)
        | ProbeError::ApiVersion { .. } => Probe::NoDevice,
        ProbeError::Busy => Probe::Busy,
        ProbeError::Setup { step, source } => Probe::Refused {
            step: step.to_owned(),
            errno: Errno(source.errno()),
        },
        ProbeError::Broken { cpl, what } => Probe::Broken { cpl, what },
        ProbeError::Hung { after } => Probe::Hung {
            after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
        },
        ProbeError::Memory(_) | ProbeError::Thread(_) | ProbeError::KernelModeEmulated { .. } => {
            Probe::NotTried {
                why: error.to_string(),
            }
        }
    }
}

fn microseconds(time: std::time::Duration) -> f64 {
    rounded(time.as_secs_f64() * 1e6)
}

/// To a tenth: the rest is noise, and recordings are read by people.
fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}
