//! Files and directories of the host.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use super::{Prepared, VolumeError};
use crate::pod::HostPathType;

/// Opens `path`, after making what the type says is to be made.
pub fn open(volume: &str, path: &Path, kind: HostPathType) -> Result<Prepared, VolumeError> {
    let failed = |cause: io::Error| VolumeError::Host {
        volume: volume.to_owned(),
        path: path.to_owned(),
        cause,
    };
    make(path, kind).map_err(failed)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    let stat = rustix::fs::fstat(&file).map_err(|errno| failed(errno.into()))?;
    let found = FileType::from_raw_mode(stat.st_mode);
    let (fits, remedy) = match kind {
        HostPathType::Any => (
            found.is_dir() || found.is_file(),
            "only files and directories can be shared with a guest",
        ),
        HostPathType::Directory | HostPathType::DirectoryOrCreate => {
            (found.is_dir(), "name a directory, or change the type")
        }
        HostPathType::File | HostPathType::FileOrCreate => {
            (found.is_file(), "name a file, or change the type")
        }
    };
    if !fits {
        return Err(VolumeError::Type {
            volume: volume.to_owned(),
            path: path.to_owned(),
            found: describe(found),
            wanted: kind,
            remedy,
        });
    }
    Ok(Prepared::Share {
        file,
        unchanging: false,
    })
}

/// As in Kubernetes: directories with their parents, a file without.
fn make(path: &Path, kind: HostPathType) -> io::Result<()> {
    match kind {
        HostPathType::DirectoryOrCreate if fs::metadata(path).is_err() => {
            DirBuilder::new().recursive(true).mode(0o755).create(path)
        }
        HostPathType::FileOrCreate if fs::metadata(path).is_err() => OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path)
            .map(drop),
        _ => Ok(()),
    }
}

fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "something unknown",
    }
}

pub(super) fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "does not exist: make it, or use a type that ends in OrCreate".into()
        }
        _ => error.to_string(),
    }
}
