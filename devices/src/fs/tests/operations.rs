//! Each operation does what Linux expects of it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use libc::{EEXIST, EINVAL, ENOENT, ENOTEMPTY, EXDEV};
use libc::{O_APPEND, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};
use zerocopy::IntoBytes;

use super::{Dir, client, device, is_root, open};
use crate::fs::spec::{self, Opcode, ROOT, SetattrIn, fattr};
use crate::fs::{CachePolicy, Export, FsSettings};
use crate::testkit::fuse::FuseClient;
use zerocopy::FromBytes;

fn names(client: &mut FuseClient, node: u64, opcode: Opcode, size: u32) -> Vec<String> {
    let fh = client.opendir(node).expect("opendir").fh;
    let entries = client.list(opcode, node, fh, size).expect("list");
    client.release(node, fh).expect("release");
    let mut names: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
    names.sort();
    names
}

#[test]
fn the_root_lists_the_exports_and_nothing_else() {
    let dir = Dir::new();
    let mut client = client(&dir);
    assert_eq!(client.init.major, 7);
    assert_eq!(client.init.max_write, 1 << 20);
    let attr = client.getattr(ROOT).expect("root").attr;
    assert_eq!(attr.mode, 0o40555);
    for opcode in [Opcode::Readdir, Opcode::Readdirplus] {
        assert_eq!(
            names(&mut client, ROOT, opcode, 4096),
            [".", "..", "ro", "rw"]
        );
        assert_eq!(
            names(&mut client, ROOT, opcode, 200),
            [".", "..", "ro", "rw"]
        );
    }
    assert_eq!(client.lookup(ROOT, "other").err(), Some(ENOENT));
}

#[test]
fn a_file_is_found_read_and_released() {
    let dir = Dir::new();
    fs::create_dir(dir.path("sub")).expect("mkdir");
    dir.write("sub/file", "hello, guest");
    let mut client = client(&dir);
    let node = client.walk("ro/sub/file").expect("walk");
    let attr = client.getattr(node).expect("getattr").attr;
    assert_eq!((attr.size, attr.mode & 0o170_000), (12, 0o100_000));
    let fh = client.open(node, O_RDONLY).expect("open").fh;
    assert_eq!(
        client.read(node, fh, 0, 4096).expect("read"),
        b"hello, guest"
    );
    assert_eq!(client.read(node, fh, 7, 3).expect("read"), b"gue");
    assert_eq!(client.read(node, fh, 100, 3).expect("read"), b"");
    client.release(node, fh).expect("release");
    assert!(client.read(node, fh, 0, 1).is_err());
}

#[test]
fn what_is_created_and_written_is_on_the_host() {
    let dir = Dir::new();
    let mut client = client(&dir);
    let rw = client.walk("rw").expect("rw");
    let (entry, file) = client
        .create(rw, "new", O_RDWR | O_EXCL, 0o640)
        .expect("create");
    let node = entry.nodeid;
    assert_eq!(client.write(node, file.fh, 0, b"0123456789"), Ok(10));
    assert_eq!(client.write(node, file.fh, 4, b"xy"), Ok(2));
    assert_eq!(dir.read("new"), b"0123xy6789");
    assert_eq!(
        client.write_with(node, file.fh, 0, b"!", 0, O_APPEND),
        Ok(1)
    );
    assert_eq!(dir.read("new"), b"0123xy6789!");
    let meta = fs::metadata(dir.path("new")).expect("meta");
    assert_eq!(
        meta.permissions().mode() & 0o7777,
        0o640,
        "the process's mask plays no part"
    );
    assert_eq!(
        client.create(rw, "new", O_RDWR | O_EXCL, 0o640).err(),
        Some(EEXIST)
    );
    let (again, other) = client
        .create(rw, "new", O_RDWR | O_TRUNC, 0o600)
        .expect("open");
    assert_eq!(again.nodeid, node);
    assert_eq!(dir.read("new"), b"");
    client.release(node, other.fh).expect("release");
    let reader = client.open(node, O_RDONLY).expect("open");
    assert!(client.write(node, reader.fh, 0, b"no").is_err());
}

