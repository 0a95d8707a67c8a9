//! Directories of the guest's memory that live as long as the pod.
//!
//! ```text
//!   MakeVolume ──▶ /run/podvmm/volumes/NAME: a tmpfs ──bind──▶ containers
//!                        ▲ files                  │
//!   MakeVolume ──────────┘                        └──▶ ReadVolumeFile
//! ```
//!
//! An emptyDir of the medium Memory is one, and so is what consists of files that the host makes up:
//! configuration, secrets, /etc/hosts, a container's last words. Nothing of them is ever on the host's
//! disk, and reading them takes no trip to the host.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};

use agent_protocol::proto::{MakeVolumeRequest, ReadVolumeFileRequest, VolumeFile};
use agent_protocol::{MAX_READ_LEN, VOLUMES_PATH};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::container::{container_id, relative_path};
use crate::rpc::Refusal;

/// Most volumes of a pod.
const MAX_VOLUMES: usize = 512;
const MAX_MODE: u32 = 0o7777;
/// Of directories above a file.
const DIRECTORY: u32 = 0o755;

/// Makes a volume unless there is one of its name, then writes its files.
pub(crate) fn make(request: &MakeVolumeRequest) -> Result<(), Refusal> {
    let name = container_id(&request.name)?;
    let place = format!("{VOLUMES_PATH}/{name}");
    for file in &request.files {
        check_mode(file.mode)?;
        relative_path("files[].path", &file.path)?;
    }
    check_mode(request.mode)?;
    if request.gid == u32::MAX {
        return Err(Refusal::invalid("gid 4294967295"));
    }
    let failed =
        |what: &str, error: io::Error| Refusal::internal(format!("volume {name}: {what}: {error}"));
    mount(&place, request).map_err(|error| match error {
        MountError::TooMany => Refusal::exhausted(format!("the pod has {MAX_VOLUMES} volumes")),
        MountError::Io(error) => failed("mount", error),
    })?;
    let top = open_top(&place).map_err(|error| failed("open", error))?;
    for file in &request.files {
        write(&top, file, request.gid).map_err(|error| failed(&file.path, error))?;
    }
    Ok(())
}

/// Reads the end of a file.
pub(crate) fn read(request: &ReadVolumeFileRequest) -> Result<Vec<u8>, Refusal> {
    let name = container_id(&request.name)?;
    let path = relative_path("path", &request.path)?;
    if request.max_bytes > MAX_READ_LEN {
        return Err(Refusal::invalid(format!(
            "max_bytes {}, at most {MAX_READ_LEN} are given",
            request.max_bytes
        )));
    }
    let not_found = |error: io::Error| {
        let text = format!("volume {name}: {path}: {error}");
        match error.kind() {
            io::ErrorKind::NotFound => Refusal::not_found(text),
            _ => Refusal::internal(text),
        }
    };
    let top = open_top(&format!("{VOLUMES_PATH}/{name}")).map_err(not_found)?;
    read_end(&top, &path, request.max_bytes.into()).map_err(not_found)
}

enum MountError {
    TooMany,
    Io(io::Error),
}

impl<E: Into<io::Error>> From<E> for MountError {
    fn from(error: E) -> Self {
        Self::Io(error.into())
    }
}

/// Mounts a tmpfs at `place` unless there is one.
fn mount(place: &str, request: &MakeVolumeRequest) -> Result<(), MountError> {
    match rustix::fs::mkdir(VOLUMES_PATH, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    if std::fs::read_dir(VOLUMES_PATH)?.count() >= MAX_VOLUMES && !std::fs::exists(place)? {
        return Err(MountError::TooMany);
    }
    match rustix::fs::mkdir(place, Mode::from_raw_mode(0o700)) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let mut options = format!("mode={:o},gid={}", request.mode, request.gid);
    if request.size > 0 {
        options += &format!(",size={}", request.size);
    }
    let options = CString::new(options).unwrap_or_default();
    let mounted = rustix::mount::mount(
        "tmpfs",
        place,
        "tmpfs",
        MountFlags::NODEV,
        options.as_c_str(),
    );
    Ok(mounted.inspect_err(|_| {
        // Otherwise the next call would take the directory for a volume.
        let _ = rustix::fs::rmdir(place);
    })?)
}

fn check_mode(mode: u32) -> Result<(), Refusal> {
    match mode {
        ..=MAX_MODE => Ok(()),
        _ => Err(Refusal::invalid(format!("mode {mode:#o}"))),
    }
}

fn open_top(place: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(place, flags, Mode::empty())?)
}

