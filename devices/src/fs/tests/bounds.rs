//! Nothing grows without bound, nothing malformed gets through.

use std::fs;
use std::sync::Arc;

use libc::{EBADF, EINVAL, ENFILE, ENOSYS, ESTALE, O_RDONLY};
use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

use super::{Dir, client, device};
use crate::fs::FsSettings;
use crate::fs::spec::{BatchForgetIn, InHeader, Opcode, ReadIn};
use crate::testkit::fuse::{FuseClient, HIPRIO};

const FILES: usize = 100_000;
const DIRS: usize = 100;

fn forget_all(client: &mut FuseClient, nodes: &[u64]) {
    for nodes in nodes.chunks(1000) {
        let mut body = BatchForgetIn {
            count: nodes.len() as u32,
            dummy: 0,
        }
        .as_bytes()
        .to_vec();
        for node in nodes {
            body.extend_from_slice(&node.to_le_bytes());
            body.extend_from_slice(&1u64.to_le_bytes());
        }
        let header = client.header(Opcode::BatchForget as u32, 0, body.len());
        let driver = client.driver();
        assert!(
            driver
                .request(HIPRIO, &[header.as_bytes(), &body], &[])
                .is_empty()
        );
    }
}

#[test]
fn a_tree_of_100_000_files_is_walked_with_a_few_descriptors() {
    let dir = Dir::in_memory();
    for d in 0..DIRS {
        let path = dir.path(&d.to_string());
        fs::create_dir(&path).expect("mkdir");
        for f in 0..FILES / DIRS {
            let file = path.join(f.to_string());
            rustix::fs::mknodat(
                rustix::fs::CWD,
                &file,
                rustix::fs::FileType::RegularFile,
                rustix::fs::Mode::RUSR,
                0,
            )
            .expect("a file");
        }
    }
    let settings = FsSettings {
        max_node_fds: 16,
        ..FsSettings::default()
    };
    let fs = device(settings, [dir.export("tree")]);
    let handle = fs.exports();
    let mut client = FuseClient::start(fs);
    for _ in 0..2 {
        let mut nodes = vec![client.walk("tree").expect("walk")];
        for d in 0..DIRS {
            let sub = client
                .lookup(nodes[0], &d.to_string())
                .expect("lookup")
                .nodeid;
            nodes.push(sub);
            let fh = client.opendir(sub).expect("opendir").fh;
            let entries = client
                .list(Opcode::Readdirplus, sub, fh, 65_536)
                .expect("list");
            client.release(sub, fh).expect("release");
            assert_eq!(entries.len(), FILES / DIRS + 2);
            let found = entries.iter().filter_map(|entry| entry.plus);
            nodes.extend(found.map(|plus| plus.nodeid).filter(|id| *id != 0));
            let last = nodes[nodes.len() - 1];
            let fh = client.open(last, O_RDONLY).expect("open").fh;
            client.release(last, fh).expect("release");
        }
        let usage = handle.usage();
        assert_eq!(usage.nodes, FILES + DIRS + 1);
        assert_eq!(usage.handles, 0);
        assert!(usage.node_fds <= 16, "{} descriptors", usage.node_fds);
        // Children first would be tidy; parents first is what must work as well.
        forget_all(&mut client, &nodes);
        assert_eq!(handle.usage().nodes, 0);
    }
}

#[test]
fn a_node_lives_as_long_as_it_is_looked_up() {
    let dir = Dir::new();
    fs::create_dir_all(dir.path("a/b")).expect("mkdir");
    let fs = device(FsSettings::default(), [dir.export("ro")]);
    let handle = fs.exports();
    let mut client = FuseClient::start(fs);
    let b = client.walk("ro/a/b").expect("walk");
    client.walk("ro/a/b").expect("walk");
    assert_eq!(handle.usage().nodes, 3);
    client.forget(b, 1);
    assert!(client.getattr(b).is_ok());
    client.forget(b, u64::MAX);
    assert_eq!(client.getattr(b).err(), Some(ESTALE));
    client.forget(b, 1);
    client.forget(0, 1);
    client.forget(1, 1);
    let ro = client.walk("ro").expect("root of the export");
    client.forget(ro, 3);
    assert_eq!(handle.usage().nodes, 2, "kept for its child");
    let a = client.walk("ro/a").expect("found again");
    client.forget(a, 3);
    client.forget(ro, 1);
    assert_eq!(handle.usage().nodes, 0);
}

