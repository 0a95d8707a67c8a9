//! Files into a container, and out of it: what [`agent_protocol::archive::PROGRAM`] does.
//!
//! It is this program, executed from a sealed copy in memory as one more process of the container: in its
//! namespaces, below its root, in its cgroup and under its seccomp filter. So it needs nothing of the
//! image, and there is nothing that it could be led to outside of the container. Whatever fails is said on
//! standard error.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use agent_protocol::archive::{CONTENT, GET, PROGRAM, PUT, PUT_AS_IS, write};
use rustix::fs::{MemfdFlags, SealFlags};
use tar::{Archive, EntryType};

/// Status for what failed.
const FAILED: i32 = 1;

/// This program, in a file that nobody can change: the container's processes see it while it runs.
pub(crate) fn program() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut copy = File::from(rustix::fs::memfd_create(PROGRAM, flags)?);
    io::copy(&mut File::open("/proc/self/exe")?, &mut copy)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    Ok(copy.into())
}

/// Whether these arguments are the program's.
#[must_use]
pub fn is_meant(arguments: &[OsString]) -> bool {
    arguments.first().is_some_and(|name| name == PROGRAM)
}

/// Is the program, with its `arguments`; gives the status.
#[must_use]
pub fn main(arguments: &[OsString]) -> i32 {
    match run(arguments) {
        Ok(()) => 0,
        Err(error) => {
            say(&error.to_string());
            FAILED
        }
    }
}

fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn run(arguments: &[OsString]) -> io::Result<()> {
    let [_, what, path] = arguments else {
        return Err(io::Error::other("get or put, and a path"));
    };
    let path = Path::new(path);
    match what.to_str() {
        Some(GET) => {
            for left_out in write(path, None, io::stdout().lock())? {
                let left_out = left_out.display();
                say(&format!(
                    "{left_out}: left out, it is no file, directory or link"
                ));
            }
            Ok(())
        }
        Some(PUT) => put(path, io::stdin().lock()),
        Some(PUT_AS_IS) => {
            need_directory(path)?;
            let mut archive = archive(io::stdin().lock());
            archive.unpack(path)
        }
        _ => Err(io::Error::other("neither get nor put")),
    }
}

fn archive<R: Read>(from: R) -> Archive<R> {
    let mut archive = Archive::new(from);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive
}

fn need_directory(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(wrong(path, "is no directory")),
        Err(error) => Err(wrong(path, &error.to_string())),
    }
}

fn wrong(path: &Path, what: &str) -> io::Error {
    io::Error::other(format!("{}: {what}", path.display()))
}

/// Puts files where `cp` would: into a directory that is there, under their own name; otherwise as `to`.
fn put(to: &Path, from: impl Read) -> io::Result<()> {
    let mut archive = archive(from);
    let mut place = None;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        let kind = entry.header().entry_type();
        if !matches!(
            kind,
            EntryType::Regular | EntryType::Directory | EntryType::Symlink
        ) {
            return Err(wrong(&name, "is of a kind that is not copied"));
        }
        let place = match &place {
            Some(place) => place,
            None => place.insert(Place::of(to, &name, kind == EntryType::Directory)?),
        };
        let target = place.of_entry(&name)?;
        entry
            .unpack(&target)
            .map_err(|error| wrong(&target, &innermost(&error)))?;
    }
    Ok(())
}

/// What the system said, without the words around it.
fn innermost(error: &io::Error) -> String {
    let mut text = error.to_string();
    let mut cause: Option<&dyn std::error::Error> = error.get_ref().map(|error| error as _);
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

/// Where an archive's first name, and with it all that is below, goes.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    first: PathBuf,
    target: PathBuf,
}

