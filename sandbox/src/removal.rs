//! Removing a directory that a guest has filled.
//!
//! Its directories may be nested deeper than a stack or a path can be, and may be anybody's. So each
//! directory's own directories are moved up to the top before it is removed: no more than two are open at
//! a time, and none is ever deeper than one below the top. No link is followed.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

const OWNER: Mode = Mode::RWXU;

/// Removes `path` with everything in it; nothing happens if it is not there.
///
/// # Errors
/// When the file system refuses; what is left can be removed another time.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match open(rustix::fs::CWD, path) {
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR) => return std::fs::remove_file(path),
        other => other?,
    };
    let mut number = 0_u64;
    // What is moved up may be missed by the reading that is under way.
    while empty(&top, &top, &mut number)? {}
    match rustix::fs::rmdir(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes the files in `dir`, and moves its directories up to `top`; those of `top` itself are emptied and
/// removed. Tells whether there was anything.
fn empty(dir: &OwnedFd, top: &OwnedFd, number: &mut u64) -> io::Result<bool> {
    let is_top = dir.as_raw_fd() == top.as_raw_fd();
    let mut found = false;
    let mut entries = Dir::read_from(dir)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        found = true;
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        let below = open(dir, name)?;
        if is_top {
            empty(&below, top, number)?;
            rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?;
        } else {
            move_up(dir, name, top, number)?;
        }
    }
    Ok(found)
}

fn move_up(
    dir: &OwnedFd,
    name: &std::ffi::CStr,
    top: &OwnedFd,
    number: &mut u64,
) -> io::Result<()> {
    loop {
        *number += 1;
        // A directory takes the place of an empty one, and of nothing else.
        match rustix::fs::renameat(dir, name, top, format!("{number}")) {
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
            other => return Ok(other?),
        }
    }
}

/// Opens a directory itself, and takes the right to change it if it is lacking and can be had.
fn open(dir: impl AsFd, name: impl rustix::path::Arg + Copy) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let named = rustix::fs::openat(&dir, name, flags | OFlags::PATH, Mode::empty())?;
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&named)?.st_mode);
    let is_root = rustix::process::geteuid().is_root();
    if !is_root && !mode.contains(OWNER) {
        // The descriptor's own name leads to nothing else, whatever happens to `name`.
        rustix::fs::chmod(format!("/proc/self/fd/{}", named.as_raw_fd()), mode | OWNER)?;
    }
    rustix::fs::openat(&named, c".", flags | OFlags::RDONLY, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;

    fn dir(test: &str) -> PathBuf {
        let dir =
            std::env::temp_dir().join(format!("podvmm-removal-{}-{test}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn whatever_a_guest_makes_is_removed() {
        let base = dir("all");
        let (tree, kept) = (base.join("tree"), base.join("kept"));
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::create_dir_all(tree.join("1/1/1")).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        symlink(&kept, tree.join("a/b/link")).unwrap();
        symlink(&kept, tree.join("link")).unwrap();
        for file in ["a/x", "a/b/c/y", "1/1/z"] {
            fs::write(tree.join(file), "x").unwrap();
            fs::set_permissions(tree.join(file), fs::Permissions::from_mode(0o0)).unwrap();
        }
        for dir in ["a/b/c", "a/b", "a"] {
            fs::set_permissions(tree.join(dir), fs::Permissions::from_mode(0o0)).unwrap();
        }
        remove_tree(&tree).unwrap();
        remove_tree(&tree).unwrap();
        assert_eq!(fs::read(kept.join("file")).unwrap(), b"x");
        assert_eq!(fs::read_dir(&base).unwrap().count(), 1);
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn depth_is_no_obstacle() {
        let base = dir("deep");
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let mut at = rustix::fs::open(&base, flags, Mode::empty()).unwrap();
        // Deeper than descriptors, paths (4096 bytes) or a small stack would allow.
        for _ in 0..5_000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", flags, Mode::empty()).unwrap();
        }
        drop(at);
        let thread = std::thread::Builder::new().stack_size(64 * 1024);
        let removed = thread.spawn(move || (remove_tree(&base), base)).unwrap();
        let (outcome, base) = removed.join().unwrap();
        outcome.unwrap();
        assert!(!base.exists());
    }

    #[test]
    fn a_link_is_no_directory() {
        let base = dir("link");
        fs::create_dir(base.join("kept")).unwrap();
        symlink("kept", base.join("link")).unwrap();
        remove_tree(&base.join("link")).unwrap();
        assert_eq!(fs::read_dir(&base).unwrap().count(), 1);
        fs::remove_dir_all(base).unwrap();
    }
}