/// A file is made anew, so that who still has the old one open goes on with that.
fn write(top: &OwnedFd, file: &VolumeFile, gid: u32) -> io::Result<()> {
    let mut directory = top.as_fd().try_clone_to_owned()?;
    let (parents, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    let group = Some(Gid::from_raw(gid));
    for part in parents.split('/').filter(|part| !part.is_empty()) {
        let made = match rustix::fs::mkdirat(&directory, part, Mode::from_raw_mode(0o700)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error.into()),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        directory = rustix::fs::openat(&directory, part, flags, Mode::empty())?;
        if made {
            rustix::fs::fchown(&directory, None, group)?;
            rustix::fs::fchmod(&directory, Mode::from_raw_mode(DIRECTORY))?;
        }
    }
    match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(&directory, name, flags, Mode::from_raw_mode(0o600))?;
    let mut made = File::from(made);
    made.write_all(&file.data)?;
    rustix::fs::fchown(&made, None, group)?;
    Ok(rustix::fs::fchmod(&made, Mode::from_raw_mode(file.mode))?)
}

/// The last `limit` bytes of a regular file. Containers can have put links and FIFOs there.
fn read_end(top: &OwnedFd, path: &str, limit: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = rustix::fs::openat2(top, path, flags, Mode::empty(), resolve)?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut file = File::from(file);
    let length = u64::try_from(stat.st_size).unwrap_or(0);
    file.seek(SeekFrom::Start(length.saturating_sub(limit)))?;
    let mut data = Vec::new();
    file.take(limit).read_to_end(&mut data)?;
    Ok(data)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn top(dir: &std::path::Path) -> OwnedFd {
        open_top(dir.to_str().unwrap()).unwrap()
    }

    fn file(path: &str, mode: u32, data: &[u8]) -> VolumeFile {
        VolumeFile {
            path: path.to_owned(),
            mode,
            data: data.to_vec(),
            ..Default::default()
        }
    }

    #[test]
    fn files_have_their_modes_and_replace_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let gid = rustix::process::getgid().as_raw();
        let top = top(dir.path());
        for data in [b"old".as_slice(), b"new"] {
            write(&top, &file("a/b/c", 0o440, data), gid).unwrap();
        }
        assert_eq!(fs::read(dir.path().join("a/b/c")).unwrap(), b"new");
        for (path, mode) in [("a", 0o755), ("a/b", 0o755), ("a/b/c", 0o440)] {
            let found = fs::metadata(dir.path().join(path)).unwrap();
            assert_eq!(found.permissions().mode() & 0o7777, mode, "{path}");
        }
        // A link is replaced, and never followed.
        let outside = dir.path().join("outside");
        fs::write(&outside, "kept").unwrap();
        symlink(&outside, dir.path().join("link")).unwrap();
        write(&top, &file("link", 0o644, b"mine"), gid).unwrap();
        assert_eq!(fs::read(&outside).unwrap(), b"kept");
        symlink("a", dir.path().join("way")).unwrap();
        write(&top, &file("way/x", 0o644, b""), gid).unwrap_err();
    }

    #[test]
    fn the_end_of_a_regular_file_is_read_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let top = top(dir.path());
        fs::write(dir.path().join("text"), "0123456789").unwrap();
        assert_eq!(read_end(&top, "text", 3).unwrap(), b"789");
        assert_eq!(read_end(&top, "text", 30).unwrap(), b"0123456789");
        symlink("text", dir.path().join("link")).unwrap();
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(&top, "fifo", FileType::Fifo, mode, 0).unwrap();
        fs::create_dir(dir.path().join("dir")).unwrap();
        for path in ["link", "fifo", "dir", "none"] {
            read_end(&top, path, 3).expect_err(path);
        }
    }
}
