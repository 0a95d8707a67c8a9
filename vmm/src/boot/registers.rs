//! Registers of the boot CPU: long mode, one GiB mapped one to one (Linux 64-bit boot protocol).

use kvm_bindings::{Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::layout;

/// Why a vCPU could not be brought to its first instruction.
#[derive(Debug, Error)]
pub enum RegistersError {
    /// KVM refused.
    #[error("cannot set the {what} of a vCPU")]
    Set {
        /// Which registers.
        what: &'static str,
        /// KVM's reason.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// Guest memory is too small.
    #[error("boot tables do not fit in guest memory")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

const CR0_PE: u64 = 1;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_RESERVED: u64 = 2;

const PAGE_PRESENT: u64 = 1;
const PAGE_WRITABLE: u64 = 2;
const PAGE_HUGE: u64 = 1 << 7;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLED_WRITE_BACK: u64 = (1 << 11) | 6;

/// Code and data descriptors that the boot protocol asks for, at selectors 0x10 and 0x18.
const GDT: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
const SELECTOR_CODE: u16 = 0x10;
const SELECTOR_DATA: u16 = 0x18;

/// Brings `vcpu` to `entry`; writes the tables that it needs into guest memory.
///
/// # Errors
/// [`RegistersError`] names what was refused.
pub fn set_boot_registers(
    vcpu: &VcpuFd,
    memory: &GuestMemoryMmap,
    entry: GuestAddress,
) -> Result<(), RegistersError> {
    write_tables(memory)?;
    let set = |what| move |source| RegistersError::Set { what, source };

    let mut sregs = vcpu.get_sregs().map_err(set("system registers"))?;
    let code = segment(SELECTOR_CODE, 0xb, true);
    let data = segment(SELECTOR_DATA, 0x3, false);
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = (size_of_val(&GDT) - 1) as u16;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr0 |= CR0_PE | CR0_PG;
    sregs.cr3 = layout::PML4;
    sregs.cr4 |= CR4_PAE;
    sregs.efer |= EFER_LME | EFER_LMA;
    vcpu.set_sregs(&sregs).map_err(set("system registers"))?;

    let regs = kvm_regs {
        rflags: RFLAGS_RESERVED,
        rip: entry.0,
        rsp: layout::BOOT_STACK,
        rbp: layout::BOOT_STACK,
        rsi: layout::ZERO_PAGE,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(set("general registers"))?;

    let fpu = kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    };
    vcpu.set_fpu(&fpu).map_err(set("floating-point registers"))
}

/// Sets the model-specific registers that firmware would have set, on any vCPU.
///
/// # Errors
/// [`RegistersError`] when KVM refuses.
pub fn set_boot_msrs(vcpu: &VcpuFd) -> Result<(), RegistersError> {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let wanted = [
        entry(MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        entry(MSR_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK),
    ];
    let refused = |source| RegistersError::Set {
        what: "model-specific registers",
        source,
    };
    let msrs =
        Msrs::from_entries(&wanted).map_err(|_| refused(kvm_ioctls::Error::new(libc::ENOMEM)))?;
    match vcpu.set_msrs(&msrs).map_err(refused)? {
        set if set == wanted.len() => Ok(()),
        _ => Err(refused(kvm_ioctls::Error::new(libc::EINVAL))),
    }
}

fn segment(selector: u16, kind: u8, code: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..Default::default()
    }
}

fn write_tables(memory: &GuestMemoryMmap) -> Result<(), vm_memory::GuestMemoryError> {
    for (i, descriptor) in (0u64..).zip(GDT) {
        memory.write_obj(descriptor, GuestAddress(layout::GDT + 8 * i))?;
    }
    let table = PAGE_PRESENT | PAGE_WRITABLE;
    let (pdpt, pd) = (layout::PML4 + 0x1000, layout::PML4 + 0x2000);
    memory.write_obj(pdpt | table, GuestAddress(layout::PML4))?;
    memory.write_obj(pd | table, GuestAddress(pdpt))?;
    for i in 0..512u64 {
        memory.write_obj((i << 21) | table | PAGE_HUGE, GuestAddress(pd + 8 * i))?;
    }
    Ok(())
}
