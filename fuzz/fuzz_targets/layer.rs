//! Layers: archives of plausible entries with hostile names, damaged ones and noise. Whatever they are,
//! a directory beside the target stays as it is, and what was unpacked can be removed.
#![no_main]

use std::fs;
use std::path::{Path, PathBuf};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use podvmm_image::unpack::{Limits, Ownership, Unpacker};
use rustix::fs::{Mode, OFlags};

const NAMES: [&str; 20] = [
    "a", "a/b", "a/b/c", "l", "l/x", "m/secret", "../outside/secret", "/etc/x", ".", "", "a/..",
    ".wh.a", "a/.wh..wh..opq", "l/.wh.secret", ".wh..wh..opq", ".wh...", "m/.wh..wh..opq",
    "../outside", "/../../outside", "a/b/../../..",
];
const MAX_ENTRIES: usize = 48;

#[derive(Arbitrary, Debug)]
enum Piece {
    Entry { kind: u8, name: u8, link: u8, mode: u16, owner: u32, data: Vec<u8> },
    /// An extended header for the next entry.
    Extended { key: u8, value: Vec<u8> },
    /// As it comes.
    Noise(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
struct Case {
    layers: Vec<Vec<Piece>>,
    squashed: bool,
    /// Where a byte is changed.
    damage: Option<u16>,
}

fn header(kind: u8, name: &str, link: &str, mode: u16, owner: u32, size: usize) -> [u8; 512] {
    let mut block = [0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
    block[108..116].copy_from_slice(format!("{:07o}\0", owner & 0o7_777_777).as_bytes());
    block[116..124].copy_from_slice(format!("{:07o}\0", owner & 0o7_777_777).as_bytes());
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000000001\0");
    block[148..156].fill(b' ');
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn append(archive: &mut Vec<u8>, piece: &Piece) {
    let name = |index: u8| NAMES[usize::from(index) % NAMES.len()];
    match piece {
        Piece::Entry { kind, name: of, link, mode, owner, data } => {
            let kinds = b"012345670gSLKV";
            let kind = kinds[usize::from(*kind) % kinds.len()];
            archive.extend(header(kind, name(*of), name(*link), *mode, *owner, data.len()));
            archive.extend(data);
        }
        Piece::Extended { key, value } => {
            let keys = ["path", "linkpath", "size", "mtime", "GNU.sparse.map", "GNU.sparse.size",
                "GNU.sparse.name", "SCHILY.xattr.user.x", "GNU.sparse.major", "GNU.sparse.minor"];
            let key = keys[usize::from(*key) % keys.len()];
            let rest = key.len() + value.len() + 3;
            let mut length = rest;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            let mut record = format!("{length} {key}=").into_bytes();
            record.extend(value);
            record.push(b'\n');
            archive.extend(header(b'x', "x", "", 0o644, 0, record.len()));
            archive.extend(record);
        }
        Piece::Noise(bytes) => archive.extend(bytes),
    }
    archive.resize(archive.len().next_multiple_of(512), 0);
}

fn world() -> PathBuf {
    let path = std::env::temp_dir().join(format!("podvmm-fuzz-layer-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(path.join("root")).unwrap();
    fs::create_dir(path.join("outside")).unwrap();
    fs::write(path.join("outside/secret"), "secret").unwrap();
    path
}

fn unpack(world: &Path, case: &Case) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(world.join("root"), flags, Mode::empty()).unwrap();
    let ownership = if case.squashed {
        Ownership::Squashed
    } else {
        Ownership::of_this_process()
    };
    let limits = Limits { bytes: 1 << 20, entries: 200, file_size: 1 << 30 };
    let mut unpacker = Unpacker::new(root, ownership, limits);
    for pieces in case.layers.iter().take(4) {
        let mut archive = Vec::new();
        for piece in pieces.iter().take(MAX_ENTRIES) {
            append(&mut archive, piece);
        }
        if let Some(place) = case.damage
            && let Some(byte) = archive.get_mut(usize::from(place))
        {
            *byte ^= 0x20;
        }
        if unpacker.layer(&archive[..]).is_err() {
            return;
        }
    }
}

fuzz_target!(|case: Case| {
    let world = world();
    unpack(&world, &case);
    assert_eq!(fs::read_to_string(world.join("outside/secret")).unwrap(), "secret");
    assert_eq!(fs::read_dir(world.join("outside")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(&world).unwrap().count(), 2);
    fs::remove_dir_all(&world).unwrap();
});
