//! What pods cost by each runtime handler: their start and end, and the node's memory for one more.
//!
//! ```text
//!   RunPodSandbox ─ CreateContainer ─ StartContainer ─ … ─ first output is in the log     "start"
//!   StopPodSandbox ─ … ─ RemovePodSandbox                                                  "end"
//! ```
//!
//! Where one instruction is one nanosecond of the clock (`lab -i`), the times are numbers of instructions,
//! of everything: containerd, shim, node's kernel, VMM and guest. `make bench-cri` runs it there.
//! The log is waited for by inotify: nothing polls, for the lab's clock leaps over every sleep.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use podvmm_cri_tests::Handler;
use podvmm_cri_tests::alone::{self, Role};
use podvmm_cri_tests::bed::{Assets, Bed};
use podvmm_cri_tests::handler::{ALL, PODVMM};
use podvmm_cri_tests::pod::{self, Container, Pod};
use podvmm_cri_tests::spec::{ContainerSpec, PodSpec};
use rustix::fs::inotify;

/// Pods that warm the caches up, pods that count, and further pods whose memory is looked at.
const WARM: usize = 2;
const COUNTED: usize = 5;
const FURTHER: usize = 3;

/// What has a target, and the most that it may be.
const FURTHER_POD: &str = "a further idle pod: PSS of its processes";
const MAX_FURTHER_MIB: f64 = 60.0;

/// How long a pod is left alone before its memory counts.
const REST: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("pods: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<u8> {
    if let Role::Done(code) = alone::enter()? {
        return Ok(code);
    }
    let assets = Assets::from_environment()?;
    pod::prepare_cgroups()?;
    let bed = Bed::start(&assets).context("the node could not be set up")?;
    println!(
        "{:<53}{:>6}{:>10}",
        "What a pod costs under containerd", "least", "median"
    );
    for handler in ALL {
        measure(&bed, handler).with_context(|| format!("handler {handler}"))?;
    }
    bed.stop()?;
    pod::remove_cgroups()?;
    Ok(0)
}

fn measure(bed: &Bed, handler: Handler) -> Result<()> {
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    for number in 0..WARM + COUNTED {
        let began = Instant::now();
        let (pod, container) = start(bed, handler)?;
        first_output(&container)?;
        let start = began.elapsed();
        let began = Instant::now();
        pod.remove_at_once()?;
        if number >= WARM {
            starts.push(start);
            ends.push(began.elapsed());
        }
    }
    let millions = |times: Vec<Duration>| {
        times
            .iter()
            .map(|time| time.as_secs_f64() * 1e3)
            .collect::<Vec<_>>()
    };
    print(
        handler,
        "RunPodSandbox to first output",
        millions(starts),
        "M instructions",
    );
    print(
        handler,
        "RemovePodSandbox",
        millions(ends),
        "M instructions",
    );
    memory(bed, handler)
}

/// A pod with one container, which says a line and sleeps.
fn start(bed: &Bed, handler: Handler) -> Result<(Pod, Container)> {
    let pod = Pod::run(bed.cri(), handler.name, PodSpec::new("bench"))?;
    let container = pod.start(ContainerSpec::sh("echo ready; exec sleep 1000000"))?;
    Ok((pod, container))
}

/// Waits until the container's log has something in it.
fn first_output(container: &Container) -> Result<()> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, &container.log, inotify::WatchFlags::MODIFY)
        .with_context(|| container.log.display().to_string())?;
    while fs::read(&container.log)?.is_empty() {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 512];
        inotify::Reader::new(&watch, &mut buffer).next()?;
    }
    Ok(())
}

