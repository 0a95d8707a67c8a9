//! Kernels of both formats, almost right, damaged or noise, with an initramfs: what is loaded lies where
//! the kernel said, boot data stays where it was, and the initramfs overlaps nothing of the kernel's.
#![no_main]

use std::fs::File;
use std::io::Write;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use podvmm_vmm::boot::{self, layout};
use podvmm_vmm::memory::GuestMemory;
use podvmm_vmm::{MemorySize, VcpuCount};
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{Address, Bytes, GuestAddress};

const MEMORY: u64 = MemorySize::MIN;
const MIB: u64 = 1 << 20;
/// Bytes of an ELF file's header, and of each of its program headers.
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

#[derive(Arbitrary, Debug)]
struct Input {
    kernel: Kernel,
    /// Bytes of the file that are something else.
    damage: Vec<(u16, u8)>,
    /// Length in units of 256 bytes; none at all is none given.
    initrd: Option<u16>,
    cmdline: u16,
    vcpus: u8,
}

#[derive(Arbitrary, Debug)]
enum Kernel {
    Elf {
        entry: Number,
        segments: Vec<Segment>,
        segments_at: Option<Number>,
        body: u16,
    },
    BzImage {
        setup_sectors: u8,
        protocol: u16,
        load_flags: u8,
        xload_flags: u16,
        pref_address: Number,
        init_size: u32,
        body: u16,
    },
    Noise(Vec<u8>),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Segment {
    kind: Kind,
    offset: Number,
    address: Number,
    file_size: Number,
    memory_size: Number,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Kind {
    Load,
    Note,
    Other(u32),
}

/// Mostly numbers that could be right.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Number {
    Small(u16),
    Mib(u8, u16),
    End(i16),
    Any(u64),
}

impl Number {
    fn get(self) -> u64 {
        match self {
            Self::Small(n) => n.into(),
            Self::Mib(mib, more) => u64::from(mib) % 72 * MIB + u64::from(more),
            Self::End(off) => MEMORY.wrapping_add_signed(off.into()),
            Self::Any(n) => n,
        }
    }
}

impl Segment {
    fn kind(self) -> u32 {
        match self.kind {
            Kind::Load => 1,
            Kind::Note => 4,
            Kind::Other(kind) => kind,
        }
    }
}

fn body(len: u16) -> impl Iterator<Item = u8> {
    (0..len).map(|at| (at % 251) as u8 | 1)
}

fn elf(entry: u64, segments: &[Segment], segments_at: Option<Number>, len: u16) -> Vec<u8> {
    let mut file = vec![0; HEADER];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    file[16..20].copy_from_slice(&[2, 0, 62, 0]);
    file[24..32].copy_from_slice(&entry.to_le_bytes());
    let at = segments_at.map_or(HEADER as u64, Number::get);
    file[32..40].copy_from_slice(&at.to_le_bytes());
    file[54..56].copy_from_slice(&(PROGRAM_HEADER as u16).to_le_bytes());
    file[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
    for segment in segments {
        file.extend(segment.kind().to_le_bytes());
        file.extend([7, 0, 0, 0]);
        file.extend(segment.offset.get().to_le_bytes());
        file.extend([0; 8]);
        for number in [segment.address, segment.file_size, segment.memory_size] {
            file.extend(number.get().to_le_bytes());
        }
        file.extend([0; 8]);
    }
    file.extend(body(len));
    file
}

impl Kernel {
    fn file(&self) -> Vec<u8> {
        match self {
            Self::Elf { entry, segments, segments_at, body } => {
                elf(entry.get(), segments, *segments_at, *body)
            }
            Self::BzImage {
                setup_sectors,
                protocol,
                load_flags,
                xload_flags,
                pref_address,
                init_size,
                body: len,
            } => {
                let mut file = vec![0; (usize::from(*setup_sectors) + 1) * 512];
                file.resize(file.len().max(0x400), 0);
                let mut put = |at: usize, bytes: &[u8]| file[at..][..bytes.len()].copy_from_slice(bytes);
                put(0x1f1, &[*setup_sectors]);
                put(0x1fe, &[0x55, 0xaa]);
                put(0x202, b"HdrS");
                put(0x206, &protocol.to_le_bytes());
                put(0x211, &[*load_flags]);
                put(0x214, &(MIB as u32).to_le_bytes());
                put(0x236, &xload_flags.to_le_bytes());
                put(0x258, &pref_address.get().to_le_bytes());
                put(0x260, &init_size.to_le_bytes());
                file.extend(body(*len));
                file
            }
            Self::Noise(bytes) => bytes.clone(),
        }
    }

    /// Memory that the kernel counts as its own, if its headers are what the input says.
    fn ranges(&self, damaged: bool) -> Vec<(u64, u64)> {
        match self {
            Self::Elf { segments, segments_at: None, .. } if !damaged => {
                let own = segments.iter().filter(|segment| segment.kind() == 1);
                own.map(|s| (s.address.get(), s.address.get().saturating_add(s.memory_size.get())))
                    .collect()
            }
            Self::BzImage { setup_sectors, pref_address, init_size, .. } if !damaged => {
                let at = pref_address.get().max(MIB);
                // A count of 0 stands for 4 (Linux boot protocol, setup_sects).
                let sectors = if *setup_sectors == 0 { 4 } else { u64::from(*setup_sectors) };
                let loaded = (self.file().len() as u64).saturating_sub((sectors + 1) * 512);
                vec![
                    (MIB, MIB + loaded),
                    (at, at.saturating_add((*init_size).into())),
                ]
            }
            _ => Vec::new(),
        }
    }
}

fn file(bytes: &[u8]) -> File {
    let mut file = File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(bytes).unwrap();
    file
}

fuzz_target!(|input: Input| {
    let mut kernel = input.kernel.file();
    for &(at, value) in &input.damage {
        if let Some(byte) = kernel.get_mut(usize::from(at)) {
            *byte = value;
        }
    }
    let initrd: Option<Vec<u8>> = input.initrd.map(|units| vec![0xa5; usize::from(units) << 8]);
    let size = MemorySize::from_bytes(MEMORY).unwrap();
    let guest = GuestMemory::new(size, None).unwrap();
    let memory = guest.share();
    // Stands for whatever lies below the kernel already.
    let low = [0x5a; 4096];
    let places = [0, layout::ZERO_PAGE, layout::CMDLINE, layout::EXTENDED_START - 4096];
    for place in places {
        memory.write_slice(&low, GuestAddress(place)).unwrap();
    }

    let result = boot::load_kernel(&memory, &file(&kernel), initrd.as_deref().map(file).as_ref());
    for place in places {
        let mut found = [0; 4096];
        memory.read_slice(&mut found, GuestAddress(place)).unwrap();
        assert!(found == low, "memory below the kernel at {place:#x} has changed");
    }
    let Ok(loaded) = result else { return };
    let entry = loaded.entry.raw_value();
    assert!((layout::EXTENDED_START..MEMORY).contains(&entry), "entry {entry:#x}");
    assert_eq!(loaded.initrd.is_some(), initrd.is_some());
    if let (Some((at, len)), Some(bytes)) = (loaded.initrd, &initrd) {
        let (start, end) = (u64::from(at), u64::from(at) + u64::from(len));
        assert!(start >= layout::EXTENDED_START && start % 4096 == 0 && end <= MEMORY);
        let mut found = vec![0; len as usize];
        memory.read_slice(&mut found, GuestAddress(start)).unwrap();
        assert!(found == *bytes, "the initramfs is not what its file holds");
        for (from, to) in input.kernel.ranges(!input.damage.is_empty()) {
            assert!(to <= start || end <= from || from == to, "the initramfs overlaps {from:#x}..{to:#x}");
        }
    }

    let cmdline = "x".repeat(usize::from(input.cmdline) % (layout::CMDLINE_MAX + 2));
    let written = boot::write_params(&memory, size, &loaded, &cmdline);
    assert_eq!(written.is_ok(), cmdline.len() < layout::CMDLINE_MAX);
    if written.is_ok() {
        let field = |at| memory.read_obj::<u32>(GuestAddress(layout::ZERO_PAGE + at)).unwrap();
        assert_eq!(field(0x202), u32::from_le_bytes(*b"HdrS"));
        assert_eq!(u64::from(field(0x228)), layout::CMDLINE);
        assert_eq!((field(0x218), field(0x21c)), loaded.initrd.unwrap_or((field(0x218), field(0x21c))));
    }
    if let Ok(vcpus) = VcpuCount::new(input.vcpus.into()) {
        boot::write_mptable(&memory, vcpus, &[5, 6]).unwrap();
    }
});
