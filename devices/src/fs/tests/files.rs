//! What is done with open files beyond reading and writing.

use std::os::unix::fs::symlink;

use libc::{ENODATA, ERANGE, ESTALE, O_RDONLY, O_RDWR};
use zerocopy::{FromBytes, IntoBytes};

use super::{Dir, client, device};
use crate::fs::FsSettings;
use crate::fs::spec::{self, Opcode, ROOT, StatfsOut};
use crate::testkit::fuse::FuseClient;

#[test]
fn extended_attributes() {
    let dir = Dir::new();
    dir.write("file", "x");
    let mut client = client(&dir);
    let node = client.walk("rw/file").expect("walk");
    if client.setxattr(node, "user.a", b"value") == Err(libc::EOPNOTSUPP) {
        println!("skipped: no extended attributes on this file system");
        return;
    }
    assert_eq!(client.getxattr(node, "user.a", 100).expect("get"), b"value");
    assert_eq!(
        client.getxattr(node, "user.a", 0).expect("size"),
        [5, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(client.getxattr(node, "user.a", 2).err(), Some(ERANGE));
    assert_eq!(client.getxattr(node, "user.b", 100).err(), Some(ENODATA));
    let args = spec::GetxattrIn {
        size: 100,
        padding: 0,
    };
    let list = client
        .call(Opcode::Listxattr, node, &[args.as_bytes()], 100)
        .expect("list");
    assert!(list.windows(7).any(|name| name == b"user.a\0"));
    let name = [&b"user.a\0"[..]];
    client
        .call(Opcode::Removexattr, node, &name, 0)
        .expect("remove");
    assert_eq!(client.getxattr(node, "user.a", 100).err(), Some(ENODATA));
}

#[test]
fn holes_copies_and_space() {
    let dir = Dir::new();
    let mut client = client(&dir);
    let rw = client.walk("rw").expect("rw");
    let (a, fa) = client.create(rw, "a", O_RDWR, 0o600).expect("create");
    let (b, fb) = client.create(rw, "b", O_RDWR, 0o600).expect("create");
    client.write(a.nodeid, fa.fh, 0, b"copy me").expect("write");
    let copy = spec::CopyFileRangeIn {
        fh_in: fa.fh,
        nodeid_out: b.nodeid,
        fh_out: fb.fh,
        off_out: 2,
        len: 7,
        ..spec::CopyFileRangeIn::default()
    };
    client
        .call(Opcode::CopyFileRange, a.nodeid, &[copy.as_bytes()], 8)
        .expect("copy");
    assert_eq!(dir.read("b"), b"\0\0copy me");
    let space = spec::FallocateIn {
        fh: fa.fh,
        length: 1 << 16,
        ..spec::FallocateIn::default()
    };
    client
        .call(Opcode::Fallocate, a.nodeid, &[space.as_bytes()], 0)
        .expect("fallocate");
    assert_eq!(client.getattr(a.nodeid).expect("attr").attr.size, 1 << 16);
    let seek = spec::LseekIn {
        fh: fa.fh,
        whence: 4,
        ..spec::LseekIn::default()
    };
    client
        .call(Opcode::Lseek, a.nodeid, &[seek.as_bytes()], 8)
        .expect("SEEK_HOLE");
    for fsync_flags in [0, spec::FSYNC_FDATASYNC] {
        let sync = spec::FsyncIn {
            fh: fa.fh,
            fsync_flags,
            ..spec::FsyncIn::default()
        };
        client
            .call(Opcode::Fsync, a.nodeid, &[sync.as_bytes()], 0)
            .expect("fsync");
    }
    let reply = client.call(Opcode::Statfs, rw, &[], 4096).expect("statfs");
    assert!(StatfsOut::read_from_bytes(&reply).expect("statfs").blocks > 0);
    client
        .call(Opcode::Statfs, ROOT, &[], 4096)
        .expect("statfs of the root");
}

#[test]
fn a_file_without_a_name_lives_as_long_as_it_is_open() {
    let dir = Dir::new();
    let settings = FsSettings {
        max_node_fds: 1,
        ..FsSettings::default()
    };
    let mut client = FuseClient::start(device(settings, [dir.export("rw").writable()]));
    let rw = client.walk("rw").expect("rw");
    let (entry, file) = client.create(rw, "gone", O_RDWR, 0o600).expect("create");
    client
        .write(entry.nodeid, file.fh, 0, b"still here")
        .expect("write");
    client.unlink(Opcode::Unlink, rw, "gone").expect("unlink");
    dir.write("other", "");
    let other = client.walk("rw/other").expect("other");
    client
        .open(other, O_RDONLY)
        .expect("takes the only cached descriptor");
    assert_eq!(client.getattr(entry.nodeid).expect("attr").attr.nlink, 0);
    assert_eq!(
        client.read(entry.nodeid, file.fh, 0, 100).expect("read"),
        b"still here"
    );
    client.release(entry.nodeid, file.fh).expect("release");
    assert_eq!(client.getattr(entry.nodeid).err(), Some(ESTALE));
}

#[test]
fn a_temporary_file_can_be_given_a_name() {
    let dir = Dir::new();
    let mut client = client(&dir);
    let rw = client.walk("rw").expect("rw");
    let made = client.create_by(Opcode::Tmpfile, rw, "#1", O_RDWR, 0o600);
    if made.as_ref().err() == Some(&libc::EOPNOTSUPP) {
        println!("skipped: no O_TMPFILE on this file system");
        return;
    }
    let (entry, file) = made.expect("tmpfile");
    client
        .write(entry.nodeid, file.fh, 0, b"named later")
        .expect("write");
    let named = client.link(entry.nodeid, rw, "named").expect("link");
    assert_eq!(named.nodeid, entry.nodeid);
    assert_eq!(dir.read("named"), b"named later");
}

#[test]
fn links_are_listed_as_what_they_are() {
    let dir = Dir::new();
    symlink("nowhere", dir.path("link")).expect("symlink");
    dir.write("file", "");
    let mut client = client(&dir);
    let rw = client.walk("rw").expect("rw");
    let fh = client.opendir(rw).expect("opendir").fh;
    let entries = client
        .list(Opcode::Readdirplus, rw, fh, 4096)
        .expect("list");
    for entry in &entries {
        let plus = entry.plus.expect("plus");
        if entry.name.starts_with('.') {
            assert_eq!(plus.nodeid, 0, "dots are not looked up");
        } else {
            assert_eq!(plus.attr.mode >> 12, entry.dirent.kind);
            assert_eq!(
                client.lookup(rw, &entry.name).expect("lookup").nodeid,
                plus.nodeid
            );
        }
    }
    assert_eq!(entries.len(), 4);
}
