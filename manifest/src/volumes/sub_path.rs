//! A part of a volume, for a mount with a subPath.
//!
//! What is in a volume is the containers' to change, links among it. The kernel resolves a path below the
//! volume and nowhere else (RESOLVE_BENEATH), so a link can lead to another part of the volume, as the
//! files of a configMap do, and never out of it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Opens `path` below `volume` to be named only (O_PATH). Directories that are missing are made, with the
/// volume's own mode, as in Kubernetes.
///
/// # Errors
/// EXDEV where a link leads out of the volume; whatever the system says otherwise.
pub fn open(volume: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let volume = volume.as_fd();
    let mode = rustix::fs::fstat(volume)?.st_mode & 0o777;
    let beneath = |path: &str| {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let path = if path.is_empty() { "." } else { path };
        rustix::fs::openat2(volume, path, flags, Mode::empty(), resolve)
    };
    match beneath(path) {
        Err(Errno::NOENT) => {}
        other => return Ok(other?),
    }
    let ends = path.match_indices('/').map(|(end, _)| end);
    for end in ends.chain([path.len()]) {
        let part = &path[..end];
        if !matches!(beneath(part), Err(Errno::NOENT)) {
            continue;
        }
        let (parent, name) = part.rsplit_once('/').unwrap_or(("", part));
        let parent = beneath(parent)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
            // Somebody else may have made it; a link that leads nowhere is told of below.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let made = super::open_directory(&parent, name)?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
    }
    Ok(beneath(path)?)
}
