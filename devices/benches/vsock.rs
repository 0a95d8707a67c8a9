//! The socket device under the driver kit: `cargo bench -p podvmm-devices --features testkit --bench
//! vsock [-- --json] [--quick]`.
//!
//! Three threads, as in life: the guest's driver, the device's worker, a host program. There is no
//! VM, so a doorbell is a write to an event file descriptor and an interrupt the same. Beside the
//! rate stands the time that the device's worker was on a CPU: its share of the cost.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark reports by panicking"
)]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use podvmm_devices::testkit::vsock::{GuestVsock, SocketId};
use podvmm_devices::vsock::{GuestCid, HostPorts, Limits, Vsock, VsockConfig};

const MIB: usize = 1 << 20;

/// One line of the table.
struct Figure {
    name: &'static str,
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
    let dir = Dir::new();
    let mut bench = Bench::new(dir.0.join("pod"));
    let figures = [
        bench.guest_to_host("guest to host, 64 KiB writes", 64 * 1024, 64 * scale),
        bench.guest_to_host("guest to host, 4 KiB writes", 4096, 32 * scale),
        bench.host_to_guest("host to guest, 64 KiB writes", 64 * 1024, 64 * scale),
        bench.host_to_guest("host to guest, 4 KiB writes", 4096, 32 * scale),
        bench.round_trips(10_000 * scale),
        bench.set_ups(500 * scale),
    ];
    if is("--json") {
        print_json(&figures);
    } else {
        print_table(&figures);
    }
}

struct Bench {
    guest: GuestVsock,
    path: PathBuf,
    port: u32,
}

impl Bench {
    fn new(path: PathBuf) -> Self {
        let config = VsockConfig {
            guest_cid: GuestCid::try_from(3).unwrap(),
            listener: UnixListener::bind(&path).unwrap(),
            host_ports: HostPorts::UnixPrefix(path.clone()),
            limits: Limits::default(),
        };
        Self {
            guest: GuestVsock::start(Box::new(Vsock::new(config).unwrap())),
            path,
            port: 1,
        }
    }

    fn connect(&mut self) -> (UnixStream, SocketId) {
        self.port += 1;
        self.guest.listen(self.port);
        let stream = dial(&self.path, self.port);
        let socket = self.guest.accept();
        (answered(stream), socket)
    }

    fn measure(
        &mut self,
        name: &'static str,
        unit: &'static str,
        count: usize,
        work: impl FnOnce(&mut Self),
    ) -> Figure {
        let worker = worker_time();
        let start = Instant::now();
        work(self);
        let elapsed = start.elapsed();
        let worker = worker_time() - worker;
        Figure {
            name,
            unit,
            rate: count as f64 / elapsed.as_secs_f64(),
            worker_ns: worker.as_nanos() as f64 / count as f64,
        }
    }

    fn guest_to_host(&mut self, name: &'static str, size: usize, mib: usize) -> Figure {
        let (mut stream, socket) = self.connect();
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 256 * 1024];
            let mut total = 0;
            loop {
                match stream.read(&mut buffer).unwrap() {
                    0 => return total,
                    len => total += len,
                }
            }
        });
        let data = vec![0x5a; size];
        self.measure(name, "MiB", mib, |bench| {
            for _ in 0..mib * MIB / size {
                bench.guest.send(socket, &data);
            }
            bench.guest.close(socket);
            bench.guest.wait_closed(socket);
            assert_eq!(reader.join().unwrap(), mib * MIB);
        })
    }

    fn host_to_guest(&mut self, name: &'static str, size: usize, mib: usize) -> Figure {
        let (mut stream, socket) = self.connect();
        let writer = std::thread::spawn(move || {
            let data = vec![0x5a; size];
            for _ in 0..mib * MIB / size {
                stream.write_all(&data).unwrap();
            }
            stream
        });
        let mut buffer = vec![0; 256 * 1024];
        let figure = self.measure(name, "MiB", mib, |bench| {
            let mut total = 0;
            while total < mib * MIB {
                total += bench.guest.wait_for("data", |guest| {
                    let len = guest.try_receive(socket, &mut buffer);
                    (len > 0).then_some(len)
                });
            }
        });
        drop(writer.join().unwrap());
        self.guest.close(socket);
        self.guest.wait_closed(socket);
        figure
    }

    fn round_trips(&mut self, count: usize) -> Figure {
        let (mut stream, socket) = self.connect();
        let echo = std::thread::spawn(move || {
            let mut byte = [0];
            while stream.read(&mut byte).unwrap() == 1 {
                stream.write_all(&byte).unwrap();
            }
        });
        let figure = self.measure("1-byte round trips", "op", count, |bench| {
            for i in 0..count {
                bench.guest.send(socket, &[i as u8]);
                assert_eq!(bench.guest.receive(socket, 1), [i as u8]);
            }
        });
        self.guest.close(socket);
        echo.join().unwrap();
        figure
    }

    fn set_ups(&mut self, count: usize) -> Figure {
        self.guest.listen(1);
        let path = self.path.clone();
        let caller = std::thread::spawn(move || {
            for _ in 0..count {
                answered(dial(&path, 1));
            }
        });
        self.measure("connections set up and closed", "op", count, |bench| {
            for _ in 0..count {
                let socket = bench.guest.accept();
                bench.guest.wait_closed(socket);
            }
            caller.join().unwrap();
        })
    }
}

fn dial(path: &Path, port: u32) -> UnixStream {
    let mut stream = UnixStream::connect(path).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .unwrap();
    stream
}

fn answered(mut stream: UnixStream) -> UnixStream {
    // "OK <ten digits>\n": a port of the host side has ten digits.
    let mut line = [0; 14];
    stream.read_exact(&mut line).unwrap();
    assert!(line.starts_with(b"OK ") && line.ends_with(b"\n"));
    stream
}

/// Time that the device's worker has been on a CPU.
fn worker_time() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
    for task in tasks.flatten().map(|task| task.path()) {
        let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
        if name.trim_end() == "virtio-vsock" {
            let times = std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
            let on_cpu = times.split(' ').next().and_then(|ns| ns.parse().ok());
            return Duration::from_nanos(on_cpu.unwrap_or(0));
        }
    }
    Duration::ZERO
}

fn print_table(figures: &[Figure]) {
    println!(
        "{:<32} {:>14} {:>18}",
        "virtio-vsock", "rate", "worker's CPU"
    );
    for f in figures {
        let rate = format!("{:.0} {}/s", f.rate, f.unit);
        let cpu = format!("{:.1} us/{}", f.worker_ns / 1000.0, f.unit);
        println!("{:<32} {rate:>14} {cpu:>18}", f.name);
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

/// A directory that is gone when it is dropped.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("podvmm-bench-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
