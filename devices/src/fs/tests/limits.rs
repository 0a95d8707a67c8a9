//! Rate limits of a whole device. How exactly they count is tested beside the buckets.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use libc::{O_RDONLY, O_RDWR};
use zerocopy::IntoBytes;

use super::{Dir, device};
use crate::fs::FsSettings;
use crate::fs::spec::{CopyFileRangeIn, Opcode, ROOT};
use crate::rate::{Rate, RateLimit};
use crate::testkit::fuse::FuseClient;

fn rate(per_second: u64, burst: u64) -> Option<Rate> {
    Some(Rate {
        per_second: NonZeroU64::new(per_second).expect("a rate"),
        burst: NonZeroU64::new(burst).expect("a burst"),
    })
}

fn client(dir: &Dir, request_queues: u16, limit: RateLimit) -> FuseClient {
    let settings = FsSettings {
        limit,
        request_queues,
        ..FsSettings::default()
    };
    FuseClient::start(device(settings, [dir.export("rw").writable()]))
}

#[test]
fn requests_of_all_queues_count_together() {
    let limit = RateLimit {
        requests: rate(100, 5),
        bytes: None,
    };
    // The bucket fills from INIT on, so that is where time begins.
    let start = Instant::now();
    let mut client = client(&Dir::new(), 2, limit);
    // With INIT they are 25: five at once, twenty at 10 ms each.
    for i in 0..24 {
        let reply = client.call_on(1 + i % 2, Opcode::Lookup as u32, ROOT, &[b"rw\0"], 4096);
        reply.expect("it is slow and not refused");
    }
    assert!(start.elapsed() >= Duration::from_millis(189));
}

#[test]
fn bytes_count_in_both_directions_and_from_file_to_file() {
    let dir = Dir::new();
    dir.write("file", vec![7; 20_000]);
    dir.write("copy", "");
    let limit = RateLimit {
        bytes: rate(100_000, 1),
        requests: None,
    };
    let mut client = client(&dir, 1, limit);
    let node = client.walk("rw/file").expect("walk");
    let copy = client.walk("rw/copy").expect("walk");
    let fh = client.open(node, O_RDWR).expect("open").fh;
    let copy_fh = client.open(copy, O_RDWR).expect("open").fh;
    let data = [8; 10_000];
    let arguments = CopyFileRangeIn {
        fh_in: fh,
        nodeid_out: copy,
        fh_out: copy_fh,
        len: 10_000,
        ..CopyFileRangeIn::default()
    };
    type Act<'a> = &'a dyn Fn(&mut FuseClient);
    let what: [(&str, Act<'_>); 3] = [
        ("read", &|client| {
            client.read(node, fh, 0, 10_000).expect("read");
        }),
        ("written", &|client| {
            client.write(node, fh, 0, &data).expect("write");
        }),
        ("copied", &|client| {
            let body = [arguments.as_bytes()];
            client
                .call(Opcode::CopyFileRange, node, &body, 64)
                .expect("copy");
        }),
    ];
    for (name, act) in what {
        act(&mut client);
        let start = Instant::now();
        client.getattr(node).expect("after what it cost");
        assert!(start.elapsed() >= Duration::from_millis(90), "{name}");
    }
}

#[test]
fn a_reset_does_not_wait_for_a_limit_and_does_not_lift_it() {
    let dir = Dir::new();
    dir.write("file", vec![7; 1 << 20]);
    let limit = RateLimit {
        bytes: rate(1000, 10_000),
        requests: None,
    };
    let mut client = client(&dir, 1, limit);
    let node = client.walk("rw/file").expect("walk");
    let fh = client.open(node, O_RDONLY).expect("open").fh;
    // A quarter of an hour's worth.
    client.read(node, fh, 0, 1 << 20).expect("read");
    let start = Instant::now();
    client.driver().bring_up(!0);
    assert!(start.elapsed() < Duration::from_secs(60));
    let header = client.header(Opcode::Init as u32, 0, 0);
    client.driver().post(1, &[header.as_bytes()], &[128]);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(client.driver().poll(1), None, "it is still to be paid for");
}
