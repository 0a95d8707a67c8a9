//! Attack case 12: device nodes, FIFOs, owners, set-id bits, privileged attributes.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use libc::{ENXIO, EOPNOTSUPP, EPERM, O_RDONLY, O_RDWR, O_WRONLY};
use libc::{S_IFBLK, S_IFCHR, S_IFIFO, S_IFREG, S_IFSOCK};

use super::{Dir, client, device, is_root};
use crate::fs::spec::Opcode;
use crate::fs::{FsSettings, XattrPolicy};
use crate::testkit::fuse::FuseClient;

#[test]
fn case_12_device_nodes_are_refused() {
    let dir = Dir::new();
    let mut client = client(&dir);
    let rw = client.walk("rw").expect("rw");
    for (mode, rdev) in [
        (S_IFBLK, 0x0801),
        (S_IFBLK, 0),
        (S_IFCHR, 0x0103),
        (S_IFCHR, 1),
        (0o170_000, 0),
        (0o040_000, 0),
        (0o120_000, 0),
    ] {
        assert_eq!(
            client.mknod(rw, "node", mode | 0o666, rdev).err(),
            Some(EPERM)
        );
    }
    assert!(!dir.path("node").exists());
    client
        .mknod(rw, "fifo", S_IFIFO | 0o600, 0)
        .expect("a FIFO");
    client
        .mknod(rw, "socket", S_IFSOCK | 0o600, 0)
        .expect("a socket");
    client
        .mknod(rw, "file", S_IFREG | 0o600, 0)
        .expect("a file");
    client.mknod(rw, "plain", 0o600, 0).expect("a file");
    assert!(fs::metadata(dir.path("plain")).expect("meta").is_file());
    let whiteout = client
        .mknod(rw, "whiteout", S_IFCHR, 0)
        .expect("overlayfs needs it");
    assert_eq!(whiteout.attr.rdev, 0);
}

#[test]
fn case_12_what_is_no_file_is_never_opened() {
    let dir = Dir::new();
    let mut client = client(&dir);
    let rw = client.walk("rw").expect("rw");
    let fifo = client
        .mknod(rw, "fifo", S_IFIFO | 0o600, 0)
        .expect("a FIFO")
        .nodeid;
    // To open it would wait for another end.
    for flags in [O_RDONLY, O_WRONLY, O_RDWR] {
        assert_eq!(client.open(fifo, flags).err(), Some(ENXIO));
        assert_eq!(client.create(rw, "fifo", flags, 0o600).err(), Some(ENXIO));
    }
    assert_eq!(
        client.getxattr(fifo, "user.x", 10).err(),
        Some(libc::ENODATA)
    );
    assert!(
        fs::symlink_metadata(dir.path("fifo"))
            .expect("meta")
            .file_type()
            .is_fifo()
    );
}

#[test]
fn case_12_new_files_belong_to_the_caller_and_get_set_id_bits_last() {
    if !is_root() {
        println!("skipped: only root gives files away");
        return;
    }
    let dir = Dir::new();
    let mut client = client(&dir);
    let rw = client.walk("rw").expect("rw");
    client.caller = (1234, 5678);
    let owner = |name: &str| {
        let meta = fs::symlink_metadata(dir.path(name)).expect("meta");
        (meta.uid(), meta.gid(), meta.mode() & 0o7777)
    };
    client.create(rw, "file", O_RDWR, 0o6755).expect("create");
    assert_eq!(owner("file"), (1234, 5678, 0o6755));
    client.mkdir(rw, "sub", 0o1777).expect("mkdir");
    assert_eq!(owner("sub"), (1234, 5678, 0o1777));
    client.symlink(rw, "link", "/etc/shadow").expect("symlink");
    assert_eq!((owner("link").0, owner("link").1), (1234, 5678));
    client.mknod(rw, "fifo", S_IFIFO | 0o600, 0).expect("mknod");
    assert_eq!(owner("fifo"), (1234, 5678, 0o600));
}

