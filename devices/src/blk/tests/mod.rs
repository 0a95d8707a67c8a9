//! The device seen by a driver, honest or not.

mod hostile;
mod life;
mod limits;
mod requests;

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::spec::{Header, Range};
use super::{Blk, BlkConfig, BlkSettings, Geometry};
use crate::rate::RateLimit;
use crate::testkit::{Driver, MEMORY_SIZE};

/// Sectors of the disk in these tests.
const SECTORS: u64 = 64;
const SECTOR: usize = 512;

/// How a request ended.
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
const UNSET: u8 = 0xaa;

/// A disk in memory, each sector filled with its number.
fn disk() -> File {
    let file = File::from(memfd_create("disk", MemfdFlags::CLOEXEC).expect("memory"));
    for sector in 0..SECTORS {
        file.write_all_at(&[sector as u8; SECTOR], sector * SECTOR as u64)
            .expect("room");
    }
    file
}

fn settings() -> BlkSettings {
    BlkSettings {
        geometry: Geometry {
            bytes: SECTORS * SECTOR as u64,
            block_size: 512,
            physical_block_size: 4096,
            can_discard: true,
            // What a memfd cannot do all the same: the system then says no.
            can_write_zeroes: true,
        },
        read_only: false,
        id: "disk of a test".into(),
        limit: RateLimit::default(),
    }
}

fn device(settings: BlkSettings, file: &File) -> Box<Blk> {
    let config = BlkConfig::try_from(settings).expect("settings that can be");
    Box::new(Blk::new(config, file.try_clone().expect("a descriptor")))
}

fn start(settings: BlkSettings, file: &File) -> Driver {
    start_with(settings, file, !0)
}

/// Buffers hold what no status is before they are used.
fn start_with(settings: BlkSettings, file: &File, features: u64) -> Driver {
    let mut driver = Driver::idle(device(settings, file));
    // Rings are in the first quarter.
    let buffers = GuestAddress(MEMORY_SIZE as u64 / 4);
    let memory = driver.memory().clone();
    memory
        .write_slice(&vec![UNSET; MEMORY_SIZE / 8], buffers)
        .expect("in memory");
    driver.bring_up(features);
    driver
}

fn header(kind: u32, sector: u64) -> [u8; 16] {
    let header = Header {
        kind: U32::new(kind),
        reserved: U32::new(0),
        sector: U64::new(sector),
    };
    header.as_bytes().try_into().expect("16 bytes")
}

fn range(sector: u64, sectors: u32, flags: u32) -> [u8; 16] {
    let range = Range {
        sector: U64::new(sector),
        sectors: U32::new(sectors),
        flags: U32::new(flags),
    };
    range.as_bytes().try_into().expect("16 bytes")
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
struct Reply {
    status: u8,
    data: Vec<u8>,
}

/// Sends a request with room for data and a status of its own, and looks at the status wherever it is:
/// a request that failed does not say that its data was written.
fn request(driver: &mut Driver, readable: &[&[u8]], room: &[u32]) -> Reply {
    let writable: Vec<_> = room.iter().copied().chain([1]).collect();
    let head = driver.post_quietly(0, readable, &writable);
    let status = status_address(driver, head);
    let memory = driver.memory().clone();
    driver.kick(0);
    let (replied, mut data) = driver.wait(0);
    assert_eq!(replied, head, "one request, one reply");
    let status: u8 = memory.read_obj(GuestAddress(status)).expect("in memory");
    assert_ne!(status, UNSET, "each request gets its status");
    if !data.is_empty() {
        assert_eq!(data.pop(), Some(status), "the status is the last byte");
    }
    Reply { status, data }
}

/// Where the last buffer of the chain at `head` is.
fn status_address(driver: &mut Driver, head: u16) -> u64 {
    const NEXT: u16 = 1;
    let table = driver.ring(0).desc();
    let memory = driver.memory().clone();
    let mut index = u64::from(head);
    loop {
        let at = table + 16 * index;
        let word = |offset| -> u16 {
            let word = memory.read_obj(GuestAddress(at + offset));
            word.expect("in memory")
        };
        if word(12) & NEXT == 0 {
            return memory.read_obj(GuestAddress(at)).expect("in memory");
        }
        index = u64::from(word(14));
    }
}

fn read(driver: &mut Driver, sector: u64, len: u32) -> Reply {
    request(driver, &[&header(0, sector)], &[len])
}

fn write(driver: &mut Driver, sector: u64, data: &[u8]) -> u8 {
    request(driver, &[&header(1, sector), data], &[]).status
}

fn contents(file: &File, sector: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    file.read_exact_at(&mut bytes, sector * SECTOR as u64)
        .expect("a sector");
    bytes
}
