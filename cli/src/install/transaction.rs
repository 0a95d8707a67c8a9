//! Files that are put in place together: all of them are written beside their places first, then each
//! is moved to its place.
//!
//! ```text
//!   stage(a) stage(b) ...   ──▶  .a.podvmm-new, .b.podvmm-new   (disk full? no permission? all is undone)
//!   commit()                ──▶  rename, rename, ...
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

/// What a file is made of.
#[derive(Clone, Debug)]
pub enum Content {
    /// A copy of this file.
    File(PathBuf),
    /// These bytes.
    Text(String),
}

impl Content {
    /// The digest of all bytes.
    pub fn digest(&self) -> anyhow::Result<String> {
        match self {
            Self::File(path) => digest_of(path),
            Self::Text(text) => Ok(hex(&Sha256::digest(text))),
        }
    }
}

/// The digest of a file.
pub fn digest_of(path: &Path) -> anyhow::Result<String> {
    let shown = || path.display().to_string();
    let mut file = File::open(path).with_context(shown)?;
    let mut hash = Sha256::new();
    let mut part = vec![0; 1 << 18];
    loop {
        match file.read(&mut part).with_context(shown)? {
            0 => return Ok(hex(&hash.finalize())),
            read => hash.update(&part[..read]),
        }
    }
}

/// The same, and nothing where there is no file.
pub fn digest_if_there(path: &Path) -> anyhow::Result<Option<String>> {
    if !path
        .try_exists()
        .with_context(|| path.display().to_string())?
    {
        return Ok(None);
    }
    digest_of(path).map(Some)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Files and directories on their way. What is not committed is taken back.
#[derive(Debug, Default)]
pub struct Transaction {
    staged: Vec<(PathBuf, PathBuf)>,
    made: Vec<PathBuf>,
}

impl Transaction {
    /// Makes a directory and what is missing above it; gives those that were.
    pub fn directory(&mut self, dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let missing: Vec<_> = dir
            .ancestors()
            .take_while(|above| !above.exists())
            .map(Path::to_owned)
            .collect();
        for above in missing.iter().rev() {
            let made = DirBuilder::new().mode(0o755).create(above);
            made.with_context(|| format!("{} cannot be made", above.display()))?;
            self.made.push(above.clone());
        }
        Ok(missing)
    }

    /// Writes a file's new content beside it. A file that is there keeps its owner and mode.
    pub fn stage(&mut self, place: &Path, content: &Content, mode: u32) -> anyhow::Result<()> {
        let (Some(dir), Some(name)) = (place.parent(), place.file_name()) else {
            bail!("{}: it is no place for a file", place.display());
        };
        let new = dir.join(format!(".{}.podvmm-new", name.to_string_lossy()));
        let shown = || format!("{} cannot be written", place.display());
        // One that was killed left it.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(shown);
            }
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)
            .with_context(shown)?;
        self.staged.push((new, place.to_owned()));
        match content {
            Content::Text(text) => file.write_all(text.as_bytes()).with_context(shown)?,
            Content::File(from) => {
                let mut from = File::open(from).with_context(|| from.display().to_string())?;
                io::copy(&mut from, &mut file).with_context(shown)?;
            }
        }
        let mode = match fs::metadata(place) {
            Ok(before) => {
                fchown(&file, Some(before.uid()), Some(before.gid())).with_context(shown)?;
                before.mode() & 0o7777
            }
            Err(_) => mode,
        };
        file.set_permissions(fs::Permissions::from_mode(mode))
            .with_context(shown)?;
        // A rename may reach the disk before the bytes do.
        file.sync_all().with_context(shown)
    }

    /// Moves all files to their places, in the order in which they were staged.
    pub fn commit(mut self) -> anyhow::Result<()> {
        while !self.staged.is_empty() {
            let (new, place) = &self.staged[0];
            fs::rename(new, place)
                .with_context(|| format!("{} cannot be put in place", place.display()))?;
            self.staged.remove(0);
            self.made.clear();
        }
        self.made.clear();
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        for (new, _) in &self.staged {
            let _ = fs::remove_file(new);
        }
        for dir in self.made.iter().rev() {
            let _ = fs::remove_dir(dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::testkit::TempDir;

    fn text(text: &str) -> Content {
        Content::Text(text.to_owned())
    }

    #[test]
    fn nothing_is_there_before_all_is() {
        let dir = TempDir::new();
        let (deep, first) = (dir.join("a/b/c"), dir.join("a/b/c/first"));
        let mut transaction = Transaction::default();
        assert_eq!(transaction.directory(&deep).unwrap().len(), 3);
        transaction.stage(&first, &text("1"), 0o755).unwrap();
        assert!(!first.exists());
        let error = transaction.stage(&dir.join("no/such/dir"), &text("2"), 0o644);
        assert!(format!("{:#}", error.unwrap_err()).contains("no/such/dir cannot be written"));
        drop(transaction);
        assert!(!dir.join("a").exists());
    }

    #[test]
    fn a_file_keeps_its_mode_and_a_new_one_has_its_own() {
        let dir = TempDir::new();
        let (old, new) = (dir.join("old"), dir.join("new"));
        fs::write(&old, "before").unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(dir.join(".old.podvmm-new"), "left by one that was killed").unwrap();
        let mut transaction = Transaction::default();
        transaction.stage(&old, &text("after"), 0o755).unwrap();
        transaction
            .stage(&new, &Content::File(old.clone()), 0o755)
            .unwrap();
        transaction.commit().unwrap();
        assert_eq!(fs::read_to_string(&old).unwrap(), "after");
        assert_eq!(fs::read_to_string(&new).unwrap(), "before");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&old), mode(&new)), (0o640, 0o755));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn digests_are_of_the_bytes() {
        let dir = TempDir::new();
        fs::write(dir.join("file"), "abc").unwrap();
        // FIPS 180-4's own example.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(text("abc").digest().unwrap(), expected);
        assert_eq!(digest_of(&dir.join("file")).unwrap(), expected);
        assert_eq!(digest_if_there(&dir.join("none")).unwrap(), None);
    }
}
