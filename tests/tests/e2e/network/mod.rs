//! Pods in a network namespace that something else has set up, or plugins of CNI.

mod cni;
mod world;

use std::fs::File;
use std::io::Write;
use std::path::Path;

use rustix::process::Signal;

use crate::harness::{Bench, Running};
use crate::rootfs::{self, TempDir};
use world::{MAC, MTU, OUT_V4, OUT_V6, POD_V4, POD_V6, World};

/// A directory that both sides have, and the option for it.
fn shared_dir() -> (TempDir, String) {
    let dir = TempDir::new();
    let volume = format!("--volume={}:/v", dir.path().display());
    (dir, volume)
}

/// A guest's web server of `/v`, up until there is a file `/v/done`.
const SERVE: &str = "httpd -p 80 -h /v; echo serving
    while [ ! -e /v/done ]; do sleep 0.2; done";

fn finish(running: Running, dir: &Path) {
    File::create(dir.join("done")).expect("the directory is ours");
    running.wait().prints("serving\n");
}

#[test]
fn reaches_what_is_outside_by_both_families() {
    let bench = Bench::new();
    let world = World::new();
    let www = TempDir::new();
    crate::harness::file(www.path(), "index.html", b"from outside\n");
    let _server = world.serve(www.path());
    let script = format!(
        "ping -c 1 -W 20 {OUT_V4} >/tmp/4 || cat /tmp/4
         ping -6 -c 1 -W 20 {OUT_V6} >/tmp/6 || cat /tmp/6
         wget -q -O - http://{OUT_V4}/
         wget -q -O - http://[{OUT_V6}]/"
    );
    bench
        .sh_with([world.option()], &script)
        .outcome()
        .prints("from outside\nfrom outside\n");
}

#[test]
fn is_reached_from_outside_by_both_families() {
    let bench = Bench::new();
    let world = World::new();
    let (dir, volume) = shared_dir();
    crate::harness::file(dir.path(), "index.html", b"from the pod\n");
    let mut running = bench.sh_with([world.option(), volume], SERVE).start();
    running.wait_for("serving");
    for address in [POD_V4.to_owned(), format!("[{POD_V6}]")] {
        let url = format!("http://{address}/");
        assert_eq!(
            world.outside_says(&["wget", "-q", "-O", "-", &url]),
            "from the pod\n"
        );
    }
    world.outside_says(&["ping", "-c", "1", "-W", "20", POD_V4]);
    world.outside_says(&["ping", "-6", "-c", "1", "-W", "20", POD_V6]);
    finish(running, dir.path());
}

#[test]
fn reaches_a_metadata_service_only_if_that_is_allowed() {
    let bench = Bench::new();
    let world = World::new();
    world.out_ip("addr add 169.254.169.254/32 dev br0");
    let www = TempDir::new();
    crate::harness::file(www.path(), "index.html", b"served\n");
    let _server = world.serve(www.path());
    let script = format!(
        "wget -q -O - http://{OUT_V4}/
         busybox timeout 15 wget -q -O - http://169.254.169.254/ 2>/dev/null || echo no metadata"
    );
    bench
        .sh_with([world.option()], &script)
        .outcome()
        .prints("served\nno metadata\n");
    bench
        .sh_with([world.option(), "--allow-metadata".into()], &script)
        .outcome()
        .prints("served\nserved\n");
}

#[test]
fn has_the_interfaces_own_address_mtu_and_routes() {
    let bench = Bench::new();
    let world = World::new();
    world.plug("net1", "02:00:5e:00:53:02");
    world.pod_ip("addr add 198.51.100.7/24 dev net1");
    world.pod_ip("route add 203.0.113.0/24 via 198.51.100.1 metric 77");
    world.pod_ip("neigh add 198.51.100.9 lladdr 02:00:5e:00:53:99 dev net1");
    let script = "
        for i in eth0 net1; do echo $i $(cat /sys/class/net/$i/address /sys/class/net/$i/mtu); done
        ip addr | grep -o 'inet6* [^f][^ ]*' | sort
        ip route | sed 's/ *$//' | sort
        ip -6 route | grep default | sed 's/ *$//'
        grep 198.51.100.9 /proc/net/arp | tr -s ' '";
    let expected = format!(
        "eth0 {MAC} {MTU}
net1 02:00:5e:00:53:02 {MTU}
inet 127.0.0.1/8
inet 192.0.2.7/24
inet 198.51.100.7/24
inet6 2001:db8::7/64
inet6 ::1/128
192.0.2.0/24 dev eth0 scope link  src 192.0.2.7
198.51.100.0/24 dev net1 scope link  src 198.51.100.7
203.0.113.0/24 via 198.51.100.1 dev net1  metric 77
default via 192.0.2.1 dev eth0
default via 2001:db8::1 dev eth0  metric 1024
198.51.100.9 0x1 0x6 02:00:5e:00:53:99 * net1
"
    );
    bench
        .sh_with([world.option()], script)
        .outcome()
        .prints(&expected);
}

#[test]
fn takes_packets_of_the_mtu_and_no_longer_ones() {
    let bench = Bench::new();
    let world = World::new();
    // 28 bytes are headers of IP and ICMP. Longer ones come in fragments, both ways.
    let fits = MTU - 28;
    let script = format!(
        "ping -c 2 -W 20 -s {fits} {OUT_V4} | grep -o '2 packets received'
         ping -c 2 -W 20 -s 5000 {OUT_V4} | grep -o '2 packets received'
         ping -6 -c 2 -W 20 -s 5000 {OUT_V6} | grep -o '2 packets received'
         awk '/eth0:/ {{ print ($3 > 4) ? \"frames came\" : $0 }}' /proc/net/dev"
    );
    bench
        .sh_with([world.option()], &script)
        .outcome()
        .prints("2 packets received\n2 packets received\n2 packets received\nframes came\n");
}

