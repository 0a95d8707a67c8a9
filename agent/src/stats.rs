//! What the kernel has counted, of containers and of the guest.
//!
//! All of it is read from files that the kernel writes without waiting for anybody: none of them needs a
//! lock that a process holds while it is out of memory, as those of /proc/PID about its mappings do.

use std::fs;
use std::str::FromStr;

use agent_protocol::proto::{
    ContainerStats, CpuStats, GuestStats, IoStats, MemoryStats, PidsStats, StatsResponse,
};

use crate::container::{Cgroup, HIERARCHY};
use crate::cpus::Cpus;

/// Most devices that are told of.
const MAX_IO_DEVICES: usize = 64;
/// Most counters of one file that are told; the kernel has some seventy.
const MAX_COUNTERS: usize = 128;

/// The counters of one container.
pub(crate) fn container(id: &str, cgroup: &Cgroup) -> ContainerStats {
    let read = |file: &str| cgroup.read(file).ok();
    let number = |file: &str| read(file).map_or(0, |text| amount(&text));
    let memory = read("memory.current").map(|current| MemoryStats {
        current: amount(&current),
        peak: number("memory.peak"),
        limit: number("memory.max"),
        swap_current: number("memory.swap.current"),
        swap_limit: number("memory.swap.max"),
        stat: counters(&read("memory.stat").unwrap_or_default()).collect(),
        events: counters(&read("memory.events").unwrap_or_default()).collect(),
        ..Default::default()
    });
    let pids = read("pids.current").map(|current| PidsStats {
        current: amount(&current),
        limit: number("pids.max"),
        ..Default::default()
    });
    ContainerStats {
        container_id: id.to_owned(),
        cpu: read("cpu.stat").map(|text| cpu(&text)).into(),
        memory: memory.into(),
        pids: pids.into(),
        io: io(&read("io.stat").unwrap_or_default()).collect(),
        ..Default::default()
    }
}

/// An answer with the counters of the guest.
pub(crate) fn response(containers: Vec<ContainerStats>) -> StatsResponse {
    StatsResponse {
        containers,
        guest: Some(guest()).into(),
        ..Default::default()
    }
}

fn guest() -> GuestStats {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let meminfo = read("/proc/meminfo");
    let cpu_stat = fs::read_to_string(format!("{HIERARCHY}/cpu.stat")).ok();
    GuestStats {
        memory_total: meminfo_bytes(&meminfo, "MemTotal:"),
        memory_available: meminfo_bytes(&meminfo, "MemAvailable:"),
        load_hundredths: load_hundredths(&read("/proc/loadavg")),
        online_cpus: Cpus::of_guest().online().unwrap_or(0),
        cpu: cpu_stat.map(|text| cpu(&text)).into(),
        ..Default::default()
    }
}

/// A number, or "max".
fn amount(text: &str) -> u64 {
    match text.trim() {
        "max" => u64::MAX,
        number => number.parse().unwrap_or(0),
    }
}

/// Lines of a name and a number.
fn counters(text: &str) -> impl Iterator<Item = (String, u64)> {
    let pairs = text.lines().filter_map(|line| {
        let (name, number) = line.split_once(' ')?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    });
    pairs.take(MAX_COUNTERS)
}

fn cpu(text: &str) -> CpuStats {
    let mut cpu = CpuStats::new();
    for (name, number) in counters(text) {
        match name.as_str() {
            "usage_usec" => cpu.usage_usec = number,
            "user_usec" => cpu.user_usec = number,
            "system_usec" => cpu.system_usec = number,
            "nr_periods" => cpu.nr_periods = number,
            "nr_throttled" => cpu.nr_throttled = number,
            "throttled_usec" => cpu.throttled_usec = number,
            _ => {}
        }
    }
    cpu
}

/// Lines such as `254:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn io(text: &str) -> impl Iterator<Item = IoStats> {
    let devices = text.lines().filter_map(|line| {
        let (device, rest) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let mut stats = IoStats {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            ..Default::default()
        };
        for (name, number) in rest.split(' ').filter_map(|field| field.split_once('=')) {
            let number = number.parse().unwrap_or(0);
            match name {
                "rbytes" => stats.rbytes = number,
                "wbytes" => stats.wbytes = number,
                "rios" => stats.rios = number,
                "wios" => stats.wios = number,
                _ => {}
            }
        }
        Some(stats)
    });
    devices.take(MAX_IO_DEVICES)
}

/// The file has kibibytes.
fn meminfo_bytes(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kibibytes| kibibytes.saturating_mul(1024))
}

/// `0.25 1.10 12.00 1/80 1234`, always with two decimals.
fn load_hundredths(text: &str) -> Vec<u32> {
    let hundredths = |load: &str| {
        let (whole, part) = load.split_once('.')?;
        let whole = u32::from_str(whole).ok()?.checked_mul(100)?;
        whole.checked_add(u32::from_str(part).ok()?)
    };
    text.split(' ').take(3).filter_map(hundredths).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_and_throttling_are_told_apart() {
        let text = "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\ncore_sched.force_idle_usec 0\n\
                    nr_periods 7\nnr_throttled 2\nthrottled_usec 500\nnr_bursts 0\n";
        let cpu = cpu(text);
        assert_eq!(
            (cpu.usage_usec, cpu.user_usec, cpu.system_usec),
            (3000, 2000, 1000)
        );
        assert_eq!(
            (cpu.nr_periods, cpu.nr_throttled, cpu.throttled_usec),
            (7, 2, 500)
        );
    }

    #[test]
    fn devices_are_told_apart_and_bounded() {
        let text = "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\nnonsense\n8:16 \n";
        let found: Vec<IoStats> = io(text).collect();
        assert_eq!(found.len(), 2);
        let first = &found[0];
        assert_eq!((first.major, first.minor), (254, 0));
        assert_eq!(
            (first.rbytes, first.wbytes, first.rios, first.wios),
            (4096, 8192, 1, 2)
        );
        assert_eq!((found[1].major, found[1].rbytes), (8, 0));
        let many: String = (0..1000).map(|n| format!("8:{n} rios=1\n")).collect();
        assert_eq!(io(&many).count(), MAX_IO_DEVICES);
    }

    #[test]
    fn limits_may_be_none_and_nonsense_is_nothing() {
        assert_eq!(amount("max\n"), u64::MAX);
        assert_eq!(amount("4096\n"), 4096);
        assert_eq!(amount("x"), 0);
        let found: Vec<_> = counters("anon 1\nfile\nslab x\npgfault 2\n").collect();
        assert_eq!(found, [("anon".to_owned(), 1), ("pgfault".to_owned(), 2)]);
    }

    #[test]
    fn the_guest_is_read_as_the_kernel_writes_it() {
        let text = "MemTotal:        2048 kB\nMemFree: 1 kB\nMemAvailable:    1024 kB\n";
        assert_eq!(meminfo_bytes(text, "MemTotal:"), 2 << 20);
        assert_eq!(meminfo_bytes(text, "MemAvailable:"), 1 << 20);
        assert_eq!(meminfo_bytes(text, "Nothing:"), 0);
        assert_eq!(
            load_hundredths("0.25 1.10 12.00 1/80 1234\n"),
            [25, 110, 1200]
        );
    }
}
