//! The network device under the driver kit: `cargo bench -p podvmm-devices --features testkit --bench
//! net [-- --json] [--quick]`.
//!
//! Three threads, as in life: the guest's driver, the device's worker, the network. There is no VM, so
//! a doorbell is a write to an event file descriptor and an interrupt the same. The network is a pair
//! of sockets, and, where this process may make them, a real tap with a packet socket behind it. Beside
//! the rate stands the time that the device's worker was on a CPU: its share of the cost, the host's
//! network stack included.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark reports by panicking"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use podvmm_devices::net::spec::{GSO_TCPV4, Header, NEEDS_CSUM};
use podvmm_devices::net::{Mtu, Net, NetBackend, NetConfig};
use podvmm_devices::rate::RateLimit;
use podvmm_devices::testkit::net::{GuestNet, Host};
use rustix::event::PollFlags;

/// Bytes of headers in a frame of IPv4 and TCP.
const HEADERS: usize = 54;
const MSS: usize = 1460;

/// One line of the table.
struct Figure {
    name: String,
    unit: &'static str,
    /// Units per second.
    rate: f64,
    /// CPU time of the worker in nanoseconds per unit.
    worker_ns: f64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let is = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let scale = if is("--quick") { 1 } else { 8 };
    let mut figures = Vec::new();
    for network in ["socket", "tap"] {
        let make = || {
            if network == "socket" {
                let (host, backend) = Host::pair();
                return Ok((host, backend as Arc<dyn NetBackend>));
            }
            Host::tap().map(|(host, tap)| (host, tap as Arc<dyn NetBackend>))
        };
        if let Err(error) = make() {
            eprintln!("{network}: skipped: {error}");
            continue;
        }
        let bench = || Bench::new(make().expect("a second one"));
        figures.extend([
            bench().guest_to_host(network, 60, 100_000 * scale),
            bench().guest_to_host(network, HEADERS + MSS, 100_000 * scale),
            bench().guest_to_host(network, HEADERS + 44 * MSS, 10_000 * scale),
            bench().host_to_guest(network, 60, 100_000 * scale),
            bench().host_to_guest(network, HEADERS + MSS, 100_000 * scale),
            bench().host_to_guest(network, HEADERS + 44 * MSS, 10_000 * scale),
            bench().round_trips(network, 10_000 * scale),
        ]);
    }
    if is("--json") {
        print_json(&figures);
    } else {
        print_table(&figures);
    }
}

struct Bench {
    guest: GuestNet,
    host: Host,
}

impl Bench {
    fn new((host, backend): (Host, Arc<dyn NetBackend>)) -> Self {
        let config = NetConfig {
            mac: "02:00:5e:00:53:01".parse().unwrap(),
            mtu: Mtu::ETHERNET,
            rx_limit: RateLimit::default(),
            tx_limit: RateLimit::default(),
        };
        Self {
            guest: GuestNet::start(Box::new(Net::new(config, backend))),
            host,
        }
    }

    fn guest_to_host(self, network: &str, len: usize, count: usize) -> Figure {
        let Self {
            mut guest,
            mut host,
        } = self;
        let done = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&done);
        let receiver = std::thread::spawn(move || {
            let mut bytes = 0;
            loop {
                while let Some((_, len)) = host.try_receive() {
                    bytes += len;
                }
                if over.load(Ordering::Acquire) && host.try_receive().is_none() {
                    return bytes;
                }
                host.sleep(PollFlags::IN);
            }
        });
        let (header, bytes) = tcp(len);
        measure(name(network, "guest to host", len), len, count, move || {
            for _ in 0..count {
                guest.send(&header, &bytes);
            }
            guest.wait_sent();
            done.store(true, Ordering::Release);
            // A packet socket loses what its reader does not take in time.
            assert!(receiver.join().unwrap() > 0);
            guest
        })
    }

    fn host_to_guest(self, network: &str, len: usize, count: usize) -> Figure {
        let Self { mut guest, host } = self;
        let done = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&done);
        let (header, bytes) = tcp(len);
        let sender = std::thread::spawn(move || {
            // A full tap loses frames, so this goes on until enough have arrived.
            while !over.load(Ordering::Acquire) {
                if !host.try_send(&header, &bytes) {
                    host.sleep(PollFlags::OUT);
                }
            }
            host
        });
        let mut bytes = Vec::new();
        measure(name(network, "host to guest", len), len, count, move || {
            for _ in 0..count {
                guest.wait_for("a frame", |guest| guest.receive_into(&mut bytes));
            }
            done.store(true, Ordering::Release);
            drop(sender.join().unwrap());
            guest
        })
    }

    fn round_trips(self, network: &str, count: usize) -> Figure {
        let Self {
            mut guest,
            mut host,
        } = self;
        let (header, bytes) = tcp(60);
        let echo = std::thread::spawn(move || {
            for _ in 0..count {
                let (header, bytes) = host.receive();
                host.send(&header, &bytes);
            }
            host
        });
        let name = format!("{network}: round trips of 60 bytes");
        measure(name, 0, count, move || {
            for _ in 0..count {
                guest.send(&header, &bytes);
                guest.wait_frame();
            }
            drop(echo.join().unwrap());
            guest
        })
    }
}

