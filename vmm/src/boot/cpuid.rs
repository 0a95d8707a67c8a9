//! What CPU a vCPU says that it is.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};
use thiserror::Error;

use crate::builder::VcpuCount;

/// Why a vCPU could not be described.
#[derive(Debug, Error)]
#[error("cannot read the CPU features that KVM supports")]
pub struct CpuidError(#[source] pub kvm_ioctls::Error);

const LEAF_FEATURES: u32 = 0x1;
const LEAF_CACHES: u32 = 0x4;
const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_TOPOLOGY_V2: u32 = 0x1f;
const LEAF_AMD_SIZES: u32 = 0x8000_0008;
const LEAF_AMD_TOPOLOGY: u32 = 0x8000_001e;
const LEAF_AMD_TOPOLOGY_V2: u32 = 0x8000_0026;

const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_HTT: u32 = 1 << 28;

/// What all vCPUs of a machine have in common. It needs no KVM any more: one that comes late is described
/// without.
#[derive(Debug)]
pub struct Cpus {
    supported: CpuId,
    count: VcpuCount,
    deadline: bool,
}

impl Cpus {
    /// `count` vCPUs with what KVM supports.
    ///
    /// # Errors
    /// [`CpuidError`] when KVM does not tell.
    pub fn new(kvm: &Kvm, count: VcpuCount) -> Result<Self, CpuidError> {
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(CpuidError)?;
        Ok(Self {
            supported,
            count,
            deadline: kvm.check_extension(Cap::TscDeadlineTimer),
        })
    }

    /// How many there may be.
    #[must_use]
    pub fn count(&self) -> VcpuCount {
        self.count
    }

    /// The CPUID table of vCPU `index`: one core per vCPU in one package.
    #[must_use]
    pub fn cpuid(&self, index: u8) -> CpuId {
        let mut table = self.supported.clone();
        let apic = u32::from(index);
        let cores = u32::from(self.count.get());
        // Bits of the APIC id that number the cores.
        let width = cores.next_power_of_two().trailing_zeros();
        for entry in table.as_mut_slice() {
            match entry.function {
                LEAF_FEATURES => {
                    entry.ebx = (entry.ebx & 0x0000_ffff) | (cores << 16) | (apic << 24);
                    // KVM emulates the deadline timer but leaves it to us to say so. With it the guest
                    // needs no timer to calibrate another one with, so there is no PIT.
                    entry.ecx |= ECX_HYPERVISOR | if self.deadline { ECX_TSC_DEADLINE } else { 0 };
                    entry.edx = if cores > 1 {
                        entry.edx | EDX_HTT
                    } else {
                        entry.edx & !EDX_HTT
                    };
                }
                // Each core has caches of its own; the package has `cores` of them.
                LEAF_CACHES => entry.eax = (entry.eax & 0x0000_3fff) | ((cores - 1) << 26),
                LEAF_TOPOLOGY | LEAF_TOPOLOGY_V2 => {
                    let (shift, logical, kind) = match entry.index {
                        0 => (0, 1, 1),
                        1 => (width, cores, 2),
                        _ => (0, 0, 0),
                    };
                    entry.eax = shift;
                    entry.ebx = logical;
                    entry.ecx = entry.index | (kind << 8);
                    entry.edx = apic;
                }
                LEAF_AMD_SIZES => entry.ecx = (width << 12) | (cores - 1),
                LEAF_AMD_TOPOLOGY => {
                    entry.eax = apic;
                    entry.ebx = apic;
                    entry.ecx = 0;
                }
                LEAF_AMD_TOPOLOGY_V2 => {
                    entry.eax = 0;
                    entry.ebx = 0;
                    entry.ecx = 0;
                    entry.edx = 0;
                }
                _ => {}
            }
        }
        table
    }
}
