//! What a hostile guest, or a hostile neighbour of it on the host, tries.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{EINVAL, ELOOP, ENAMETOOLONG, ENOTDIR, EOPNOTSUPP, EROFS, ESTALE};
use libc::{O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, S_IFREG};
use zerocopy::IntoBytes;

use super::{Dir, client, device};
use crate::fs::FsSettings;
use crate::fs::spec::{
    CopyFileRangeIn, CreateIn, FallocateIn, Opcode, Rename2In, SetattrIn, fattr,
};
use crate::testkit::fuse::FuseClient;

#[test]
fn case_11_a_link_is_never_followed_by_the_server() {
    let dir = Dir::new();
    let outside = Dir::new();
    outside.write("secret", "secret");
    fs::create_dir(dir.path("real")).expect("mkdir");
    symlink(&outside.0, dir.path("abs")).expect("symlink");
    symlink("..", dir.path("up")).expect("symlink");
    symlink("real", dir.path("inner")).expect("symlink");
    symlink(outside.path("secret"), dir.path("file")).expect("symlink");
    let mut client = client(&dir);
    let rw = client.walk("rw").expect("rw");
    for name in ["abs", "up", "inner", "file"] {
        let link = client.lookup(rw, name).expect("the link itself");
        assert_eq!(link.attr.mode >> 12, 0o12);
        assert_eq!(
            client.lookup(link.nodeid, "secret").err(),
            Some(ENOTDIR),
            "{name}"
        );
        assert_eq!(
            client.create(link.nodeid, "new", O_RDWR, 0o600).err(),
            Some(ENOTDIR)
        );
        assert_eq!(client.mkdir(link.nodeid, "new", 0o700).err(), Some(ENOTDIR));
        assert_eq!(client.open(link.nodeid, O_RDONLY).err(), Some(ELOOP));
        assert_eq!(client.opendir(link.nodeid).err(), Some(ENOTDIR));
        assert_eq!(
            client.rename((rw, "real"), (link.nodeid, "x"), 0).err(),
            Some(ENOTDIR)
        );
        let args = SetattrIn {
            valid: fattr::SIZE,
            ..SetattrIn::default()
        };
        let cut = client.call(Opcode::Setattr, link.nodeid, &[args.as_bytes()], 4096);
        assert_eq!(cut.err(), Some(ELOOP));
        let args = SetattrIn {
            valid: fattr::MODE,
            mode: 0o777,
            ..SetattrIn::default()
        };
        let chmod = client.call(Opcode::Setattr, link.nodeid, &[args.as_bytes()], 4096);
        assert_eq!(chmod.err(), Some(EOPNOTSUPP));
        // CREATE over a link must not create or open what it points to.
        assert!(client.create(rw, name, O_RDWR | O_TRUNC, 0o600).is_err());
    }
    assert_eq!(outside.read("secret"), b"secret");
    assert_eq!(fs::read_dir(&outside.0).expect("readdir").count(), 1);
}

#[test]
fn case_11_names_that_lead_elsewhere_are_refused_by_each_operation() {
    let dir = Dir::new();
    dir.write("file", "");
    let mut client = client(&dir);
    let rw = client.walk("rw").expect("rw");
    let file = client.walk("rw/file").expect("file");
    let long = "x".repeat(256);
    for (name, errno) in [
        ("", EINVAL),
        (".", EINVAL),
        ("..", EINVAL),
        ("../file", EINVAL),
        ("/etc/passwd", EINVAL),
        ("a/b", EINVAL),
        (&long, ENAMETOOLONG),
    ] {
        assert_eq!(client.lookup(rw, name).err(), Some(errno), "{name:?}");
        assert_eq!(client.create(rw, name, O_RDWR, 0o600).err(), Some(errno));
        assert_eq!(client.mkdir(rw, name, 0o700).err(), Some(errno));
        assert_eq!(client.mknod(rw, name, S_IFREG, 0).err(), Some(errno));
        assert_eq!(client.symlink(rw, name, "x").err(), Some(errno));
        assert_eq!(client.link(file, rw, name).err(), Some(errno));
        assert_eq!(client.unlink(Opcode::Unlink, rw, name).err(), Some(errno));
        assert_eq!(client.unlink(Opcode::Rmdir, rw, name).err(), Some(errno));
        assert_eq!(client.rename((rw, name), (rw, "x"), 0).err(), Some(errno));
        assert_eq!(
            client.rename((rw, "file"), (rw, name), 0).err(),
            Some(errno)
        );
    }
    assert_eq!(fs::read_dir(&dir.0).expect("readdir").count(), 1);
}

