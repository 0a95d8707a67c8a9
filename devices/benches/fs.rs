//! The file system device under the driver kit: `cargo bench -p podvmm-devices --features testkit
//! --bench fs [-- --json] [--quick] [--dir DIR]`.
//!
//! Two threads, as in life: the guest's driver, which polls here, and the worker of one request
//! queue. There is no VM, so a doorbell is a write to an event file descriptor and an interrupt the
//! same. The files are in memory unless a directory is given, so that what is measured is the
//! device and not a disk. Beside the rate stands the time that the worker was on a CPU: its share
//! of the cost. The lines of the host are the same system calls without a device.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark reports by panicking"
)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use podvmm_devices::fs::spec::{InHeader, Opcode, OutHeader, ReadIn, WriteIn};
use podvmm_devices::fs::{CachePolicy, Export, Fs, FsConfig, FsSettings};
use podvmm_devices::testkit::fuse::FuseClient;
use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Size of the file that is read and written.
const FILE: usize = 64 * MIB;
/// Where the buffers of the data path are: the upper part of the kit's memory, 2 MiB each.
const BUFFERS_AT: u64 = 40 << 20;
const BUFFER_STRIDE: u64 = 2 << 20;
/// Files of the directory that is listed.
const ENTRIES: usize = 1000;
const O_RDWR: i32 = 2;

/// One line of the table.
struct Figure {
    name: &'static str,
    unit: &'static str,
    /// Units per second.
    rate: f64,
    /// CPU time of the worker in nanoseconds per unit.
    worker_ns: f64,
}

/// One kind of request of the data path.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    opcode: Opcode,
    size: usize,
    /// Requests in flight.
    depth: usize,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let is = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let scale = if is("--quick") { 1 } else { 8 };
    let place = arguments.iter().position(|argument| argument == "--dir");
    let place = place
        .and_then(|at| arguments.get(at + 1))
        .map(PathBuf::from);
    let dir = Dir::new(place);
    let mut bench = Bench::new(&dir.0);
    let load = |name, opcode, size, depth| Load {
        name,
        opcode,
        size,
        depth,
    };
    let mut figures = vec![bench.host_reads("host: pread 4 KiB", 4 * KIB, 20_000 * scale)];
    for (load, count) in [
        (
            load("read 4 KiB, one at a time", Opcode::Read, 4 * KIB, 1),
            10_000,
        ),
        (
            load("read 4 KiB, 8 in flight", Opcode::Read, 4 * KIB, 8),
            20_000,
        ),
        (
            load("write 4 KiB, one at a time", Opcode::Write, 4 * KIB, 1),
            10_000,
        ),
        (
            load("write 4 KiB, 8 in flight", Opcode::Write, 4 * KIB, 8),
            20_000,
        ),
    ] {
        figures.push(bench.data(load, count * scale));
    }
    figures.push(bench.host_reads("host: pread 1 MiB", MIB, 500 * scale));
    for (load, count) in [
        (load("read 1 MiB, one at a time", Opcode::Read, MIB, 1), 300),
        (load("read 1 MiB, 4 in flight", Opcode::Read, MIB, 4), 300),
        (
            load("write 1 MiB, one at a time", Opcode::Write, MIB, 1),
            300,
        ),
        (load("write 1 MiB, 4 in flight", Opcode::Write, MIB, 4), 300),
    ] {
        figures.push(bench.data(load, count * scale));
    }
    figures.extend(bench.metadata(5000 * scale));
    figures.extend(bench.host_opens(20_000 * scale));
    if is("--json") {
        print_json(&figures);
    } else {
        print_table(&figures);
    }
}

struct Bench {
    client: FuseClient,
    path: PathBuf,
    root: u64,
}