#[test]
fn nodes_and_handles_have_a_limit() {
    let dir = Dir::new();
    for name in ["a", "b", "c"] {
        dir.write(name, "");
    }
    let settings = FsSettings {
        max_nodes: 3,
        max_handles: 2,
        ..FsSettings::default()
    };
    let mut client = FuseClient::start(device(settings, [dir.export("rw").writable()]));
    let rw = client.walk("rw").expect("walk");
    let a = client.lookup(rw, "a").expect("lookup").nodeid;
    client.lookup(rw, "b").expect("lookup");
    assert_eq!(client.lookup(rw, "c").err(), Some(ENFILE));
    client.open(a, O_RDONLY).expect("open");
    let fh = client.opendir(rw).expect("opendir").fh;
    assert_eq!(client.open(a, O_RDONLY).err(), Some(ENFILE));
    assert_eq!(
        client.create(rw, "new", O_RDONLY, 0o600).err(),
        Some(ENFILE)
    );
    assert!(
        !dir.path("new").exists(),
        "nothing is made that cannot be opened"
    );
    let entries = client
        .list(Opcode::Readdirplus, rw, fh, 4096)
        .expect("list");
    let absent = entries
        .iter()
        .filter(|e| e.plus.is_some_and(|p| p.nodeid == 0));
    assert_eq!(absent.count(), 3, "listed without a node");
}

#[test]
fn handles_go_with_their_nodes() {
    let dir = Dir::new();
    dir.write("a", "a");
    dir.write("b", "b");
    let mut client = client(&dir);
    let (a, b) = (
        client.walk("ro/a").expect("a"),
        client.walk("ro/b").expect("b"),
    );
    let fh = client.open(a, O_RDONLY).expect("open").fh;
    assert_eq!(client.read(b, fh, 0, 1).err(), Some(EBADF));
    assert_eq!(client.release(b, fh).err(), Some(EBADF));
    assert_eq!(client.read(a, fh + 1, 0, 1).err(), Some(EBADF));
    let args = ReadIn {
        fh,
        size: 100,
        ..ReadIn::default()
    };
    let listed = client.call(Opcode::Readdir, a, &[args.as_bytes()], 100);
    assert_eq!(listed.err(), Some(libc::ENOTDIR));
    assert_eq!(client.getattr(12345).err(), Some(ESTALE));
}

/// Every opcode with bodies of every length up to that of its structure, of zeros and of ones.
#[test]
fn case_26_a_malformed_request_gets_a_well_formed_refusal() {
    let dir = Dir::new();
    dir.write("file", "content");
    let mut client = client(&dir);
    let rw = client.walk("rw").expect("rw");
    let file = client.walk("rw/file").expect("file");
    for opcode in Opcode::ALL {
        let silent = [Opcode::Forget, Opcode::BatchForget, Opcode::Interrupt];
        if silent.contains(opcode) || *opcode == Opcode::Destroy {
            continue;
        }
        for node in [rw, file, 1, u64::MAX] {
            for byte in [0u8, 0xff] {
                for len in (0..112).step_by(4) {
                    // The client checks that the reply is well-formed.
                    let _ = client.call(*opcode, node, &[&vec![byte; len]], 256);
                    if *opcode == Opcode::Init {
                        let _ = client.say_hello();
                    }
                }
            }
        }
    }
    assert!(!client.driver().needs_reset());
    for opcode in [0, 7, 19, 37, 39, 40, 41, 48, 49, 52, 4096, u32::MAX] {
        assert_eq!(client.call_on(1, opcode, 1, &[], 256).err(), Some(ENOSYS));
    }
    assert_eq!(dir.read("file"), b"content");
}

#[test]
fn a_header_that_lies_is_refused() {
    let dir = Dir::new();
    let mut client = client(&dir);
    for len in [0, 39, 41 + 8, 4096, u32::MAX] {
        let mut header = client.header(Opcode::Lookup as u32, 1, 0);
        header.len = len;
        let reply = client
            .driver()
            .request(1, &[header.as_bytes(), b"ro\0"], &[256]);
        assert_eq!(reply.len(), 16);
        assert_eq!(reply[4..8], (-EINVAL).to_le_bytes());
        assert_eq!(reply[8..], header.unique.to_le_bytes());
    }
    let reply = client.driver().request(1, &[&[0u8; 10]], &[16]);
    assert_eq!(reply.len(), 16);
    let reply = client.driver().request(1, &[], &[16]);
    assert_eq!(reply.len(), 16);
    assert!(client.walk("ro").is_ok());
}