/// A neighbour on the host swaps a directory for a link while the guest works below it. One
/// cached descriptor makes each walk start from the export again.
#[test]
fn case_11_a_directory_swapped_for_a_link_leads_nowhere() {
    let dir = Dir::new();
    let outside = Dir::new();
    outside.write("file", "outside");
    fs::create_dir_all(dir.path("a/b")).expect("mkdir");
    dir.write("a/b/file", "inside");
    symlink(&outside.0, dir.path("link")).expect("symlink");
    let settings = FsSettings {
        max_node_fds: 1,
        ..FsSettings::default()
    };
    let mut client = FuseClient::start(device(settings, [dir.export("rw").writable()]));
    let stop = AtomicBool::new(false);
    let (b, link, file) = (dir.path("a/b"), dir.path("link"), outside.path("file"));
    let mut seen = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let cwd = rustix::fs::CWD;
                rustix::fs::renameat_with(cwd, &b, cwd, &link, flags).expect("exchange");
            }
        });
        for round in 0..2000 {
            let Ok(node) = client.walk("rw/a/b/file") else {
                continue;
            };
            if let Ok(open) = client.open(node, O_RDWR) {
                assert_eq!(client.read(node, open.fh, 0, 10).expect("read"), b"inside");
                client.release(node, open.fh).expect("release");
                seen += 1;
            }
            if let Ok(parent) = client.walk("rw/a/b")
                && client
                    .create(parent, &format!("new{round}"), O_RDWR, 0o600)
                    .is_ok()
            {
                seen += 1;
            }
            let _ = client.unlink(Opcode::Unlink, node, "file");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(seen > 0, "the directory was there at times");
    assert_eq!(fs::read(file).expect("still there"), b"outside");
    assert_eq!(fs::read_dir(&outside.0).expect("readdir").count(), 1);
}

/// A directory that was moved out, with a link to it in its place: the same file, but outside.
#[test]
fn case_11_a_node_is_not_found_again_through_a_link() {
    let dir = Dir::new();
    let outside = Dir::new();
    fs::create_dir_all(dir.path("a/b")).expect("mkdir");
    dir.write("a/b/file", "x");
    dir.write("other", "");
    let settings = FsSettings {
        max_node_fds: 1,
        ..FsSettings::default()
    };
    let mut client = FuseClient::start(device(settings, [dir.export("rw").writable()]));
    let file = client.walk("rw/a/b/file").expect("walk");
    let other = client.walk("rw/other").expect("walk");
    client
        .open(other, O_RDONLY)
        .expect("takes the only cached descriptor");
    fs::rename(dir.path("a"), outside.path("a")).expect("move out");
    symlink(outside.path("a"), dir.path("a")).expect("symlink");
    assert_eq!(client.open(file, O_RDONLY).err(), Some(ESTALE));
}

