//! A part of a volume, for a mount with a sub-path.
//!
//! What is in a volume is the containers' to change, links among it. The kernel resolves a path below the
//! volume and nowhere else (openat2, RESOLVE_BENEATH), so a link can lead to another part of the volume and
//! never out of it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

/// Opens `path` below `volume` to be mounted. Directories that are missing are made, with the volume's own
/// permissions, as the kubelet makes them. EXDEV where a link leads out of the volume.
pub(super) fn open(volume: impl AsFd, path: &str) -> Result<OwnedFd> {
    let volume = volume.as_fd();
    let beneath = |path: &str, flags: OFlags| {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC;
        rustix::fs::openat2(volume, path, flags, Mode::empty(), resolve)
    };
    match beneath(path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        opened => return opened,
    }
    let mode = rustix::fs::fstat(volume)?.st_mode & 0o777;
    let ends = path.match_indices('/').map(|(end, _)| end);
    for end in ends.chain([path.len()]) {
        let part = path.get(..end).unwrap_or(path);
        if !matches!(beneath(part, OFlags::PATH), Err(Errno::NOENT)) {
            continue;
        }
        let (parent, name) = part.rsplit_once('/').unwrap_or((".", part));
        let parent = beneath(parent, OFlags::PATH)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
            // A container may have made it; a link that leads nowhere is told of below.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
        // In a directory with a group of its own the bit for that was inherited, and stays.
        let inherited = rustix::fs::fstat(&made)?.st_mode & 0o2000;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(mode | inherited))?;
    }
    beneath(path, OFlags::PATH)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn missing_directories_are_made_and_links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let (top, outside) = (dir.path().join("v"), dir.path().join("outside"));
        fs::create_dir(&top).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::set_permissions(&top, fs::Permissions::from_mode(0o2777)).unwrap();
        let volume = fs::File::open(&top).unwrap();
        open(&volume, "a/b").unwrap();
        for made in ["a", "a/b"] {
            assert_eq!(
                fs::metadata(top.join(made)).unwrap().mode() & 0o7777,
                0o2777
            );
        }
        fs::write(top.join("a/file"), "x").unwrap();
        symlink("a", top.join("inside")).unwrap();
        symlink("../outside", top.join("out")).unwrap();
        symlink(&outside, top.join("absolute")).unwrap();
        symlink("nowhere", top.join("dangling")).unwrap();
        open(&volume, "a/file").unwrap();
        open(&volume, "inside/file").unwrap();
        for (path, errno) in [
            ("out", Errno::XDEV),
            ("out/new", Errno::XDEV),
            ("absolute", Errno::XDEV),
            ("absolute/new", Errno::XDEV),
            ("dangling", Errno::NOTDIR),
            ("a/file/below", Errno::NOTDIR),
        ] {
            assert_eq!(open(&volume, path).unwrap_err(), errno, "{path}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}