/// A server that may not give files away, as that of an ordinary user.
#[test]
fn case_12_a_file_that_cannot_be_given_away_has_no_set_id_bits() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let dir = Dir::new();
    // Workers have the capabilities of the thread that starts them.
    let made = std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let mut sets = capabilities(None).expect("capabilities");
            sets.effective -= CapabilitySet::CHOWN;
            set_capabilities(None, sets).expect("fewer capabilities");
            let mut client = client(&dir);
            let rw = client.walk("rw").expect("rw");
            client.caller = (1234, 5678);
            client.create(rw, "file", O_RDWR, 0o6755).expect("create");
            let made = client.mknod(rw, "other", S_IFREG | 0o6755, 0);
            made.expect("mknod");
        });
        server.join()
    });
    made.expect("the server's thread");
    for name in ["file", "other"] {
        let meta = fs::metadata(dir.path(name)).expect("meta");
        assert_eq!(meta.uid(), rustix::process::geteuid().as_raw());
        assert_eq!(meta.mode() & 0o7777, 0o755, "{name}");
    }
}

#[test]
fn case_12_no_stranger_gets_the_set_group_id_of_a_directory() {
    if !is_root() {
        println!("skipped: only root gives files away");
        return;
    }
    let dir = Dir::new();
    std::os::unix::fs::chown(&dir.0, Some(0), Some(42)).expect("chown");
    fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o2777)).expect("chmod");
    let mut client = client(&dir);
    let rw = client.walk("rw").expect("rw");
    client.caller = (1234, 5678);
    let mode = |name: &str| fs::metadata(dir.path(name)).expect("meta").mode() & 0o7777;
    let (entry, _) = client.create(rw, "file", O_RDWR, 0o2755).expect("create");
    assert_eq!(
        (entry.attr.uid, entry.attr.gid),
        (1234, 42),
        "the group is inherited"
    );
    assert_eq!(mode("file"), 0o755);
    client.mkdir(rw, "sub", 0o755).expect("mkdir");
    assert_eq!(mode("sub"), 0o2755, "a directory inherits the bit itself");
    client.caller = (1234, 42);
    client.create(rw, "member", O_RDWR, 0o2755).expect("create");
    assert_eq!(mode("member"), 0o2755);
}

#[test]
fn case_12_privileges_are_not_written_as_attributes() {
    let dir = Dir::new();
    dir.write("file", "x");
    for policy in [XattrPolicy::Off, XattrPolicy::User, XattrPolicy::Overlay] {
        let export = dir.export("rw").writable().xattr(policy);
        let mut client = FuseClient::start(device(FsSettings::default(), [export]));
        let node = client.walk("rw/file").expect("walk");
        for name in [
            "security.capability",
            "security.selinux",
            "security.ima",
            "trusted.x",
            "system.posix_acl_access",
            "user",
            "",
        ] {
            assert_eq!(client.setxattr(node, name, b"x"), Err(EOPNOTSUPP), "{name}");
            let name = [name.as_bytes(), b"\0"];
            let removed = client.call(Opcode::Removexattr, node, &name, 0);
            assert_eq!(removed.err(), Some(EOPNOTSUPP));
        }
        if policy == XattrPolicy::Off {
            assert_eq!(client.setxattr(node, "user.x", b"x"), Err(EOPNOTSUPP));
            assert_eq!(client.getxattr(node, "user.x", 10).err(), Some(EOPNOTSUPP));
        }
    }
}

#[test]
fn owners_that_are_hidden_from_the_server_are_shown_as_root() {
    if !is_root() {
        println!("skipped: only root makes a file that is nobody's");
        return;
    }
    const NOBODY: u32 = 65534;
    let dir = Dir::new();
    dir.write("file", "");
    std::os::unix::fs::chown(dir.path("file"), Some(NOBODY), Some(NOBODY)).expect("chown");
    for (hides_ids, shown) in [(false, NOBODY), (true, 0)] {
        let settings = FsSettings {
            hides_ids,
            ..FsSettings::default()
        };
        let mut client = FuseClient::start(device(settings, [dir.export("rw")]));
        let node = client.walk("rw/file").expect("walk");
        let attr = client.getattr(node).expect("getattr").attr;
        assert_eq!((attr.uid, attr.gid), (shown, shown));
        let rw = client.walk("rw").expect("walk");
        let entry = client.lookup(rw, "file").expect("lookup");
        assert_eq!((entry.attr.uid, entry.attr.gid), (shown, shown));
    }
}