#[test]
fn case_11_another_file_of_the_same_name_is_another_node() {
    let dir = Dir::new();
    dir.write("file", "old");
    dir.write("new", "new");
    dir.write("other", "");
    let settings = FsSettings {
        max_node_fds: 1,
        ..FsSettings::default()
    };
    let mut client = FuseClient::start(device(settings, [dir.export("rw").writable()]));
    let file = client.walk("rw/file").expect("walk");
    let other = client.walk("rw/other").expect("walk");
    client
        .open(other, O_RDONLY)
        .expect("takes the only cached descriptor");
    fs::rename(dir.path("new"), dir.path("file")).expect("rename");
    assert_eq!(client.open(file, O_RDWR | O_TRUNC).err(), Some(ESTALE));
    assert_eq!(client.getattr(file).err(), Some(ESTALE));
    assert_ne!(client.walk("rw/file").expect("walk"), file);
    assert_eq!(dir.read("file"), b"new");
}

/// CVE-2022-0358: in a set-group-id directory of a group that the caller is no member of.
#[test]
fn case_13_a_read_only_export_is_not_changed_by_any_operation() {
    let dir = Dir::new();
    dir.write("file", "content");
    fs::create_dir(dir.path("sub")).expect("mkdir");
    let before = fs::metadata(dir.path("file")).expect("meta");
    let mut client = client(&dir);
    let (ro, rw) = (
        client.walk("ro").expect("ro"),
        client.walk("rw").expect("rw"),
    );
    let file = client.walk("ro/file").expect("file");
    let writable = client.walk("rw/file").expect("file");
    assert_ne!(file, writable, "the terms go with the node");
    for flags in [O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, O_WRONLY | O_TRUNC] {
        assert_eq!(client.open(file, flags).err(), Some(EROFS), "{flags:#o}");
    }
    for opcode in [Opcode::Create, Opcode::Tmpfile] {
        let made = client.create_by(opcode, ro, "file", O_RDONLY, 0o600);
        assert_eq!(made.err(), Some(EROFS));
    }
    assert_eq!(client.mkdir(ro, "x", 0o700).err(), Some(EROFS));
    assert_eq!(client.mknod(ro, "x", S_IFREG, 0).err(), Some(EROFS));
    assert_eq!(client.symlink(ro, "x", "y").err(), Some(EROFS));
    assert_eq!(client.link(file, ro, "x").err(), Some(EROFS));
    assert_eq!(client.link(file, rw, "x").err(), Some(EROFS));
    assert_eq!(client.link(writable, ro, "x").err(), Some(EROFS));
    assert_eq!(client.unlink(Opcode::Unlink, ro, "file"), Err(EROFS));
    assert_eq!(client.unlink(Opcode::Rmdir, ro, "sub"), Err(EROFS));
    assert_eq!(client.rename((ro, "file"), (ro, "x"), 0), Err(EROFS));
    assert_eq!(client.rename((rw, "file"), (ro, "x"), 0), Err(EROFS));
    assert_eq!(client.rename((ro, "file"), (rw, "x"), 0), Err(EROFS));
    assert_eq!(client.setxattr(file, "user.x", b"x"), Err(EROFS));
    for valid in [fattr::MODE, fattr::UID, fattr::SIZE, fattr::MTIME_NOW, 0] {
        let args = SetattrIn {
            valid,
            ..SetattrIn::default()
        };
        let set = client.call(Opcode::Setattr, file, &[args.as_bytes()], 4096);
        assert_eq!(set.err(), Some(EROFS));
    }
    let fh = client.open(file, O_RDONLY).expect("open").fh;
    assert!(client.write(file, fh, 0, b"x").is_err());
    let space = FallocateIn {
        fh,
        length: 100,
        ..FallocateIn::default()
    };
    assert!(
        client
            .call(Opcode::Fallocate, file, &[space.as_bytes()], 0)
            .is_err()
    );
    let copy = CopyFileRangeIn {
        fh_in: fh,
        nodeid_out: file,
        fh_out: fh,
        len: 1,
        ..CopyFileRangeIn::default()
    };
    assert!(
        client
            .call(Opcode::CopyFileRange, file, &[copy.as_bytes()], 8)
            .is_err()
    );
    let after = fs::metadata(dir.path("file")).expect("meta");
    assert_eq!(
        (after.ctime(), after.ctime_nsec()),
        (before.ctime(), before.ctime_nsec())
    );
    assert_eq!(fs::read_dir(&dir.0).expect("readdir").count(), 2);
}