fn name(network: &str, direction: &str, len: usize) -> String {
    format!("{network}: {direction}, {len} bytes")
}

/// A frame of IPv4 and TCP of `len` bytes, large if it must be.
fn tcp(len: usize) -> (Header, Vec<u8>) {
    let mut bytes = vec![0; len];
    bytes[..14].copy_from_slice(&[2, 0, 0x5e, 0, 0x53, 1, 2, 0, 0x5e, 0, 0x53, 2, 8, 0]);
    bytes[14..24].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6]);
    bytes[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
    bytes[26..34].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
    bytes[34..38].copy_from_slice(&[0, 80, 0x30, 0x39]);
    bytes[46..48].copy_from_slice(&[0x50, 0x10]);
    let is_large = len > HEADERS + MSS;
    let header = Header {
        flags: NEEDS_CSUM,
        gso_type: if is_large { GSO_TCPV4 } else { 0 },
        hdr_len: if is_large { HEADERS as u16 } else { 0 }.into(),
        gso_size: if is_large { MSS as u16 } else { 0 }.into(),
        csum_start: 34.into(),
        csum_offset: 16.into(),
        num_buffers: 0.into(),
    };
    (header, bytes)
}

/// Times `work`, which gives its guest back so that the worker lives until it was looked at.
fn measure(name: String, len: usize, count: usize, work: impl FnOnce() -> GuestNet) -> Figure {
    let before = worker_time();
    let start = Instant::now();
    let guest = work();
    let elapsed = start.elapsed();
    let worker = worker_time() - before;
    drop(guest);
    let (unit, units) = if len > 9000 {
        ("MiB", (count * len) as f64 / f64::from(1 << 20))
    } else {
        ("op", count as f64)
    };
    Figure {
        name,
        unit,
        rate: units / elapsed.as_secs_f64(),
        worker_ns: worker.as_nanos() as f64 / units,
    }
}

/// Time that the device's worker has been on a CPU.
fn worker_time() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
    for task in tasks.flatten().map(|task| task.path()) {
        let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
        if name.trim_end() == "virtio-net" {
            let times = std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
            let on_cpu = times.split(' ').next().and_then(|ns| ns.parse().ok());
            return Duration::from_nanos(on_cpu.unwrap_or(0));
        }
    }
    Duration::ZERO
}

fn print_table(figures: &[Figure]) {
    println!("{:<36} {:>14} {:>18}", "virtio-net", "rate", "worker's CPU");
    for f in figures {
        let rate = format!("{:.0} {}/s", f.rate, f.unit);
        let cpu = format!("{:.2} us/{}", f.worker_ns / 1000.0, f.unit);
        println!("{:<36} {rate:>14} {cpu:>18}", f.name);
    }
}

fn print_json(figures: &[Figure]) {
    let lines: Vec<String> = figures
        .iter()
        .map(|f| {
            format!(
                r#"  {{"name": "{}", "unit": "{}", "per_second": {:.1}, "worker_ns": {:.1}}}"#,
                f.name, f.unit, f.rate, f.worker_ns
            )
        })
        .collect();
    println!("[\n{}\n]", lines.join(",\n"));
}
