//! Requests for a disk, from well-formed ones to noise. A model says what is in it.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use podvmm_devices::blk::{Blk, BlkConfig, BlkSettings, Geometry};
use podvmm_devices::rate::RateLimit;
use podvmm_devices::testkit::Driver;

const SECTOR: usize = 512;
/// Of the disk, and of the file that it is in front of.
const SECTORS: usize = 32;
const FILE_SECTORS: usize = 2 * SECTORS;

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Kind {
    In,
    Out,
    Flush,
    Id,
    Discard,
    WriteZeroes,
    Other(u32),
}

impl Kind {
    fn number(self) -> u32 {
        match self {
            Self::In => 0,
            Self::Out => 1,
            Self::Flush => 4,
            Self::Id => 8,
            Self::Discard => 11,
            Self::WriteZeroes => 13,
            // Those above have an outcome that is known.
            Self::Other(0 | 1 | 11) => 2,
            Self::Other(number) => number,
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// Sectors in and around the disk; `odd` bytes more, mostly none.
    Request {
        kind: Kind,
        sector: u8,
        sectors: u8,
        odd: u8,
        flags: u8,
        cut: u8,
        value: u8,
    },
    /// Sectors anywhere.
    Far {
        kind: Kind,
        sector: u64,
        sectors: u32,
    },
    /// Anything.
    Noise {
        bytes: Vec<u8>,
        room: u16,
    },
    BringUp {
        features: u64,
    },
    PauseAndResume,
}

struct Fuzzed {
    driver: Driver,
    file: File,
    model: Vec<u8>,
}

fuzz_target!(|steps: Vec<Step>| {
    let file = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC);
    let file = File::from(file.expect("memory"));
    let model: Vec<u8> = (0..FILE_SECTORS * SECTOR)
        .map(|at| (at / SECTOR) as u8 + 1)
        .collect();
    file.write_all_at(&model, 0).expect("memory");
    let mut geometry = Geometry::of(&file).expect("a file");
    geometry.bytes = (SECTORS * SECTOR) as u64;
    let config = BlkConfig::try_from(BlkSettings {
        geometry,
        read_only: false,
        id: "disk".into(),
        limit: RateLimit::default(),
    });
    let device = Blk::new(config.expect("a disk"), file.try_clone().expect("it"));
    let mut fuzzed = Fuzzed {
        driver: Driver::start(Box::new(device), !0),
        file,
        model,
    };
    for step in steps.iter().take(32) {
        fuzzed.run(step);
        fuzzed.check();
    }
});

impl Fuzzed {
    fn run(&mut self, step: &Step) {
        match step {
            Step::Request {
                kind,
                sector,
                sectors,
                odd,
                flags,
                cut,
                value,
            } => {
                let sector = usize::from(*sector) % (SECTORS + 4);
                // Most of them are whole.
                let odd = usize::from(odd.saturating_sub(240));
                let len = usize::from(*sectors) % (SECTORS + 4) * SECTOR + odd;
                self.request(*kind, sector, len, u32::from(flags % 4), (*cut, *value));
            }
            Step::Far {
                kind,
                sector,
                sectors,
            } => {
                let far = sector.saturating_add(SECTORS as u64);
                let range = range(far, *sectors, 0);
                let data = vec![0xff; 16 * SECTOR];
                let body: &[u8] = match kind {
                    Kind::Out => &data,
                    _ => &range,
                };
                let reply = self.ask(&[&header(kind.number(), far), body], &[512, 1]);
                let may_be_done = matches!(kind, Kind::Flush | Kind::Id | Kind::Other(_));
                assert!(may_be_done || reply.is_none_or(|reply| reply.is_empty()));
            }
            Step::Noise { bytes, room } => {
                // What happens to be a request that changes something is one of the others'.
                let is_change = |kind: &[u8; 4]| matches!(u32::from_le_bytes(*kind), 1 | 11 | 13);
                if bytes.first_chunk().is_none_or(|kind| !is_change(kind)) {
                    self.ask(&[bytes], &[u32::from(*room)]);
                }
            }
            Step::BringUp { features } => self.driver.bring_up(features | 1 << 32),
            Step::PauseAndResume => {
                self.driver.transport().pause();
                self.driver.transport().resume();
            }
        }
    }

    fn request(&mut self, kind: Kind, sector: usize, len: usize, flags: u32, noise: (u8, u8)) {
        let (cut, value) = noise;
        let head = header(kind.number(), sector as u64);
        let (first, second) = head.split_at(usize::from(cut) % 17);
        let at = sector * SECTOR;
        let fits = at + len <= SECTORS * SECTOR && len.is_multiple_of(SECTOR);
        match kind {
            Kind::In => {
                let reply = self.ask(&[first, second], &[len as u32, 1]);
                let mut expected = Vec::new();
                if fits {
                    expected.extend_from_slice(&self.model[at..at + len]);
                    expected.push(0);
                } else if len == 0 {
                    expected.push(1);
                }
                assert_eq!(reply, Some(expected));
            }
            Kind::Out => {
                let data = vec![value; len];
                let reply = self.ask(&[first, second, &data], &[1]);
                assert_eq!(reply, Some(vec![u8::from(!fits)]));
                if fits {
                    self.model[at..at + len].fill(value);
                }
            }
            Kind::Discard => {
                let range = range(sector as u64, (len / SECTOR) as u32, flags);
                let reply = self.ask(&[first, second, &range], &[1]);
                let len = len / SECTOR * SECTOR;
                let is_whole = len > 0 && at + len <= SECTORS * SECTOR;
                let status = match (is_whole, flags) {
                    (true, 0) => 0,
                    (true, _) => 2,
                    (false, _) => 1,
                };
                assert_eq!(reply, Some(vec![status]));
                if status == 0 {
                    self.model[at..at + len].fill(0);
                }
            }
            Kind::Flush | Kind::Id | Kind::WriteZeroes | Kind::Other(_) => {
                let room = len as u32 % 64;
                self.ask(
                    &[first, second, &range(sector as u64, 1, flags)],
                    &[room, 1],
                );
            }
        }
    }

    /// The reply; none where the device has stopped, which a reset then mends.
    fn ask(&mut self, readable: &[&[u8]], writable: &[u32]) -> Option<Vec<u8>> {
        self.driver.post(0, readable, writable);
        loop {
            if let Some((_, bytes)) = self.driver.poll(0) {
                return Some(bytes);
            }
            if self.driver.needs_reset() {
                self.driver.bring_up(!0);
                assert!(!self.driver.needs_reset());
                return None;
            }
            std::thread::yield_now();
        }
    }

    /// The disk is as the model has it, and what is behind it as it was.
    fn check(&self) {
        let mut bytes = vec![0; self.model.len()];
        self.file.read_exact_at(&mut bytes, 0).expect("it is there");
        assert!(bytes == self.model, "the disk is another");
        let len = self.file.metadata().expect("it has one").len();
        assert_eq!(len, self.model.len() as u64);
    }
}

fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&sector.to_le_bytes());
    bytes
}

fn range(sector: u64, sectors: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..12].copy_from_slice(&sectors.to_le_bytes());
    bytes[12..].copy_from_slice(&flags.to_le_bytes());
    bytes
}
