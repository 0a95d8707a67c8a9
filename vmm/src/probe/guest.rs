//! The test machine: five pages of memory and two vCPUs in 64-bit mode, one per privilege level.
//!
//! ```text
//!   0x0000 unused │ 0x1000 PML4 │ 0x2000 PDPT │ 0x3000 PD (one 2 MiB page, identity) │ 0x4000 code
//! ```

// KVM is told where the guest's memory is by address: no safe interface can vouch for that.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use rustix::time::{ClockId, clock_gettime};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::ProbeError;

/// Two passes in a row of this much processor time end a measurement. One may be long only because
/// a hypervisor below took the processor away, of which nothing is seen up here.
const LONG_ENOUGH: Duration = Duration::from_micros(400);

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const CODE: u64 = 0x4000;
const SIZE: usize = 0x5000;
/// Three pages at the end of the first 4 GiB that Intel's processors need for real mode.
const TSS: usize = 0xfffb_d000;

/// What a pass is: the number of turns is in EDI and doubles each time.
const LOOP: [u8; 12] = [
    0x89, 0xf9, //       mov ecx, edi
    0xff, 0xc9, // turn: dec ecx
    0x75, 0xfc, //       jnz turn
    0xe6, 0x10, //       out 0x10, al: the way out to this process
    0x01, 0xff, //       add edi, edi
    0xeb, 0xf4, //       jmp to the start
];
const INSTRUCTIONS_PER_TURN: f64 = 2.0;
/// EDI holds no more after one more doubling.
const MAX_TURNS: f64 = (1_u64 << 31) as f64;

const CR0_PE_ET_NE_PG: u64 = 1 | 1 << 4 | 1 << 5 | 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
const RFLAGS_FIXED: u64 = 1 << 1;
/// With it, CPL 3 may use `out`.
const RFLAGS_IOPL_3: u64 = 3 << 12;
const TABLE: u64 = 0b10_0111; // present, writable, user, accessed
const LARGE_PAGE: u64 = 0b1110_0111; // the same, dirty, 2 MiB

/// What one privilege level showed.
pub(super) struct Pace {
    pub(super) exit: Duration,
    pub(super) mips: f64,
}

/// A virtual machine that has not run yet.
pub(super) struct Guest {
    // Order matters: the machine goes before the memory that it was told of.
    vm: VmFd,
    cpuid: CpuId,
    vcpus: u64,
    _memory: GuestMemoryMmap,
}

