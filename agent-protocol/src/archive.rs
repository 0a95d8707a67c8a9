//! Files on their way between host and container: a tar archive whose names begin with that of what is
//! copied, or with `.` for the content of a directory.
//!
//! This is the side that writes; both ends have it. Who reads has to mind what it reads.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

/// The agent's program that reads and writes archives in a container: its first argument.
pub const PROGRAM: &str = "podvmm-archive";
/// Its second argument: write the path that follows to standard output.
pub const GET: &str = "get";
/// Or: put what comes on standard input at that path, by the rules of cp.
pub const PUT: &str = "put";
/// Or: put it below that directory, with names and owners as they come.
pub const PUT_AS_IS: &str = "put-as-is";

/// What a path that ends in `/.` is called: the content of a directory.
pub const CONTENT: &str = ".";

/// `O_NOFOLLOW | O_NONBLOCK`: what was a file a moment ago may be a link or a pipe by now.
const CAREFULLY: i32 = 0o400_000 | 0o4_000;
/// Most levels of directories: a tree may grow faster than it is read.
const MAX_DEPTH: usize = 256;

/// Writes `path`, and all that is below it if it is a directory, and gives what was left out: sockets,
/// devices and named pipes. Files keep their owners, or all become `owner`'s.
///
/// # Errors
/// When something cannot be read or written; it is named.
pub fn write(path: &Path, owner: Option<(u64, u64)>, to: impl Write) -> io::Result<Vec<PathBuf>> {
    let mut writer = Writer {
        to: Builder::new(to),
        owner,
        left_out: Vec::new(),
    };
    let name = name_of(path);
    let metadata = match name == Path::new(CONTENT) {
        true => fs::metadata(path),
        false => fs::symlink_metadata(path),
    };
    let metadata = metadata.map_err(|error| in_words(path, &error))?;
    writer.add(path, &name, &metadata, 0)?;
    writer.to.into_inner()?.flush()?;
    Ok(writer.left_out)
}

/// What `path` is called in an archive.
#[must_use]
pub fn name_of(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    let is_content = bytes.ends_with(b"/.") || bytes == b".";
    match path.file_name() {
        Some(name) if !is_content => name.into(),
        _ => CONTENT.into(),
    }
}

struct Writer<W: Write> {
    to: Builder<W>,
    owner: Option<(u64, u64)>,
    left_out: Vec<PathBuf>,
}

impl<W: Write> Writer<W> {
    fn add(
        &mut self,
        path: &Path,
        name: &Path,
        metadata: &Metadata,
        depth: usize,
    ) -> io::Result<()> {
        let named = |error| in_words(path, &error);
        if metadata.is_dir() {
            let mut header = self.header(metadata, EntryType::Directory);
            header.set_size(0);
            self.to
                .append_data(&mut header, name, io::empty())
                .map_err(named)?;
            return self.add_content(path, name, depth);
        }
        if metadata.is_file() {
            return self.add_file(path, name).map_err(named);
        }
        if !metadata.is_symlink() {
            self.left_out.push(path.to_owned());
            return Ok(());
        }
        let target = fs::read_link(path).map_err(named)?;
        let mut header = self.header(metadata, EntryType::Symlink);
        header.set_size(0);
        self.to
            .append_link(&mut header, name, target)
            .map_err(named)
    }

    fn add_content(&mut self, path: &Path, name: &Path, depth: usize) -> io::Result<()> {
        let named = |error| in_words(path, &error);
        if depth >= MAX_DEPTH {
            return Err(named(io::Error::other("too many levels of directories")));
        }
        for entry in fs::read_dir(path).map_err(named)? {
            let file = entry.map_err(named)?.file_name();
            let (path, name) = (path.join(&file), name.join(&file));
            match fs::symlink_metadata(&path) {
                Ok(metadata) => self.add(&path, &name, &metadata, depth + 1)?,
                // It was there when its directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(in_words(&path, &error)),
            }
        }
        Ok(())
    }

    /// As long as it is when it is opened, whatever happens to it meanwhile.
    fn add_file(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let file = File::options()
            .read(true)
            .custom_flags(CAREFULLY)
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            self.left_out.push(path.to_owned());
            return Ok(());
        }
        let mut header = self.header(&metadata, EntryType::Regular);
        let length = metadata.len();
        header.set_size(length);
        let data = file.take(length).chain(io::repeat(0)).take(length);
        self.to.append_data(&mut header, name, data)
    }

    fn header(&self, metadata: &Metadata, kind: EntryType) -> Header {
        let mut header = Header::new_gnu();
        header.set_metadata(metadata);
        header.set_entry_type(kind);
        if let Some((uid, gid)) = self.owner {
            header.set_uid(uid);
            header.set_gid(gid);
        }
        header
    }
}

fn in_words(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_cp_has_them() {
        for (path, name) in [
            ("/etc/passwd", "passwd"),
            ("/etc/", "etc"),
            ("/etc/.", "."),
            ("/", "."),
            (".", "."),
            ("..", "."),
            ("a/..", "."),
            ("a", "a"),
        ] {
            assert_eq!(name_of(Path::new(path)), Path::new(name), "{path}");
        }
    }

    #[test]
    fn a_tree_is_written_without_following_its_links() {
        let dir = std::env::temp_dir().join(format!("podvmm-archive-{}", std::process::id()));
        let tree = dir.join("tree");
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::write(tree.join("sub/file"), "text").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", tree.join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
        let mut bytes = Vec::new();
        let left_out = write(&tree, Some((0, 7)), &mut bytes).unwrap();
        assert_eq!(left_out, [tree.join("socket")]);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut found: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                assert_eq!(
                    (entry.header().uid().unwrap(), entry.header().gid().unwrap()),
                    (0, 7)
                );
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                let link = entry
                    .link_name()
                    .unwrap()
                    .map(|link| link.display().to_string());
                (
                    entry.path().unwrap().display().to_string(),
                    link.unwrap_or(text),
                )
            })
            .collect();
        found.sort();
        let expected = [
            ("tree/", ""),
            ("tree/link", "/etc/passwd"),
            ("tree/sub/", ""),
            ("tree/sub/file", "text"),
        ];
        let found: Vec<_> = found
            .iter()
            .map(|(a, b)| (a.trim_end_matches('/'), b.as_str()))
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(a, b)| (a.trim_end_matches('/'), *b))
            .collect();
        assert_eq!(found, expected);
        let error = write(&dir.join("none"), None, io::sink()).unwrap_err();
        assert!(error.to_string().contains("none: "), "{error}");
        fs::remove_dir_all(dir).unwrap();
    }
}
