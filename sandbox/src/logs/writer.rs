//! Writing a log, within its bounds.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::line::{self, Stream};
use super::rotated;
use crate::timestamp::Timestamp;

/// How much of a container's output is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLimits {
    /// Bytes of a file; at the end of what would pass it the next file begins.
    pub max_size: u64,
    /// Files that are kept, the one that is written included.
    pub max_files: u32,
}

/// Most files that may be kept of one log.
pub const MAX_FILES: u32 = 100;

impl Default for LogLimits {
    /// The default runtime directory is in memory: 12 MiB for each container.
    fn default() -> Self {
        Self {
            max_size: 4 << 20,
            max_files: 3,
        }
    }
}

/// A container's log.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
    limits: LogLimits,
    /// Used again for each write.
    lines: Vec<u8>,
}

impl LogFile {
    /// Opens the log `path`, which is made if it is not there.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn open(path: &Path, limits: LogLimits) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let file = append_to(path)?;
        Ok(Self {
            path: path.to_owned(),
            size: file.metadata()?.len(),
            file,
            limits,
            lines: Vec::new(),
        })
    }

    /// Appends what a container has written just now.
    ///
    /// # Errors
    /// When the file system refuses; then these bytes are lost, and the log is as usable as before.
    pub fn append(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        self.lines.clear();
        line::format(&mut self.lines, Timestamp::now(), stream, bytes);
        let length = self.lines.len() as u64;
        if self.size > 0 && self.size.saturating_add(length) > self.limits.max_size {
            self.rotate()?;
        }
        if let Err(error) = self.file.write_all(&self.lines) {
            // A torn line would swallow the next one.
            let _ = self.file.set_len(self.size);
            return Err(error);
        }
        self.size += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let oldest = self.limits.max_files.clamp(1, MAX_FILES) - 1;
        if oldest == 0 {
            // Readers see a new file, as with every rotation.
            fs::remove_file(&self.path)?;
        }
        for age in (0..oldest).rev() {
            match fs::rename(rotated(&self.path, age), rotated(&self.path, age + 1)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        self.file = append_to(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::LogReader;

    fn path(test: &str) -> PathBuf {
        let dir = format!("podvmm-logs-{}-{test}", std::process::id());
        std::env::temp_dir().join(dir).join("main.log")
    }

    fn clean(path: &Path) {
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn files_are_bounded_in_size_and_number() {
        let path = path("bounded");
        let limits = LogLimits {
            max_size: 1000,
            max_files: 3,
        };
        let mut log = LogFile::open(&path, limits).unwrap();
        for n in 0..200 {
            log.append(Stream::Stdout, format!("line {n}\n").as_bytes())
                .unwrap();
        }
        let files = fs::read_dir(path.parent().unwrap()).unwrap();
        let sizes: Vec<_> = files
            .map(|f| f.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 3);
        assert!(sizes.iter().all(|size| *size <= 1000), "{sizes:?}");
        let mut reader = LogReader::new(&path);
        let mut last = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            last.push(String::from_utf8(entry.content).unwrap());
        }
        // What is left is the end, without a gap.
        let first = 200 - last.len();
        let expected: Vec<_> = (first..200).map(|n| format!("line {n}")).collect();
        assert!(first > 0 && last.len() > 30, "{first}");
        assert_eq!(last, expected);
        clean(&path);
    }

    #[test]
    fn one_file_is_a_bound_too() {
        let path = path("single");
        let limits = LogLimits {
            max_size: 100,
            max_files: 1,
        };
        let mut log = LogFile::open(&path, limits).unwrap();
        for n in 0..10 {
            log.append(Stream::Stderr, format!("{n}\n").as_bytes())
                .unwrap();
        }
        drop(log);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        let mut again = LogFile::open(&path, limits).unwrap();
        again.append(Stream::Stderr, b"after\n").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("stderr F after\n"), "{text}");
        clean(&path);
    }
}