impl Place {
    fn of(to: &Path, first: &Path, is_directory: bool) -> io::Result<Self> {
        let first: PathBuf = first.components().take(1).collect();
        let wants_directory = to.as_os_str().as_bytes().ends_with(b"/");
        let target = match fs::metadata(to) {
            Ok(there) if there.is_dir() => match first == Path::new(CONTENT) {
                true => to.to_owned(),
                false => to.join(&first),
            },
            Ok(_) if is_directory => return Err(wrong(to, "is no directory")),
            Ok(_) => to.to_owned(),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(wrong(to, &error.to_string()));
            }
            Err(_) if wants_directory && !is_directory => {
                return Err(wrong(to, "there is no such directory"));
            }
            Err(_) => {
                let parent = to.parent().filter(|parent| *parent != Path::new(""));
                need_directory(parent.unwrap_or(Path::new("/")))?;
                to.to_owned()
            }
        };
        Ok(Self { first, target })
    }

    fn of_entry(&self, name: &Path) -> io::Result<PathBuf> {
        let outside = || wrong(name, "leads elsewhere than the first name of the archive");
        let rest = name.strip_prefix(&self.first);
        let rest = match rest {
            Ok(rest) => rest,
            // `./a` has the components of `a`.
            Err(_) if self.first == Path::new(CONTENT) => name,
            Err(_) => return Err(outside()),
        };
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if !rest.components().all(plain) {
            return Err(outside());
        }
        Ok(match rest == Path::new("") || rest == Path::new(CONTENT) {
            true => self.target.clone(),
            false => self.target.join(rest),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(from: &Path, to: &Path) -> Result<(), String> {
        let mut bytes = Vec::new();
        let own = (
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
        );
        write(from, Some((own.0.into(), own.1.into())), &mut bytes).unwrap();
        put(to, bytes.as_slice()).map_err(|error| error.to_string())
    }

    #[test]
    fn things_go_where_cp_puts_them() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::create_dir_all(dir.join("tree/sub")).unwrap();
        fs::write(dir.join("tree/sub/file"), "one").unwrap();
        fs::write(dir.join("plain"), "two").unwrap();
        fs::create_dir(dir.join("there")).unwrap();
        copy(&dir.join("plain"), &dir.join("there")).unwrap();
        copy(&dir.join("plain"), &dir.join("new")).unwrap();
        copy(&dir.join("tree"), &dir.join("there")).unwrap();
        copy(&dir.join("tree"), &dir.join("copy")).unwrap();
        copy(&dir.join("tree/."), &dir.join("there")).unwrap();
        copy(&dir.join("tree/sub/file"), &dir.join("there/plain")).unwrap();
        for (path, text) in [
            ("there/plain", "one"),
            ("new", "two"),
            ("there/tree/sub/file", "one"),
            ("copy/sub/file", "one"),
            ("there/sub/file", "one"),
        ] {
            assert_eq!(fs::read_to_string(dir.join(path)).unwrap(), text, "{path}");
        }
        for (from, to, word) in [
            ("plain", "none/", "no such directory"),
            ("plain", "none/x", "none: "),
            ("tree", "plain", "is no directory"),
            ("plain", "plain/x", "Not a directory"),
        ] {
            let path = format!("{}/{to}", dir.display());
            let error = copy(&dir.join(from), Path::new(&path)).unwrap_err();
            assert!(error.contains(word), "{to}: {error}");
        }
    }

    #[test]
    fn names_stay_below_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::of(dir.path(), Path::new("a/b"), true).unwrap();
        assert_eq!(
            place.of_entry(Path::new("a")).unwrap(),
            dir.path().join("a")
        );
        assert_eq!(
            place.of_entry(Path::new("a/b/c")).unwrap(),
            dir.path().join("a/b/c")
        );
        for name in ["b", "a/../../c", "/etc", "../a"] {
            assert!(place.of_entry(Path::new(name)).is_err(), "{name}");
        }
        let content = Place::of(dir.path(), Path::new("./"), true).unwrap();
        assert_eq!(
            content.of_entry(Path::new("./x")).unwrap(),
            dir.path().join("x")
        );
        assert!(content.of_entry(Path::new("./../x")).is_err());
    }

    #[test]
    fn the_program_cannot_be_changed() {
        let program = program().unwrap();
        assert!(rustix::io::write(&program, b"x").is_err());
        assert!(rustix::fs::ftruncate(&program, 0).is_err());
    }
}