impl Bench {
    fn new(path: &Path) -> Self {
        std::fs::write(path.join("file"), vec![0x5a; FILE]).unwrap();
        std::fs::create_dir(path.join("list")).unwrap();
        for number in 0..ENTRIES {
            std::fs::write(path.join("list").join(number.to_string()), "").unwrap();
        }
        let export = Export::new("rw", File::open(path).unwrap().into()).unwrap();
        let export = export.writable().cache(CachePolicy::Auto);
        let config = FsConfig::try_from(FsSettings::default()).unwrap();
        let mut client = FuseClient::start(Fs::new(config, [export]).unwrap());
        let root = client.walk("rw").unwrap();
        Self {
            client,
            path: path.into(),
            root,
        }
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

    fn host_reads(&mut self, name: &'static str, size: usize, count: usize) -> Figure {
        let file = File::open(self.path.join("file")).unwrap();
        let mut buffer = vec![0; size];
        let unit = if size == MIB { "MiB" } else { "op" };
        self.measure(name, unit, count, |_| {
            for i in 0..count {
                let at = offset(i, size);
                assert_eq!(file.read_at(&mut buffer, at).unwrap(), size);
            }
        })
    }

    /// What it costs that the kernel confines the server to its export: the same path, as a node is
    /// opened that has no descriptor, with and without. They take turns, so that both meet the same
    /// machine.
    fn host_opens(&self, count: usize) -> Vec<Figure> {
        use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
        const ROUND: usize = 1000;
        let dir = File::open(&self.path).unwrap();
        let (path, flags) = (c"list/0", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC);
        let confined =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let mut plain = || openat(&dir, path, flags, Mode::empty()).map(drop);
        let mut walled = || openat2(&dir, path, flags, Mode::empty(), confined).map(drop);
        type Way<'a> = (&'static str, &'a mut dyn FnMut() -> rustix::io::Result<()>);
        let ways: [Way<'_>; 2] = [
            ("host: openat and close", &mut plain),
            ("host: openat2, confined, and close", &mut walled),
        ];
        let mut ways = ways.map(|way| (way, Duration::ZERO, Duration::ZERO));
        for _ in 0..count / ROUND {
            for ((_, open), total, on_cpu) in &mut ways {
                let (start, cpu) = (Instant::now(), on_cpu_of("thread-self"));
                for _ in 0..ROUND {
                    open().unwrap();
                }
                *total += start.elapsed();
                *on_cpu += on_cpu_of("thread-self") - cpu;
            }
        }
        let done = (count / ROUND * ROUND) as f64;
        // There is no worker: it is this thread's time.
        let figure = |((name, _), total, on_cpu): (Way<'_>, Duration, Duration)| Figure {
            name,
            unit: "op",
            rate: done / total.as_secs_f64(),
            worker_ns: on_cpu.as_nanos() as f64 / done,
        };
        ways.map(figure).into()
    }

    /// `count` requests of `load`, with buffers that lie where they lie: no allocation, no copy on
    /// the driver's side.
    fn data(&mut self, load: Load, count: usize) -> Figure {
        let node = self.client.lookup(self.root, "file").unwrap().nodeid;
        let fh = self.client.open(node, O_RDWR).unwrap().fh;
        let mut heads = vec![None; load.depth];
        let unit = if load.size == MIB { "MiB" } else { "op" };
        let figure = self.measure(load.name, unit, count, |bench| {
            let (mut sent, mut done) = (0, 0);
            while done < count {
                for (slot, head) in heads.iter_mut().enumerate() {
                    if head.is_none() && sent < count {
                        *head = Some(bench.send(load, slot, sent, (node, fh)));
                        sent += 1;
                    }
                }
                while let Some((head, written)) = bench.client.driver().ring(1).take_used() {
                    let body = if load.opcode == Opcode::Read {
                        load.size
                    } else {
                        8
                    };
                    assert_eq!(written as usize, size_of::<OutHeader>() + body);
                    let slot = heads.iter().position(|known| *known == Some(head)).unwrap();
                    heads[slot] = None;
                    done += 1;
                }
            }
        });
        self.client.release(node, fh).unwrap();
        figure
    }

    fn send(&mut self, load: Load, slot: usize, i: usize, (node, fh): (u64, u64)) -> u16 {
        let base = BUFFERS_AT + slot as u64 * BUFFER_STRIDE;
        let (data_at, reply_at) = (base + 4096, base + 512);
        let size = load.size as u32;
        let reading = load.opcode == Opcode::Read;
        let mut request = Vec::with_capacity(80);
        let body = if reading { 40 } else { 40 + load.size };
        let header: InHeader = self.client.header(load.opcode as u32, node, body);
        request.extend_from_slice(header.as_bytes());
        if reading {
            let args = ReadIn {
                fh,
                offset: offset(i, load.size),
                size,
                ..ReadIn::default()
            };
            request.extend_from_slice(args.as_bytes());
        } else {
            let args = WriteIn {
                fh,
                offset: offset(i, load.size),
                size,
                ..WriteIn::default()
            };
            request.extend_from_slice(args.as_bytes());
        }
        let driver = self.client.driver();
        let memory = driver.memory().clone();
        memory.write_slice(&request, GuestAddress(base)).unwrap();
        let len = request.len() as u32;
        let buffers = if reading {
            [
                (base, len, false),
                (reply_at, 16, true),
                (data_at, size, true),
            ]
        } else {
            [
                (base, len, false),
                (data_at, size, false),
                (reply_at, 24, true),
            ]
        };
        let head = driver.ring(1).add(&buffers).unwrap();
        if driver.ring(1).wants_kick() {
            driver.kick(1);
        }
        head
    }

    fn metadata(&mut self, count: usize) -> Vec<Figure> {
        let root = self.root;
        let node = self.client.lookup(root, "file").unwrap().nodeid;
        let getattr = self.measure("getattr", "op", count, |bench| {
            for _ in 0..count {
                bench.client.getattr(node).unwrap();
            }
        });
        let lookup = self.measure("lookup", "op", count, |bench| {
            for _ in 0..count {
                bench.client.lookup(root, "file").unwrap();
            }
        });
        let open = self.measure("open + release", "op", count, |bench| {
            for _ in 0..count {
                let fh = bench.client.open(node, O_RDWR).unwrap().fh;
                bench.client.release(node, fh).unwrap();
            }
        });
        let create = self.measure("create + release + unlink + forget", "op", count, |bench| {
            for _ in 0..count {
                let (entry, open) = bench.client.create(root, "new", O_RDWR, 0o600).unwrap();
                bench.client.release(entry.nodeid, open.fh).unwrap();
                bench.client.unlink(Opcode::Unlink, root, "new").unwrap();
                bench.client.forget(entry.nodeid, 1);
            }
        });
        let rounds = count / ENTRIES + 1;
        let list = self.client.lookup(root, "list").unwrap().nodeid;
        let listed = self.measure("readdirplus", "entry", rounds * ENTRIES, |bench| {
            for _ in 0..rounds {
                let fh = bench.client.opendir(list).unwrap().fh;
                let entries = bench
                    .client
                    .list(Opcode::Readdirplus, list, fh, 4096)
                    .unwrap();
                assert_eq!(entries.len(), ENTRIES + 2);
                bench.client.release(list, fh).unwrap();
            }
        });
        vec![getattr, lookup, open, create, listed]
    }
}

/// Where the `i`th request of `size` bytes reads or writes: all over the file.
fn offset(i: usize, size: usize) -> u64 {
    let blocks = FILE / size;
    ((i * 7919) % blocks * size) as u64
}

/// Time that the worker of the request queue has been on a CPU.
fn worker_time() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
    for task in tasks.flatten().map(|task| task.path()) {
        let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
        if name.trim_end() == "virtio-fs-1" {
            let thread = task.file_name().unwrap_or_default();
            return on_cpu_of(&format!("self/task/{}", thread.display()));
        }
    }
    Duration::ZERO
}

/// Time that a thread, named by its directory in procfs, has been on a CPU.
fn on_cpu_of(thread: &str) -> Duration {
    let times = std::fs::read_to_string(format!("/proc/{thread}/schedstat")).unwrap_or_default();
    let on_cpu = times.split(' ').next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(on_cpu.unwrap_or(0))
}

fn print_table(figures: &[Figure]) {
    println!("{:<36} {:>16} {:>18}", "virtio-fs", "rate", "worker's CPU");
    for f in figures {
        let rate = format!("{:.0} {}/s", f.rate, f.unit);
        let cpu = format!("{:.2} us/{}", f.worker_ns / 1000.0, f.unit);
        println!("{:<36} {rate:>16} {cpu:>18}", f.name);
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
    fn new(place: Option<PathBuf>) -> Self {
        let shared = PathBuf::from("/dev/shm");
        let place = place.unwrap_or_else(|| match shared.is_dir() {
            true => shared,
            false => std::env::temp_dir(),
        });
        let dir = place.join(format!("podvmm-bench-fs-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
