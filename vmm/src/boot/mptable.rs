//! The MP table (Intel MultiProcessor Specification 1.4): CPUs and interrupt lines.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};
use zerocopy::{Immutable, IntoBytes};

use super::layout;
use crate::builder::VcpuCount;

const SPEC_1_4: u8 = 4;
const APIC_VERSION: u8 = 0x14;
const CPU_ENABLED: u8 = 1;
const CPU_BOOT: u8 = 2;
/// Any CPU with a local APIC.
const CPU_FEATURES: u32 = 0x201;
const ENTRY_CPU: u8 = 0;
const ENTRY_BUS: u8 = 1;
const ENTRY_IOAPIC: u8 = 2;
const ENTRY_IO_INTERRUPT: u8 = 3;
const ENTRY_LOCAL_INTERRUPT: u8 = 4;
const INT_VECTORED: u8 = 0;
const INT_NMI: u8 = 1;
const ALL_LAPICS: u8 = 0xff;

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct FloatingPointer {
    signature: [u8; 4],
    table: u32,
    length: u8,
    specification: u8,
    checksum: u8,
    features: [u8; 5],
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    signature: [u8; 4],
    length: u16,
    specification: u8,
    checksum: u8,
    oem: [u8; 8],
    product: [u8; 12],
    oem_table: u32,
    oem_size: u16,
    entries: u16,
    lapic: u32,
    reserved: u32,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Cpu {
    kind: u8,
    apic: u8,
    version: u8,
    flags: u8,
    signature: u32,
    features: u32,
    reserved: [u32; 2],
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Bus {
    kind: u8,
    id: u8,
    name: [u8; 6],
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct IoApic {
    kind: u8,
    id: u8,
    version: u8,
    flags: u8,
    address: u32,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Interrupt {
    kind: u8,
    cause: u8,
    flags: u16,
    bus: u8,
    source: u8,
    apic: u8,
    pin: u8,
}

/// Writes the table for `vcpus` CPUs and `lines` of an ISA bus, each on the I/O APIC pin of its number.
///
/// # Errors
/// When guest memory ends below 1 MiB.
pub fn write(
    memory: &GuestMemoryMmap,
    vcpus: VcpuCount,
    lines: &[u8],
) -> Result<(), GuestMemoryError> {
    let ioapic = vcpus.get();
    let mut entries: Vec<Vec<u8>> = Vec::new();
    for apic in 0..vcpus.get() {
        let flags = CPU_ENABLED | if apic == 0 { CPU_BOOT } else { 0 };
        let cpu = Cpu {
            kind: ENTRY_CPU,
            apic,
            version: APIC_VERSION,
            flags,
            signature: 0x600,
            features: CPU_FEATURES,
            reserved: [0; 2],
        };
        entries.push(cpu.as_bytes().to_vec());
    }
    let bus = Bus {
        kind: ENTRY_BUS,
        id: 0,
        name: *b"ISA   ",
    };
    entries.push(bus.as_bytes().to_vec());
    let address = layout::IOAPIC;
    let io = IoApic {
        kind: ENTRY_IOAPIC,
        id: ioapic,
        version: APIC_VERSION,
        flags: 1,
        address,
    };
    entries.push(io.as_bytes().to_vec());
    let interrupt = |kind, cause, source, apic, pin| {
        Interrupt {
            kind,
            cause,
            flags: 0,
            bus: 0,
            source,
            apic,
            pin,
        }
        .as_bytes()
        .to_vec()
    };
    for &line in lines {
        entries.push(interrupt(
            ENTRY_IO_INTERRUPT,
            INT_VECTORED,
            line,
            ioapic,
            line,
        ));
    }
    entries.push(interrupt(ENTRY_LOCAL_INTERRUPT, INT_NMI, 0, ALL_LAPICS, 1));

    let body = entries.concat();
    let mut header = Header {
        signature: *b"PCMP",
        length: (size_of::<Header>() + body.len()) as u16,
        specification: SPEC_1_4,
        checksum: 0,
        oem: *b"PODVMM  ",
        product: *b"POD VM      ",
        oem_table: 0,
        oem_size: 0,
        entries: entries.len() as u16,
        lapic: layout::LAPIC,
        reserved: 0,
    };
    header.checksum = checksum(&[header.as_bytes(), &body]);
    memory.write_slice(header.as_bytes(), GuestAddress(layout::MP_TABLE))?;
    memory.write_slice(
        &body,
        GuestAddress(layout::MP_TABLE + size_of::<Header>() as u64),
    )?;

    let mut pointer = FloatingPointer {
        signature: *b"_MP_",
        table: layout::MP_TABLE as u32,
        length: 1,
        specification: SPEC_1_4,
        checksum: 0,
        features: [0; 5],
    };
    pointer.checksum = checksum(&[pointer.as_bytes()]);
    memory.write_slice(pointer.as_bytes(), GuestAddress(layout::MP_POINTER))
}

/// The byte that makes the sum of all bytes zero.
fn checksum(parts: &[&[u8]]) -> u8 {
    parts
        .iter()
        .flat_map(|part| part.iter())
        .fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}
