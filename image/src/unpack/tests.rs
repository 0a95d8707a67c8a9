//! Layers as they should be.

mod hostile;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::*;
use crate::testing::{Tar, TempDir};

struct Target {
    dir: TempDir,
    unpacker: Unpacker,
}

impl Target {
    fn new() -> Self {
        Self::with(Ownership::of_this_process(), Limits::default())
    }

    /// A root beside a directory that must stay as it is.
    fn with(ownership: Ownership, limits: Limits) -> Self {
        let dir = TempDir::new();
        fs::create_dir(dir.join("root")).unwrap();
        fs::create_dir(dir.join("outside")).unwrap();
        fs::write(dir.join("outside/secret"), "secret").unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let root = rustix::fs::open(dir.join("root"), flags, Mode::empty()).unwrap();
        Self {
            unpacker: Unpacker::new(root, ownership, limits),
            dir,
        }
    }

    fn layer(&mut self, tar: Tar) -> Result<(), UnpackError> {
        let bytes = tar.end();
        let digest = self.unpacker.layer(&bytes[..])?;
        assert_eq!(digest, Digest::of(&bytes));
        Ok(())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.join("root").join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.path(name)).is_ok()
    }

    #[track_caller]
    fn outside_is_untouched(&self) {
        let secret = self.dir.join("outside/secret");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert_eq!(fs::metadata(&secret).unwrap().nlink(), 1);
        assert_eq!(fs::read_dir(self.dir.join("outside")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(self.dir.path()).unwrap().count(), 2);
    }
}