#[test]
fn case_13_the_root_is_not_changed_either() {
    let dir = Dir::new();
    let mut client = client(&dir);
    let rw = client.walk("rw").expect("rw");
    let root = crate::fs::spec::ROOT;
    assert_eq!(client.mkdir(root, "x", 0o700).err(), Some(EROFS));
    assert_eq!(client.create(root, "x", O_RDWR, 0o600).err(), Some(EROFS));
    assert_eq!(client.unlink(Opcode::Rmdir, root, "rw"), Err(EROFS));
    assert_eq!(client.rename((root, "rw"), (root, "x"), 0), Err(EROFS));
    assert_eq!(client.rename((rw, "x"), (root, "x"), 0), Err(EROFS));
    assert_eq!(client.link(rw, root, "x").err(), Some(EROFS));
}

#[test]
fn case_27_a_directory_reply_holds_nothing_but_its_entries() {
    let dir = Dir::new();
    for len in 1..=255 {
        dir.write(&"n".repeat(len), "");
    }
    let mut client = client(&dir);
    let rw = client.walk("rw").expect("rw");
    for opcode in [Opcode::Readdir, Opcode::Readdirplus] {
        for size in [440, 4096, 1 << 17] {
            let fh = client.opendir(rw).expect("opendir").fh;
            // The client checks each entry's length, name and padding.
            let entries = client.list(opcode, rw, fh, size).expect("list");
            assert_eq!(entries.len(), 257, "{opcode:?} in {size} bytes");
            let up = entries.iter().find(|entry| entry.name == "..").expect("..");
            assert_eq!(up.dirent.ino, 0xffff_ffff, "what is above is not told");
            client.release(rw, fh).expect("release");
        }
        let fh = client.opendir(rw).expect("opendir").fh;
        for size in [0, 1, 8, 23, 24, 31] {
            let entries = client.list(opcode, rw, fh, size).expect("list");
            assert!(entries.is_empty(), "no part of an entry in {size} bytes");
        }
    }
}

#[test]
fn odd_flags_and_numbers_are_refused_or_dropped() {
    let dir = Dir::new();
    dir.write("file", "x");
    let mut client = client(&dir);
    let rw = client.walk("rw").expect("rw");
    let file = client.walk("rw/file").expect("file");
    assert_eq!(
        client.open(file, 3).err(),
        Some(EINVAL),
        "no such access mode"
    );
    let odd = libc::O_PATH | libc::O_DIRECTORY | libc::O_ASYNC | libc::O_DIRECT;
    let fh = client.open(file, O_RDWR | odd).expect("dropped").fh;
    assert_eq!(client.write(file, fh, 0, b"y"), Ok(1));
    assert_eq!(
        client.write(file, fh, i64::MAX as u64 + 1, b"y"),
        Err(EINVAL)
    );
    assert_eq!(client.read(file, fh, u64::MAX, 1).err(), Some(EINVAL));
    for (offset, length) in [(u64::MAX, 1), (1, u64::MAX), (0, 1 << 63), (0, 0)] {
        let args = FallocateIn {
            fh,
            offset,
            length,
            ..FallocateIn::default()
        };
        let done = client.call(Opcode::Fallocate, file, &[args.as_bytes()], 0);
        assert_eq!(done.err(), Some(EINVAL));
    }
    let args = CreateIn {
        flags: !0,
        mode: !0,
        ..CreateIn::default()
    };
    let made = client.call(Opcode::Create, rw, &[args.as_bytes(), b"x\0"], 4096);
    assert_eq!(made.err(), Some(EINVAL));
    let args = Rename2In {
        newdir: rw,
        flags: !0,
        padding: 0,
    };
    let moved = client.call(Opcode::Rename2, rw, &[args.as_bytes(), b"file\0x\0"], 0);
    assert_eq!(moved.err(), Some(EINVAL));
}
