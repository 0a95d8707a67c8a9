//! From a kernel file to a vCPU that is about to execute its first instruction.
//!
//! The 64-bit boot protocol of Linux is used: the guest starts in long mode with its first GiB
//! mapped one to one, a zero page with memory map and command line, and an MP table that tells of
//! the CPUs (there are no ACPI tables).

mod cpuid;
mod elf;
mod image;
mod kernel;
mod mptable;
mod padding;
mod params;
mod registers;

pub use cpuid::{CpuidError, Cpus};
pub use elf::ElfError;
pub use kernel::{KernelError, Loaded, load as load_kernel, load_while as load_kernel_while};
pub use mptable::write as write_mptable;
pub use params::{ParamsError, write as write_params};
pub use registers::{RegistersError, set_boot_msrs, set_boot_registers};

/// Where boot data lies in guest memory.
pub mod layout {
    /// Global descriptor table of the boot CPU.
    pub const GDT: u64 = 0x500;
    /// The zero page (`struct boot_params`).
    pub const ZERO_PAGE: u64 = 0x7000;
    /// Stack of the boot CPU until the kernel has its own.
    pub const BOOT_STACK: u64 = 0x8ff0;
    /// Top-level page table; the two levels below follow.
    pub const PML4: u64 = 0x9000;
    /// Command line.
    pub const CMDLINE: u64 = 0x2_0000;
    /// Longest command line in bytes with its terminator (the kernel's `COMMAND_LINE_SIZE`).
    pub const CMDLINE_MAX: usize = 2048;
    /// MP floating pointer: in the last KiB of base memory, where kernels look for it.
    pub const MP_POINTER: u64 = 0x9_fc00;
    /// MP configuration table.
    pub const MP_TABLE: u64 = 0xf_0000;
    /// End of base memory in the memory map.
    pub const BASE_END: u64 = 0x9_fc00;
    /// Start of extended memory: no kernel is loaded below.
    pub const EXTENDED_START: u64 = 0x10_0000;
    /// KVM's three pages for real mode on Intel.
    pub const TSS: u64 = 0xfffb_d000;
    /// KVM's identity map page.
    pub const IDENTITY_MAP: u64 = 0xfffb_c000;
    /// Local APICs.
    pub const LAPIC: u32 = 0xfee0_0000;
    /// I/O APIC.
    pub const IOAPIC: u32 = 0xfec0_0000;
}
