//! hostPath volumes: making what is to be made, and checking what is there.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use thiserror::Error;

use crate::pod::HostPathType;

/// Why a hostPath cannot be had.
#[derive(Debug, Error)]
pub enum HostPathError {
    /// It cannot be opened or made.
    #[error("volume {volume}: hostPath {path}: {}", explain(.cause))]
    Unusable {
        /// Volume.
        volume: String,
        /// Path.
        path: PathBuf,
        /// The system's reason, which is part of the message.
        cause: io::Error,
    },
    /// Something else is there than the type says.
    #[error(
        "volume {volume}: hostPath {path}: is {found}, and the type {wanted:?} asks for another: {remedy}"
    )]
    Type {
        /// Volume.
        volume: String,
        /// Path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
        /// What has to be there.
        wanted: HostPathType,
        /// What to do.
        remedy: &'static str,
    },
}

/// Makes what the type of the volume's `path` says is to be made, and checks what is there then.
///
/// # Errors
/// [`HostPathError`].
pub fn prepare(volume: &str, path: &Path, kind: HostPathType) -> Result<(), HostPathError> {
    let failed = |cause: io::Error| HostPathError::Unusable {
        volume: volume.to_owned(),
        path: path.to_owned(),
        cause,
    };
    make(path, kind).map_err(failed)?;
    let stat = rustix::fs::stat(path).map_err(|errno| failed(errno.into()))?;
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
    match fits {
        true => Ok(()),
        false => Err(HostPathError::Type {
            volume: volume.to_owned(),
            path: path.to_owned(),
            found: describe(found),
            wanted: kind,
            remedy,
        }),
    }
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

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "does not exist: make it, or use a type that ends in OrCreate".into()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use HostPathType::{Any, Directory, DirectoryOrCreate, File, FileOrCreate};

    use super::*;

    #[test]
    fn types_of_host_paths() {
        let base = std::env::temp_dir().join(format!("podvmm-host-path-{}", std::process::id()));
        fs::create_dir_all(base.join("dir")).unwrap();
        fs::write(base.join("file"), "").unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let fifo = base.join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, mode, 0).unwrap();
        for (name, kind, fits) in [
            ("dir", Any, true),
            ("file", Any, true),
            ("fifo", Any, false),
            ("dir", Directory, true),
            ("file", Directory, false),
            ("missing", Directory, false),
            ("missing", File, false),
            ("dir", File, false),
            ("file", File, true),
            ("dir", FileOrCreate, false),
            ("file", DirectoryOrCreate, false),
            ("new/deep", DirectoryOrCreate, true),
            ("newfile", FileOrCreate, true),
            ("nowhere/newfile", FileOrCreate, false),
        ] {
            let prepared = prepare("v", &base.join(name), kind);
            assert_eq!(prepared.is_ok(), fits, "{name} {kind:?}: {prepared:?}");
        }
        let made = fs::metadata(base.join("new/deep")).unwrap();
        assert_eq!(made.permissions().mode() & 0o700, 0o700);
        let error = prepare("v", &fifo, Any).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "volume v: hostPath {}: is a FIFO, and the type Any asks for another: only files and directories can be shared with a guest",
                fifo.display()
            )
        );
        fs::remove_dir_all(base).unwrap();
    }
}
