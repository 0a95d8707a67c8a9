//! ConfigMaps and Secrets from files of this machine: `NAME=PATH` of the command line.
//!
//! As `kubectl create configmap --from-file` has it: a directory's files are keys, and a single file is
//! one key, by its own name. Only the fact that the user named the path is trusted; sizes are bounded.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::names;
use crate::objects::{Data, MAX_OBJECT};

/// Why a path does not become data.
#[derive(Debug, Error)]
pub enum GivenError {
    /// It cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Its name cannot be a key.
    #[error("the file name {name:?} {rule}; rename it")]
    Key {
        /// The name.
        name: String,
        /// What it must be.
        rule: String,
    },
    /// Its files are too large together.
    #[error(
        "{path} has more than {MAX_OBJECT} bytes of data, which Kubernetes does not take either"
    )]
    TooLarge {
        /// The path.
        path: PathBuf,
    },
    /// It is neither a file nor a directory.
    #[error("{path} is neither a file nor a directory")]
    Special {
        /// The path.
        path: PathBuf,
    },
}

/// Reads a directory's files, without those in its directories and those that are hidden, or one file.
///
/// # Errors
/// [`GivenError`].
pub fn read(path: &Path) -> Result<Data, GivenError> {
    let failed = |source| GivenError::Read {
        path: path.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    if fs::metadata(path).map_err(failed)?.is_dir() {
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let is_file = fs::metadata(entry.path()).is_ok_and(|meta| meta.is_file());
            if is_file && !entry.file_name().as_encoded_bytes().starts_with(b".") {
                paths.push(entry.path());
            }
        }
    } else {
        paths.push(path.to_owned());
    }
    let mut data = Data::new();
    let mut left = MAX_OBJECT;
    for file in paths {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        names::data_key(&name).map_err(|rule| GivenError::Key {
            name: name.clone().into_owned(),
            rule,
        })?;
        let bytes = read_file(&file, left)?;
        left = left
            .checked_sub(bytes.len())
            .ok_or_else(|| GivenError::TooLarge {
                path: path.to_owned(),
            })?;
        data.insert(name.into_owned(), bytes);
    }
    Ok(data)
}

/// A regular file's bytes, at most one more than `limit`.
fn read_file(path: &Path, limit: usize) -> Result<Vec<u8>, GivenError> {
    let failed = |source| GivenError::Read {
        path: path.to_owned(),
        source,
    };
    // A FIFO would be waited for.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(GivenError::Special {
            path: path.to_owned(),
        });
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let file = File::open(path).map_err(failed)?;
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_become_keys() {
        let dir = std::env::temp_dir().join(format!("podvmm-given-{}", std::process::id()));
        fs::create_dir_all(dir.join("below")).unwrap();
        fs::write(dir.join("a.conf"), "x").unwrap();
        fs::write(dir.join(".hidden"), "x").unwrap();
        fs::write(dir.join("below/b"), "x").unwrap();
        let data = read(&dir).unwrap();
        assert_eq!(data, Data::from([("a.conf".into(), b"x".to_vec())]));
        assert_eq!(read(&dir.join("a.conf")).unwrap(), data);

        fs::write(dir.join("large"), vec![0; MAX_OBJECT]).unwrap();
        let error = read(&dir).unwrap_err();
        assert!(matches!(error, GivenError::TooLarge { .. }), "{error}");
        fs::write(dir.join("large"), "").unwrap();
        fs::write(dir.join("a b"), "").unwrap();
        let error = read(&dir).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("the file name \"a b\" must be letters")
        );
        fs::remove_dir_all(&dir).unwrap();
        assert!(matches!(read(&dir), Err(GivenError::Read { .. })));
        let special = read(Path::new("/dev/null"));
        assert!(matches!(special, Err(GivenError::Special { .. })));
    }
}