#[test]
fn a_megabyte_goes_both_ways_in_one_request() {
    let dir = Dir::new();
    let mut client = client(&dir);
    let rw = client.walk("rw").expect("rw");
    let (entry, file) = client.create(rw, "big", O_RDWR, 0o600).expect("create");
    let data: Vec<u8> = (0..1u32 << 20).map(|i| ((i * 7) >> 3) as u8).collect();
    assert_eq!(client.write(entry.nodeid, file.fh, 0, &data), Ok(1 << 20));
    let back = client
        .read(entry.nodeid, file.fh, 0, 1 << 20)
        .expect("read");
    assert!(back == data);
}

#[test]
fn directories_links_and_names() {
    let dir = Dir::new();
    let mut client = client(&dir);
    let rw = client.walk("rw").expect("rw");
    let sub = client.mkdir(rw, "sub", 0o755).expect("mkdir").nodeid;
    let link = client.symlink(sub, "link", "../../etc").expect("symlink");
    assert_eq!(client.readlink(link.nodeid).as_deref(), Ok("../../etc"));
    dir.write("sub/file", "x");
    let file = client.walk("rw/sub/file").expect("walk");
    let hard = client.link(file, rw, "hard").expect("link");
    assert_eq!((hard.nodeid, hard.attr.nlink), (file, 2));
    assert_eq!(client.unlink(Opcode::Rmdir, rw, "sub"), Err(ENOTEMPTY));
    client
        .rename((sub, "file"), (rw, "moved"), 0)
        .expect("rename");
    assert_eq!(client.lookup(rw, "moved").expect("moved").nodeid, file);
    assert_eq!(
        client.rename((rw, "moved"), (rw, "hard"), 1),
        Err(EEXIST),
        "NOREPLACE"
    );
    client
        .rename((rw, "sub"), (rw, "moved"), 2)
        .expect("EXCHANGE");
    assert_eq!(client.lookup(rw, "sub").expect("swapped").nodeid, file);
    assert_eq!(client.lookup(rw, "moved").expect("swapped").nodeid, sub);
    assert_eq!(
        client.readlink(link.nodeid).as_deref(),
        Ok("../../etc"),
        "found at its new place"
    );
    client.unlink(Opcode::Unlink, sub, "link").expect("unlink");
    client.unlink(Opcode::Rmdir, rw, "moved").expect("rmdir");
    assert_eq!(client.lookup(rw, "moved").err(), Some(ENOENT));
    let ro = client.walk("ro").expect("ro");
    assert!(client.rename((rw, "sub"), (ro, "sub"), 0).is_err());
    assert_eq!(client.rename((rw, "sub"), (rw, "x"), 8), Err(EINVAL));
}

#[test]
fn names_do_not_move_between_exports() {
    let (one, two) = (Dir::new(), Dir::new());
    one.write("file", "1");
    let exports = [one.export("one").writable(), two.export("two").writable()];
    let mut client = FuseClient::start(device(FsSettings::default(), exports));
    let (from, to) = (
        client.walk("one").expect("one"),
        client.walk("two").expect("two"),
    );
    assert_eq!(client.rename((from, "file"), (to, "file"), 0), Err(EXDEV));
    let file = client.walk("one/file").expect("file");
    assert_eq!(client.link(file, to, "file").err(), Some(EXDEV));
}

#[test]
fn a_file_can_be_an_export() {
    let dir = Dir::new();
    dir.write("resolv.conf", "nameserver 10.0.0.1\n");
    dir.write("hosts", "127.0.0.1 localhost\n");
    let file = |name: &str| Export::new(name, open(&dir.path(name))).expect("export");
    let exports = [file("resolv.conf"), file("hosts").writable()];
    let mut client = FuseClient::start(device(FsSettings::default(), exports));
    let node = client.walk("resolv.conf").expect("lookup");
    let fh = client.open(node, O_RDONLY).expect("open").fh;
    assert_eq!(
        client.read(node, fh, 0, 100).expect("read"),
        b"nameserver 10.0.0.1\n"
    );
    assert!(client.open(node, O_WRONLY).is_err());
    assert!(client.lookup(node, "x").is_err());
    assert!(client.opendir(node).is_err());
    let node = client.walk("hosts").expect("lookup");
    let fh = client.open(node, O_WRONLY).expect("open").fh;
    assert_eq!(client.write(node, fh, 0, b"# "), Ok(2));
}

