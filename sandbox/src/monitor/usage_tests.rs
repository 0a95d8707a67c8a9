use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::*;

const MIB: u64 = 1 << 20;
const BOUNDS: Bounds = Bounds {
    bytes: u64::MAX,
    depth: 64,
    names: 10_000,
};

/// A directory that is gone with its owner.
struct Place(PathBuf);

impl Place {
    fn new(test: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("podvmm-usage-{}-{test}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn within(&self, bounds: Bounds) -> Result<u64, Unmeasured> {
        let top = File::open(&self.0).unwrap();
        measure(&top.into(), bounds, || true)
    }

    fn usage(&self) -> u64 {
        self.within(BOUNDS).unwrap()
    }

    /// Directories in each other, by descriptors: a path would be too long.
    fn nest(&self, depth: usize) -> OwnedFd {
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let mut at = rustix::fs::open(&self.0, flags, Mode::empty()).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", flags, Mode::empty()).unwrap();
        }
        at
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        crate::removal::remove_tree(&self.0).unwrap();
    }
}

fn write(path: &Path, size: u64) {
    fs::write(path, vec![7; usize::try_from(size).unwrap()]).unwrap();
}

#[test]
fn what_is_allocated_counts() {
    let place = Place::new("allocated");
    let empty = place.usage();
    write(&place.0.join("a"), MIB);
    fs::create_dir(place.0.join("dir")).unwrap();
    write(&place.0.join("dir/b"), MIB);
    let full = place.usage() - empty;
    assert!((2 * MIB..2 * MIB + MIB / 8).contains(&full), "{full}");
    // A length is not.
    let sparse = File::create(place.0.join("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    assert!(place.usage() - empty < 2 * MIB + MIB / 8);
}

#[test]
fn a_file_with_many_names_counts_once() {
    let place = Place::new("names");
    fs::create_dir(place.0.join("dir")).unwrap();
    let empty = place.usage();
    write(&place.0.join("a"), MIB);
    let once = place.usage() - empty;
    for name in ["b", "c", "dir/d", "dir/e", "dir/f", "dir/g"] {
        fs::hard_link(place.0.join("a"), place.0.join(name)).unwrap();
    }
    let often = place.usage() - empty;
    assert!((once..once + 64).contains(&often), "{often} of {once}");
}

#[test]
fn no_link_is_followed() {
    let (place, other) = (Place::new("links"), Place::new("elsewhere"));
    write(&other.0.join("big"), MIB);
    let empty = place.usage();
    symlink(&other.0, place.0.join("dir")).unwrap();
    symlink(other.0.join("big"), place.0.join("file")).unwrap();
    symlink(".", place.0.join("loop")).unwrap();
    assert!(place.usage() - empty < MIB / 8);
}

#[test]
fn what_denies_a_look_is_looked_at() {
    let place = Place::new("denied");
    let dir = place.0.join("dir");
    fs::create_dir(&dir).unwrap();
    write(&dir.join("a"), MIB);
    for mode in [0o000, 0o400, 0o700] {
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
        assert!(place.usage() >= MIB, "{mode:o}");
        let after = fs::metadata(&dir).unwrap().permissions().mode();
        assert_eq!(after & 0o777, mode);
    }
}

#[test]
fn depth_and_number_are_bounded() {
    let place = Place::new("bounds");
    let bottom = place.nest(BOUNDS.depth - 1);
    place.usage();
    rustix::fs::mkdirat(&bottom, "d", Mode::RWXU).unwrap();
    let deep = place.within(BOUNDS);
    assert!(matches!(deep, Err(Unmeasured::TooDeep(64))), "{deep:?}");

    // Deeper than descriptors or paths would reach.
    let place = Place::new("deep");
    drop(place.nest(2_500));
    let deep = place.within(BOUNDS);
    assert!(matches!(deep, Err(Unmeasured::TooDeep(64))), "{deep:?}");

    let place = Place::new("many");
    for number in 0..11 {
        File::create(place.0.join(number.to_string())).unwrap();
    }
    let few = |names| Bounds { names, ..BOUNDS };
    place.within(few(11)).unwrap();
    let many = place.within(few(10));
    assert!(matches!(many, Err(Unmeasured::TooMany(10))), "{many:?}");
}

#[test]
fn enough_is_enough() {
    let place = Place::new("enough");
    for number in 0..5 {
        write(&place.0.join(number.to_string()), MIB);
    }
    let bounds = Bounds {
        bytes: 2 * MIB,
        ..BOUNDS
    };
    let seen = place.within(bounds).unwrap();
    assert!((2 * MIB + 1..4 * MIB).contains(&seen), "{seen}");
}

#[test]
fn nobody_waits_for_what_nobody_wants() {
    let place = Place::new("stop");
    for number in 0..ASK_AFTER {
        File::create(place.0.join(number.to_string())).unwrap();
    }
    let top = File::open(&place.0).unwrap();
    let stopped = measure(&top.into(), BOUNDS, || false);
    assert!(matches!(stopped, Err(Unmeasured::Stopped)), "{stopped:?}");
}