/// A file of this many MiB that does not repeat, and its MD5 sum as busybox says it.
fn blob(path: &Path, mib: usize) -> String {
    let mut file = File::create(path).expect("the directory is ours");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut chunk = Vec::with_capacity(1 << 20);
    for _ in 0..mib {
        chunk.clear();
        while chunk.len() < 1 << 20 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.extend_from_slice(&state.to_le_bytes());
        }
        file.write_all(&chunk).expect("there is room");
    }
    drop(file);
    let sum = std::process::Command::new("busybox")
        .arg("md5sum")
        .stdin(File::open(path).expect("it was just made"))
        .output()
        .expect("busybox is there");
    String::from_utf8_lossy(&sum.stdout).into_owned()
}

#[test]
fn receives_100_mib_as_they_were_sent() {
    let bench = Bench::new();
    let world = World::new();
    let www = TempDir::new();
    let sum = blob(&www.join("blob"), 100);
    let _server = world.serve(www.path());
    bench
        .sh_with(
            [world.option()],
            &format!("wget -q -O - http://{OUT_V4}/blob | md5sum"),
        )
        .within(20)
        .outcome()
        .prints(&sum);
}

#[test]
fn sends_100_mib_as_they_are() {
    let bench = Bench::new();
    let world = World::new();
    let (dir, volume) = shared_dir();
    let sum = blob(&dir.join("blob"), 100);
    let mut running = bench
        .sh_with([world.option(), volume], SERVE)
        .within(20)
        .start();
    running.wait_for("serving");
    let fetch = format!("wget -q -O - 'http://[{POD_V6}]/blob' | md5sum");
    assert_eq!(world.outside_says(&["sh", "-c", &fetch]), sum);
    finish(running, dir.path());
}

#[test]
fn leaves_the_namespace_as_it_was() {
    let bench = Bench::new();
    let world = World::new();
    world.settle();
    let before = world.state();
    bench
        .sh_with([world.option()], "exit 3")
        .outcome()
        .status(3);
    assert_eq!(world.state(), before);
}

#[test]
fn a_killed_podvmm_leaves_a_namespace_that_the_next_pod_can_have() {
    let bench = Bench::new();
    let world = World::new();
    let links = world.pod_ip("link show");
    let mut running = bench
        .sh_with([world.option()], "echo here; sleep 1000")
        .start();
    running.wait_for("here");
    assert_ne!(world.pod_ip("link show"), links, "there is a tap");
    running.signal(Signal::KILL);
    running.wait();
    // The VMM ends by itself, and the tap with it.
    let began = std::time::Instant::now();
    while world.pod_ip("link show") != links {
        assert!(began.elapsed() < crate::harness::at_once() * 10);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let ping = format!("ping -c 1 -W 20 {OUT_V4} | grep -o '1 packets received'");
    bench
        .sh_with([world.option()], &ping)
        .outcome()
        .prints("1 packets received\n");
}

#[test]
fn a_namespace_has_one_pod_at_a_time() {
    let bench = Bench::new();
    let world = World::new();
    let mut first = bench
        .sh_with([world.option()], "echo here; sleep 1000")
        .start();
    first.wait_for("here");
    bench
        .sh_with([world.option()], "true")
        .outcome()
        .refused(&["--net", "another pod"]);
    first.signal(Signal::TERM);
    first.wait().status(128 + 15);
}

#[test]
fn what_is_no_namespace_for_a_pod_is_refused() {
    let bench = Bench::new();
    let world = World::bare();
    let refused = |net: &str, words: &[&str]| {
        let option = format!("--net={net}");
        bench.sh_with([option], "true").outcome().refused(words);
    };
    refused("host", &["--net", "netns:PATH"]);
    refused("netns:", &["--net", "netns:PATH"]);
    refused("netns:/nonexistent", &["--net", "/nonexistent"]);
    refused("netns:/dev/null", &["--net", "/dev/null", "ip netns add"]);
    refused("netns:/proc/self/ns/net", &["--net", "of the host"]);
    refused("netns:/proc/1/ns/net", &["--net", "of the host"]);
    refused(
        "netns:/proc/self/ns/uts",
        &["--net", "no network namespace"],
    );
    let empty = format!("netns:{}", world.path().display());
    refused(&empty, &["--net", "no Ethernet interface"]);
}

#[test]
fn without_a_namespace_there_is_no_network() {
    let bench = Bench::new();
    for options in [&[][..], &["--net", "none"]] {
        bench
            .sh_with(options, "ls /sys/class/net")
            .outcome()
            .prints("lo\n");
    }
}

#[test]
fn the_command_may_not_change_the_network_without_the_capability() {
    let bench = Bench::new();
    let world = World::new();
    let mut run = bench.run(["--rootfs"]);
    run.command
        .arg(rootfs::shared())
        .arg(world.option())
        .args(["--", "ip", "link", "set", "eth0", "down"]);
    let outcome = run.outcome();
    assert_ne!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains("not permitted"), "{outcome:?}");
}
