//! Opening what is to be a disk.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use devices::blk::Geometry;
use devices::blk::spec::SECTOR;
use rustix::fs::{Dev, FileType, Mode, OFlags, makedev};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::{BlockError, BlockVolume, Identity, Permissions};
use crate::jail::close_devices;

impl BlockVolume {
    /// Opens the block device or disk image `path`; `parameter` is what the user calls it.
    ///
    /// Others may have it open: nobody is kept away from it.
    ///
    /// # Errors
    /// [`BlockError`] says what it is instead, or why it does not open.
    pub fn open(parameter: &str, path: &Path, read_only: bool) -> Result<Self, BlockError> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = rustix::fs::open(path, flags, Mode::empty());
        let found = found.map_err(|errno| failed(parameter, path, !read_only, errno.into()))?;
        Self::of_found(parameter, path, found, read_only)
    }

    /// Opens the block device with this number, wherever it has a node, and if it has none. Takes the
    /// privilege to make nodes and mounts.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of_number(
        parameter: &str,
        path: &Path,
        (major, minor): (u32, u32),
        read_only: bool,
    ) -> Result<Self, BlockError> {
        let node = Node::new(makedev(major, minor));
        let node = node.map_err(|error| failed(parameter, path, !read_only, error))?;
        Self::of_found(parameter, path, node.place, read_only)
    }

    /// `found` is only a place: what is opened is what was looked at.
    fn of_found(
        parameter: &str,
        path: &Path,
        found: OwnedFd,
        read_only: bool,
    ) -> Result<Self, BlockError> {
        let failed = |error| failed(parameter, path, !read_only, error);
        let stat = rustix::fs::fstat(&found).map_err(|errno| failed(errno.into()))?;
        let (parameter, path) = (parameter.to_owned(), path.to_owned());
        let identity = match FileType::from_raw_mode(stat.st_mode) {
            FileType::BlockDevice => Identity::Device(stat.st_rdev),
            FileType::RegularFile => Identity::File(stat.st_dev, stat.st_ino),
            FileType::CharacterDevice => return Err(BlockError::Character { parameter, path }),
            _ => return Err(BlockError::NoDisk { parameter, path }),
        };
        let (file, place) = match identity {
            Identity::Device(number) => (open_device(&found, number, read_only), None),
            Identity::File(..) => (reopen(&found, read_only), Some(found)),
        };
        let file = file.map_err(failed)?;
        let geometry = Geometry::of(&file).map_err(failed)?;
        if geometry.bytes < SECTOR {
            let bytes = geometry.bytes;
            return Err(BlockError::Empty {
                parameter,
                path,
                bytes,
            });
        }
        Ok(Self {
            name: format!("{parameter} {}", path.display()),
            file,
            place,
            geometry,
            read_only,
            permissions: Permissions {
                mode: stat.st_mode & 0o777,
                uid: stat.st_uid,
                gid: stat.st_gid,
            },
            identity,
        })
    }
}

/// Opens what `found` is the place of.
pub(crate) fn reopen(found: &OwnedFd, read_only: bool) -> io::Result<File> {
    let access = if read_only {
        OFlags::RDONLY
    } else {
        OFlags::RDWR
    };
    let place = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = rustix::fs::open(place, access | OFlags::CLOEXEC, Mode::empty())?;
    Ok(File::from(file))
}

/// Opens the block device `number`, so that who gets the descriptor cannot open it anew for writing, as
/// could be done by `/proc/self/fd` otherwise. Who may make no nodes opens the one that there is.
fn open_device(found: &OwnedFd, number: Dev, read_only: bool) -> io::Result<File> {
    match Node::new(number) {
        Ok(node) => {
            let file = reopen(&node.place, read_only)?;
            close_devices(&node.nowhere)?;
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => reopen(found, read_only),
        Err(error) => Err(error),
    }
}

/// A node of a block device in a file system that is mounted nowhere.
struct Node {
    nowhere: OwnedFd,
    place: OwnedFd,
}

impl Node {
    fn new(number: Dev) -> io::Result<Self> {
        let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_create(&context)?;
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        let nowhere = rustix::mount::fsmount(&context, flags, MountAttrFlags::empty())?;
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(&nowhere, "node", FileType::BlockDevice, mode, number)?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let place = rustix::fs::openat(&nowhere, "node", flags, Mode::empty())?;
        Ok(Self { nowhere, place })
    }
}

fn failed(parameter: &str, path: &Path, writing: bool, cause: io::Error) -> BlockError {
    BlockError::Open {
        parameter: parameter.to_owned(),
        path: path.to_owned(),
        writing,
        cause,
    }
}

pub(super) fn explain(error: &io::Error, writing: bool) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "does not exist".into(),
        Some(libc::ENXIO | libc::ENODEV) => "is the node of a device that is not there".into(),
        Some(libc::EACCES | libc::EPERM | libc::EROFS) if writing => {
            format!("cannot be opened for writing ({error}); ask for it read-only")
        }
        Some(libc::EACCES | libc::EPERM) => "permission denied".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    const PARAMETER: &str = "--device";

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("podvmm-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn file(&self, name: &str, bytes: usize) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, vec![1; bytes]).unwrap();
            path
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn refusal(path: impl AsRef<Path>) -> String {
        let refused = BlockVolume::open(PARAMETER, path.as_ref(), false);
        refused.unwrap_err().to_string()
    }

    #[test]
    fn a_disk_image_is_the_same_by_any_name() {
        let dir = Dir::new("image");
        let (image, link) = (dir.file("image", 1000), dir.0.join("link"));
        std::os::unix::fs::symlink(&image, &link).unwrap();
        let open = |path| BlockVolume::open(PARAMETER, path, false).unwrap();
        let (first, second) = (open(&image), open(&link));
        assert_eq!(first.identity, second.identity);
        assert_eq!(first.geometry.bytes, 1000);
        assert_ne!(first.identity, open(&dir.file("other", 512)).identity);
    }

    #[test]
    fn what_may_only_be_read_is_open_for_reading_only() {
        let dir = Dir::new("read-only");
        let path = dir.file("image", 4096);
        let volume = BlockVolume::open(PARAMETER, &path, true).unwrap();
        let write = rustix::io::write(&volume.file, b"x");
        assert_eq!(write, Err(rustix::io::Errno::BADF));
    }

    #[test]
    fn what_is_no_disk_is_refused_with_the_reason() {
        let dir = Dir::new("no-disk");
        let short = dir.file("short", 511);
        for (path, reason) in [
            (Path::new("/dev/null"), "character device"),
            (&dir.0, "neither a block device"),
            (&dir.0.join("none"), "does not exist"),
            (&short, "has 511 bytes"),
        ] {
            let message = refusal(path);
            let named = format!("--device {}", path.display());
            assert!(message.starts_with(&named), "{message}");
            assert!(message.contains(reason), "{message}");
        }
    }

    #[test]
    fn a_device_that_may_not_be_written_names_the_remedy() {
        let error = io::Error::from_raw_os_error(libc::EROFS);
        assert!(explain(&error, true).contains("read-only"));
        assert!(!explain(&error, false).contains("read-only"));
    }
}