#[test]
fn attributes_change() {
    let dir = Dir::new();
    dir.write("file", "0123456789");
    let mut client = client(&dir);
    let node = client.walk("rw/file").expect("walk");
    let set = |client: &mut FuseClient, args: SetattrIn| {
        client.call(Opcode::Setattr, node, &[args.as_bytes()], 4096)
    };
    let args = SetattrIn {
        valid: fattr::MODE | fattr::SIZE | fattr::MTIME,
        mode: 0o100_751,
        size: 4,
        mtime: 1_000_000_000,
        mtimensec: 5,
        ..SetattrIn::default()
    };
    let reply = set(&mut client, args).expect("setattr");
    let attr = spec::AttrOut::read_from_bytes(&reply).expect("attr").attr;
    assert_eq!(
        (attr.mode, attr.size, attr.mtime),
        (0o100_751, 4, 1_000_000_000)
    );
    let meta = fs::metadata(dir.path("file")).expect("meta");
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_000_000_000, 5));
    let bad = SetattrIn {
        valid: fattr::ATIME,
        atimensec: 0x3fff_ffff,
        ..SetattrIn::default()
    };
    assert_eq!(
        set(&mut client, bad).err(),
        Some(EINVAL),
        "UTIME_NOW is not for the guest"
    );
    let huge = SetattrIn {
        valid: fattr::SIZE,
        size: u64::MAX,
        ..SetattrIn::default()
    };
    assert_eq!(set(&mut client, huge).err(), Some(EINVAL));
}

#[test]
fn set_id_bits_go_when_the_guest_says_so() {
    let dir = Dir::new();
    dir.write("file", "x");
    let path = dir.path("file");
    let mut client = client(&dir);
    let node = client.walk("rw/file").expect("walk");
    let fh = client.open(node, O_RDWR).expect("open").fh;
    let arm = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
    let mode = || fs::metadata(&path).expect("meta").mode() & 0o7777;
    arm(0o6755);
    client
        .write_with(node, fh, 0, b"y", spec::WRITE_KILL_SUIDGID, 0)
        .expect("write");
    assert_eq!(mode(), 0o755);
    arm(0o6745);
    client
        .write_with(node, fh, 0, b"y", spec::WRITE_KILL_SUIDGID, 0)
        .expect("write");
    assert_eq!(
        mode(),
        0o2745,
        "without group execution it marks mandatory locking"
    );
    if is_root() {
        arm(0o6755);
        client.write(node, fh, 0, b"y").expect("write");
        assert_eq!(mode(), 0o6755, "a privileged writer keeps them");
    }
}

#[test]
fn the_cache_policy_is_what_the_guest_is_told() {
    let dir = Dir::new();
    dir.write("file", "x");
    for (policy, seconds, open_flags) in [
        (CachePolicy::Never, 0, spec::fopen::DIRECT_IO),
        (CachePolicy::Auto, 1, 0),
        (CachePolicy::Always, 86_400, spec::fopen::KEEP_CACHE),
    ] {
        let export = dir.export("rw").writable().cache(policy);
        let mut client = FuseClient::start(device(FsSettings::default(), [export]));
        let rw = client.walk("rw").expect("rw");
        let entry = client.lookup(rw, "file").expect("lookup");
        assert_eq!((entry.entry_valid, entry.attr_valid), (seconds, seconds));
        let attr = client.getattr(entry.nodeid).expect("getattr");
        assert_eq!(attr.attr_valid, seconds);
        let open = client.open(entry.nodeid, O_RDONLY).expect("open");
        assert_eq!(open.open_flags, open_flags);
        let absent = client.lookup(rw, "absent");
        if policy == CachePolicy::Always {
            let absent = absent.expect("absence may be cached");
            assert_eq!((absent.nodeid, absent.entry_valid), (0, 86_400));
        } else {
            assert_eq!(absent.err(), Some(ENOENT));
        }
        assert_eq!(
            client.lookup(ROOT, "later").err(),
            Some(ENOENT),
            "exports may come"
        );
    }
}