fn message(error: &UnpackError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[test]
fn layers_lie_one_upon_the_other() {
    let mut target = Target::new();
    let lower = Tar::new()
        .dir("./")
        .dir("a/")
        .file("a/kept", b"kept")
        .file("a/deleted", b"x")
        .file("a/replaced", b"old")
        .dir("gone")
        .file("gone/deep/below", b"x")
        .dir("opaque")
        .file("opaque/old", b"x")
        .file("opaque/both", b"old")
        .dir("becomes-file")
        .file("becomes-file/x", b"x")
        .file("becomes-dir", b"x");
    target.layer(lower).unwrap();
    let upper = Tar::new()
        .file("a/.wh.deleted", b"")
        .file("a/replaced", b"new")
        .file(".wh.gone", b"")
        .file("opaque/both", b"new")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/after", b"new")
        .file("becomes-file", b"file")
        .file("becomes-dir/x", b"dir")
        .file(".wh.never-there", b"")
        .file("no/such/.wh.x", b"");
    // The last one's parent is a file of the layer below.
    let error = target.layer(upper.clone()).unwrap_err();
    assert!(
        message(&error).contains("becomes-dir/x"),
        "{}",
        message(&error)
    );
    let mut target = Target::new();
    target.layer(Tar::new().dir("becomes-dir")).unwrap();
    target.layer(upper).unwrap();
    assert_eq!(target.read("becomes-dir/x"), "dir");
}

#[test]
fn deleted_replaced_and_opaque() {
    let mut target = Target::new();
    let lower = Tar::new()
        .file("a/kept", b"kept")
        .file("a/deleted", b"x")
        .file("a/replaced", b"old")
        .file("gone/deep/below", b"x")
        .file("opaque/old/deep", b"x")
        .file("opaque/both", b"old")
        .file("becomes-file/x", b"x")
        .symlink("becomes-dir", "a");
    target.layer(lower).unwrap();
    let upper = Tar::new()
        .file("a/.wh.deleted", b"")
        .file("a/replaced", b"new")
        .file(".wh.gone", b"")
        .file("opaque/both", b"new")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/after", b"new")
        .file("becomes-file", b"file")
        .dir("becomes-dir")
        .file(".wh.never-there", b"")
        .file("no/such/.wh.x", b"")
        .file(".wh..wh.plnk/1.2", b"x");
    target.layer(upper).unwrap();
    assert_eq!(target.read("a/kept"), "kept");
    assert_eq!(target.read("a/replaced"), "new");
    assert_eq!(target.read("opaque/both"), "new");
    assert_eq!(target.read("opaque/after"), "new");
    assert_eq!(target.read("becomes-file"), "file");
    assert!(
        target
            .path("becomes-dir")
            .symlink_metadata()
            .unwrap()
            .is_dir()
    );
    for name in [
        "a/deleted",
        "gone",
        "opaque/old",
        "no",
        ".wh.gone",
        "a/.wh.deleted",
        ".wh..wh.plnk",
    ] {
        assert!(!target.has(name), "{name}");
    }
}

#[test]
fn a_layer_does_not_delete_its_own() {
    let mut target = Target::new();
    target
        .layer(Tar::new().file("d/lower", b"x").file("f", b"lower"))
        .unwrap();
    let upper = Tar::new()
        .file("d/upper", b"own")
        .file("f", b"own")
        .file(".wh.f", b"")
        .file(".wh.d", b"");
    target.layer(upper).unwrap();
    assert_eq!(
        (target.read("f"), target.read("d/upper")),
        ("own".into(), "own".into())
    );
    assert!(!target.has("d/lower"));
}

#[test]
fn kinds_modes_owners_and_times() {
    let mut target = Target::with(Ownership::of_this_process(), Limits::default());
    let layer = Tar::new()
        .entry(b'5', "sticky", "", 0o1777, b"")
        .file("sticky/later", b"x")
        .entry(b'0', "su", "", 0o4755, b"x")
        .hard_link("su2", "./su")
        .symlink("absolute", "/sticky")
        .entry(b'6', "pipe", "", 0o640, b"")
        .owner(1000, 1001)
        .file("theirs", b"x")
        .entry(b'3', "null", "", 0o666, b"")
        .entry(b'4', "disk", "", 0o666, b"");
    target.layer(layer).unwrap();
    let meta = |name: &str| fs::symlink_metadata(target.path(name)).unwrap();
    assert_eq!(meta("sticky").mode() & 0o7777, 0o1777);
    assert_eq!(meta("sticky").mtime(), 1_000_000_000);
    assert_eq!(meta("su").mode() & 0o7777, 0o4755);
    assert_eq!(
        (meta("su").ino(), meta("su").nlink()),
        (meta("su2").ino(), 2)
    );
    assert_eq!(
        fs::read_link(target.path("absolute")).unwrap(),
        Path::new("/sticky")
    );
    assert!(meta("pipe").file_type().is_fifo());
    assert_eq!(meta("theirs").mtime(), 1_000_000_000);
    if rustix::process::geteuid().is_root() {
        assert_eq!((meta("theirs").uid(), meta("theirs").gid()), (1000, 1001));
    }
    assert!(!target.has("null") && !target.has("disk"));
    let summary = target.unpacker.summary();
    assert_eq!((summary.entries, summary.devices), (9, 2));
}

#[test]
fn without_root_everything_belongs_to_whoever_unpacks() {
    let mut target = Target::with(Ownership::Squashed, Limits::default());
    let layer = Tar::new()
        .entry(b'5', "closed", "", 0, b"")
        .file("closed/in", b"x")
        .entry(b'0', "root", "", 0o4511, b"x")
        .owner(1000, 1000)
        .entry(b'0', "theirs", "", 0o6511, b"x");
    target.layer(layer).unwrap();
    let mode = |name: &str| fs::metadata(target.path(name)).unwrap().mode() & 0o7777;
    assert_eq!(
        (mode("closed"), mode("root"), mode("theirs")),
        (0o700, 0o4711, 0o711)
    );
    let user = rustix::process::geteuid().as_raw();
    assert_eq!(fs::metadata(target.path("theirs")).unwrap().uid(), user);
}

#[test]
fn attributes_that_the_host_would_trust_are_left_out() {
    let mut target = Target::new();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let layer = Tar::new()
        .pax(&[
            ("SCHILY.xattr.user.note", b"hello"),
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.redirect", b"/"),
            ("SCHILY.xattr.security.selinux", b"x"),
        ])
        .file("ping", b"x");
    target.layer(layer).unwrap();
    let get = |name: &str| {
        let mut value = [0u8; 64];
        rustix::fs::lgetxattr(target.path("ping"), name, &mut value)
            .map(|length| value[..length].to_vec())
    };
    let mut left_out = 3;
    match get("user.note") {
        Ok(value) => assert_eq!(value, b"hello"),
        // Some file systems have none.
        Err(_) => left_out += 1,
    }
    match get("security.capability") {
        Ok(value) => assert_eq!(value, capability),
        Err(_) => left_out += 1,
    }
    assert!(get("trusted.overlay.opaque").is_err() && get("user.overlay.redirect").is_err());
    assert_eq!(target.unpacker.summary().attributes, left_out);
}