#[test]
fn a_request_without_room_for_a_reply_stops_the_device() {
    let dir = Dir::new();
    for room in [&[][..], &[15]] {
        let mut client = client(&dir);
        let header = InHeader {
            len: 43,
            opcode: Opcode::Lookup as u32,
            nodeid: 1,
            ..InHeader::default()
        };
        client.driver().post(1, &[header.as_bytes(), b"ro\0"], room);
        while !client.driver().needs_reset() {
            std::thread::yield_now();
        }
        client.driver().bring_up(!0);
        client.say_hello().expect("served again after a reset");
    }
}

#[test]
fn case_05_a_reset_ends_all_io_before_it_returns() {
    let dir = Dir::new();
    dir.write("big", vec![0x55; 1 << 20]);
    let mut client = client(&dir);
    client.driver().write(0x70, 0);
    let holders_when_idle = Arc::strong_count(client.driver().memory());
    client.driver().bring_up(!0);
    client.say_hello().expect("INIT");
    for _ in 0..20 {
        let node = client.walk("ro/big").expect("walk");
        let fh = client.open(node, O_RDONLY).expect("open").fh;
        let args = ReadIn {
            fh,
            size: 1 << 20,
            ..ReadIn::default()
        };
        let header = client.header(Opcode::Read as u32, node, 40);
        let room = [16, 1 << 20];
        for _ in 0..16 {
            let readable = [header.as_bytes(), args.as_bytes()];
            client.driver().post_quietly(1, &readable, &room);
        }
        client.driver().kick(1);
        client.driver().write(0x70, 0);
        let holders = Arc::strong_count(client.driver().memory());
        assert_eq!(
            holders, holders_when_idle,
            "no worker has guest memory any more"
        );
        // Whatever was being read is over: the guest may use its memory for other things now.
        let memory = client.driver().memory().clone();
        let pattern = vec![0xaa; 20 << 20];
        memory
            .write_slice(&pattern, GuestAddress(16 << 20))
            .expect("write");
        std::thread::yield_now();
        let mut seen = vec![0; 20 << 20];
        memory
            .read_slice(&mut seen, GuestAddress(16 << 20))
            .expect("read");
        assert!(seen == pattern);
        client.driver().bring_up(!0);
        client.say_hello().expect("INIT");
    }
}

#[test]
fn several_queues_serve_at_once() {
    let dir = Dir::new();
    let settings = FsSettings {
        request_queues: 4,
        ..FsSettings::default()
    };
    let fs = device(settings, [dir.export("rw").writable()]);
    let handle = fs.exports();
    let mut client = FuseClient::start(fs);
    let rw = client.walk("rw").expect("rw");
    for round in 0..20 {
        for i in 0..40u16 {
            let args = crate::fs::spec::MkdirIn {
                mode: 0o755,
                umask: 0,
            };
            let name = format!("{}\0", i / 4);
            let header = client.header(Opcode::Mkdir as u32, rw, 8 + name.len());
            let body = [header.as_bytes(), args.as_bytes(), name.as_bytes()];
            client.driver().post_quietly(1 + i % 4, &body, &[16, 128]);
        }
        for queue in 1..=4 {
            client.driver().kick(queue);
        }
        let mut made = 0;
        for i in 0..40 {
            let (_, reply) = client.driver().wait(1 + i % 4);
            made += usize::from(reply[4..8] == [0; 4]);
        }
        assert_eq!(made, 10, "round {round}: one of four wins");
        assert_eq!(handle.usage().nodes, 11);
        for i in 0..10 {
            let name = i.to_string();
            let node = client.lookup(rw, &name).expect("lookup").nodeid;
            client.unlink(Opcode::Rmdir, rw, &name).expect("rmdir");
            client.forget(node, 2);
        }
        assert_eq!(handle.usage().nodes, 1);
    }
}