/// What the node holds for each pod beside another of the same kind.
fn memory(bed: &Bed, handler: Handler) -> Result<()> {
    let first = start(bed, handler)?;
    first_output(&first.1)?;
    let mut pods = vec![first.0];
    let (mut all, mut guest, mut charged) = (Vec::new(), Vec::new(), Vec::new());
    let mut more = Vec::new();
    for _ in 0..FURTHER {
        let before = processes()?;
        let held = sum_of(&before).pss_kib;
        let (pod, container) = start(bed, handler)?;
        first_output(&container)?;
        std::thread::sleep(REST);
        let after = processes()?;
        let of_pod: BTreeSet<_> = after.difference(&before).copied().collect();
        ensure!(!of_pod.is_empty(), "a pod without a process");
        let sum = sum_of(&of_pod);
        all.push(mebibytes(sum.pss_kib));
        more.push(mebibytes(sum_of(&after).pss_kib.saturating_sub(held)));
        guest.push(mebibytes(sum.guest_kib));
        let current = pod.cgroup().join("memory.current");
        let bytes: u64 = fs::read_to_string(&current)?.trim_end().parse()?;
        charged.push(mebibytes(bytes / 1024));
        pods.push(pod);
    }
    print(handler, FURTHER_POD, all, "MiB");
    if handler.own_kernel {
        print(handler, "  of that the guest's memory", guest, "MiB");
    }
    print(
        handler,
        "  by which all processes together grew",
        more,
        "MiB",
    );
    print(handler, "  charged to the pod's cgroup", charged, "MiB");
    pods.into_iter().try_for_each(Pod::remove)
}

fn print(handler: Handler, what: &str, mut figures: Vec<f64>, unit: &str) {
    figures.sort_by(f64::total_cmp);
    let median = figures[figures.len() / 2];
    let verdict = match (handler, what) {
        (PODVMM, FURTHER_POD) if median <= MAX_FURTHER_MIB => "<= 60  PASS",
        (PODVMM, FURTHER_POD) => "<= 60  MISS",
        _ => "",
    };
    let line = format!(
        "{:<8}{what:<45}{:>6.1}{median:>10.1}   {unit:<15}{verdict}",
        handler.name, figures[0],
    );
    println!("{}", line.trim_end());
}

fn mebibytes(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// Those of this machine: the program has a process namespace of its own.
fn processes() -> Result<BTreeSet<u32>> {
    let names =
        fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

fn sum_of(processes: &BTreeSet<u32>) -> Memory {
    let each = processes.iter().map(|process| Memory::of(*process));
    each.fold(Memory::default(), Memory::and)
}

/// Memory of processes, each page in the parts in which it is shared.
#[derive(Clone, Copy, Default)]
struct Memory {
    pss_kib: u64,
    /// Of guest RAM.
    guest_kib: u64,
}

impl Memory {
    fn and(self, other: Self) -> Self {
        Self {
            pss_kib: self.pss_kib + other.pss_kib,
            guest_kib: self.guest_kib.max(other.guest_kib),
        }
    }

    /// Of a process; nothing if that has ended.
    fn of(process: u32) -> Self {
        let path = format!("/proc/{process}/smaps");
        parse(&fs::read_to_string(Path::new(&path)).unwrap_or_default())
    }
}

/// One mapping of an smaps.
struct Mapping {
    start: u64,
    end: u64,
    anonymous: bool,
    pss_kib: u64,
}

fn parse(smaps: &str) -> Memory {
    let mut all: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let range = words.first().and_then(|range| range.split_once('-'));
        let range = range.and_then(|(start, end)| {
            let address = |text| u64::from_str_radix(text, 16).ok();
            Some((address(start)?, address(end)?))
        });
        if let Some((start, end)) = range {
            all.push(Mapping {
                start,
                end,
                anonymous: words.len() == 5,
                pss_kib: 0,
            });
        } else if let (Some(last), ["Pss:", kib, "kB"]) = (all.last_mut(), &words[..]) {
            last.pss_kib = kib.parse().unwrap_or(0);
        }
    }
    Memory {
        pss_kib: all.iter().map(|one| one.pss_kib).sum(),
        guest_kib: guest(&all),
    }
}

/// Guest RAM is what is anonymous without a gap for as much as the smallest guest has: the memory that it
/// has from the start, and that by which it may grow.
fn guest(all: &[Mapping]) -> u64 {
    const LEAST: u64 = 64 << 20;
    all.chunk_by(|one, next| one.anonymous && next.anonymous && one.end == next.start)
        .filter(|run| {
            run[0].anonymous && run.iter().map(|one| one.end - one.start).sum::<u64>() >= LEAST
        })
        .flatten()
        .map(|one| one.pss_kib)
        .sum()
}
