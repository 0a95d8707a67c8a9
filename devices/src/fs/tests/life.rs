//! The device from activation to reset and back.

use std::fs;

use libc::{EBADF, EIO, ESTALE, O_RDONLY, O_RDWR};

use super::{Dir, client, device};
use crate::fs::FsSettings;
use crate::fs::spec::{Opcode, ROOT};
use crate::testkit::fuse::FuseClient;

#[test]
fn the_configuration_space_holds_tag_and_queues() {
    let dir = Dir::new();
    let settings = FsSettings {
        tag: "share".into(),
        request_queues: 3,
        ..FsSettings::default()
    };
    let mut client = FuseClient::start(device(settings, [dir.export("ro")]));
    let mut config = [0; 40];
    client.driver().transport().read(0x100, &mut config);
    assert_eq!(&config[..6], b"share\0");
    assert_eq!(&config[36..], [3, 0, 0, 0]);
    for queue in 1..=3 {
        let reply = client.call_on(queue, Opcode::Lookup as u32, ROOT, &[b"ro\0"], 4096);
        assert!(reply.is_ok(), "queue {queue} answers");
    }
}

#[test]
fn nothing_is_served_before_init() {
    let dir = Dir::new();
    let mut client = FuseClient::without_session(device(FsSettings::default(), [dir.export("ro")]));
    assert_eq!(client.lookup(ROOT, "ro").err(), Some(EIO));
    client.say_hello().expect("INIT");
    assert!(client.lookup(ROOT, "ro").is_ok());
    client.call(Opcode::Destroy, ROOT, &[], 0).expect("DESTROY");
    assert_eq!(client.lookup(ROOT, "ro").err(), Some(EIO));
}

#[test]
fn a_reset_forgets_everything() {
    let dir = Dir::new();
    dir.write("file", "x");
    let mut client = client(&dir);
    let node = client.walk("rw/file").expect("walk");
    let fh = client.open(node, O_RDONLY).expect("open").fh;
    client.driver().bring_up(!0);
    client.say_hello().expect("INIT");
    assert_eq!(client.getattr(node).err(), Some(ESTALE));
    assert_eq!(client.read(node, fh, 0, 1).err(), Some(EBADF));
    assert_ne!(
        client.walk("rw/file").expect("walk"),
        node,
        "numbers are not given twice"
    );
}

#[test]
fn a_pause_keeps_everything() {
    let dir = Dir::new();
    dir.write("file", "x");
    let mut client = client(&dir);
    let node = client.walk("rw/file").expect("walk");
    let fh = client.open(node, O_RDWR).expect("open").fh;
    fs::remove_file(dir.path("file")).expect("remove");
    client.driver().transport().pause();
    client.driver().transport().resume();
    assert_eq!(client.read(node, fh, 0, 1).expect("read"), b"x");
}

#[test]
fn another_device_takes_up_what_was_saved() {
    let dir = Dir::new();
    fs::create_dir(dir.path("sub")).expect("mkdir");
    dir.write("sub/kept", "kept");
    dir.write("sub/lost", "lost");
    let mut first = client(&dir);
    let sub = first.walk("rw/sub").expect("walk");
    let kept = first.walk("rw/sub/kept").expect("walk");
    let lost = first.walk("rw/sub/lost").expect("walk");
    let fh = first.open(kept, O_RDWR).expect("open").fh;
    let dh = first.opendir(sub).expect("opendir").fh;
    fs::remove_file(dir.path("sub/lost")).expect("remove");
    let exports = [dir.export("ro"), dir.export("rw").writable()];
    let next = device(FsSettings::default(), exports);
    let driver = first.driver();
    driver.transport().pause();
    let saved = driver.transport().save();
    driver.replace(Box::new(next), saved.clone());
    assert_eq!(driver.transport().save(), saved);
    driver.transport().resume();
    assert!(!first.driver().needs_reset());
    assert_eq!(first.read(kept, fh, 0, 9).expect("read"), b"kept");
    assert_eq!(first.write(kept, fh, 0, b"K"), Ok(1));
    assert_eq!(first.getattr(lost).err(), Some(ESTALE));
    assert!(first.list(Opcode::Readdir, sub, dh, 4096).is_ok());
    assert!(first.walk("rw/sub").is_ok());
}

#[test]
fn exports_come_and_go_while_the_device_runs() {
    let (one, two) = (Dir::new(), Dir::new());
    one.write("file", "1");
    let fs = device(FsSettings::default(), [one.export("one").writable()]);
    let exports = fs.exports();
    let mut client = FuseClient::start(fs);
    assert!(client.lookup(ROOT, "two").is_err());
    exports.add(two.export("two")).expect("add");
    assert!(exports.add(two.export("two")).is_err(), "names are unique");
    assert!(client.lookup(ROOT, "two").is_ok());
    let file = client.walk("one/file").expect("walk");
    let fh = client.open(file, O_RDWR).expect("open").fh;
    assert!(exports.remove("one"));
    assert!(!exports.remove("one"));
    assert_eq!(exports.names(), ["two"]);
    assert_eq!(client.getattr(file).err(), Some(ESTALE));
    assert_eq!(client.open(file, O_RDONLY).err(), Some(ESTALE));
    assert_eq!(client.read(file, fh, 0, 1).err(), Some(EBADF));
    exports.add(one.export("one")).expect("add again");
    assert_eq!(
        client.getattr(file).err(),
        Some(ESTALE),
        "a new export is not the old one"
    );
    assert!(client.walk("one/file").is_ok());
}