fn setup(step: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> ProbeError {
    move |source| ProbeError::Setup { step, source }
}

impl Guest {
    pub(super) fn new(kvm: &Kvm, vm: VmFd) -> Result<Self, ProbeError> {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), SIZE)])
            .map_err(|source| ProbeError::Memory(Box::new(source)))?;
        let entries = [(PML4, PDPT | TABLE), (PDPT, PD | TABLE), (PD, LARGE_PAGE)];
        entries
            .iter()
            .try_for_each(|&(at, entry)| memory.write_obj(entry, GuestAddress(at)))
            .and_then(|()| memory.write_slice(&LOOP, GuestAddress(CODE)))
            .map_err(|source| ProbeError::Memory(Box::new(source)))?;
        let host = memory
            .get_host_address(GuestAddress(0))
            .map_err(|source| ProbeError::Memory(Box::new(source)))?;

        vm.set_tss_address(TSS).map_err(setup("KVM_SET_TSS_ADDR"))?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: SIZE as u64,
            userspace_addr: host as u64,
        };
        // SAFETY: set_user_memory_region asks for memory that is mapped for as long as the machine
        // lives, in no other slot. `memory` is SIZE bytes at `host`, this is the only slot, and
        // `Guest` drops the machine first.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(setup("KVM_SET_USER_MEMORY_REGION"))?;
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(setup("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(Self {
            vm,
            cpuid,
            vcpus: 0,
            _memory: memory,
        })
    }

    fn vcpu(&mut self, cpl: u8) -> Result<VcpuFd, ProbeError> {
        let vcpu = self
            .vm
            .create_vcpu(self.vcpus)
            .map_err(setup("KVM_CREATE_VCPU"))?;
        self.vcpus += 1;
        vcpu.set_cpuid2(&self.cpuid)
            .map_err(setup("KVM_SET_CPUID2"))?;
        let mut sregs = vcpu.get_sregs().map_err(setup("KVM_GET_SREGS"))?;
        let data = kvm_segment {
            base: 0,
            limit: 0xffff_ffff,
            selector: 0x10 | u16::from(cpl),
            type_: 0b0011, // read, write, accessed
            present: 1,
            dpl: cpl,
            db: 1,
            s: 1,
            g: 1,
            ..Default::default()
        };
        sregs.cs = kvm_segment {
            selector: 0x08 | u16::from(cpl),
            type_: 0b1011, // execute, read, accessed
            db: 0,
            l: 1,
            ..data
        };
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        sregs.cr0 = CR0_PE_ET_NE_PG;
        sregs.cr3 = PML4;
        sregs.cr4 = CR4_PAE;
        sregs.efer = EFER_LME_LMA;
        vcpu.set_sregs(&sregs).map_err(setup("KVM_SET_SREGS"))?;
        let iopl = if cpl == 3 { RFLAGS_IOPL_3 } else { 0 };
        let regs = kvm_regs {
            rip: CODE,
            rdi: 1,
            rflags: RFLAGS_FIXED | iopl,
            ..Default::default()
        };
        vcpu.set_regs(&regs).map_err(setup("KVM_SET_REGS"))?;
        Ok(vcpu)
    }

    /// Runs passes at one privilege level until two are long enough. The speed is that of the
    /// fastest: this thread's processor time is counted, so a busy machine does not look slow.
    pub(super) fn run(&mut self, cpl: u8, stop: &AtomicBool) -> Result<Pace, ProbeError> {
        let mut vcpu = self.vcpu(cpl)?;
        let mut pace = Pace {
            exit: Duration::MAX,
            mips: 0.0,
        };
        let mut cheapest = Duration::MAX;
        let mut long = 0;
        let mut turns = 1.0;
        loop {
            let (wall, cpu) = (Instant::now(), processor_time());
            pass(&mut vcpu, cpl, stop)?;
            let cpu = processor_time().saturating_sub(cpu);
            pace.exit = pace.exit.min(wall.elapsed());
            let instructions = turns * INSTRUCTIONS_PER_TURN;
            pace.mips = pace
                .mips
                .max(instructions / cpu.as_secs_f64().max(1e-9) / 1e6);
            // A first pass is all exit. Where exits are slow, passes have to be longer still.
            cheapest = cheapest.min(cpu);
            let is_long = cpu >= LONG_ENOUGH + cheapest * 2;
            long = if is_long { long + 1 } else { 0 };
            if long == 2 || turns >= MAX_TURNS {
                return Ok(pace);
            }
            turns *= 2.0;
        }
    }
}

fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

/// Runs the guest to its next `out`.
fn pass(vcpu: &mut VcpuFd, cpl: u8, stop: &AtomicBool) -> Result<(), ProbeError> {
    let broken = |what: String| Err(ProbeError::Broken { cpl, what });
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(..)) => return Ok(()),
            Ok(VcpuExit::Intr) => {}
            Ok(VcpuExit::FailEntry(reason, _)) => {
                return broken(format!(
                    "the processor refused to enter it (reason {reason:#x})"
                ));
            }
            Ok(VcpuExit::InternalError) => {
                return broken("KVM could not emulate an instruction".into());
            }
            Ok(VcpuExit::Shutdown) => return broken("it faulted".into()),
            Ok(other) => return broken(format!("it ended in {other:?}")),
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return broken(format!("KVM_RUN failed: {error}")),
        }
        if stop.load(Ordering::Acquire) {
            return broken("it was interrupted".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The jumps are counted by hand above; this follows them.
    #[test]
    fn the_loop_jumps_where_it_says() {
        let target = |at: usize| at as i64 + 2 + i64::from(LOOP[at + 1] as i8);
        assert_eq!((LOOP[4], target(4)), (0x75, 2), "jnz goes to dec");
        assert_eq!((LOOP[10], target(10)), (0xeb, 0), "jmp goes to the start");
    }
}
