//! Figures of the guest's cgroups in the form in which containerd takes those of cgroup v2.

use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PidsStat,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageFull};
use sandbox::container::{ContainerStats, CpuStats, GuestStats};

/// What a container uses.
pub fn of_container(stats: &ContainerStats) -> Metrics {
    let memory = stats.memory.get_or_default();
    let pids = stats.pids.get_or_default();
    let counted = |name: &str| memory.stat.get(name).copied().unwrap_or(0);
    let event = |name: &str| memory.events.get(name).copied().unwrap_or(0);
    Metrics {
        pids: Some(PidsStat {
            current: pids.current,
            limit: pids.limit,
            ..Default::default()
        })
        .into(),
        cpu: Some(cpu(stats.cpu.get_or_default())).into(),
        memory: Some(MemoryStat {
            usage: memory.current,
            usage_limit: memory.limit,
            max_usage: memory.peak,
            swap_usage: memory.swap_current,
            swap_limit: memory.swap_limit,
            anon: counted("anon"),
            file: counted("file"),
            kernel_stack: counted("kernel_stack"),
            slab: counted("slab"),
            sock: counted("sock"),
            shmem: counted("shmem"),
            file_mapped: counted("file_mapped"),
            file_dirty: counted("file_dirty"),
            file_writeback: counted("file_writeback"),
            anon_thp: counted("anon_thp"),
            inactive_anon: counted("inactive_anon"),
            active_anon: counted("active_anon"),
            inactive_file: counted("inactive_file"),
            active_file: counted("active_file"),
            unevictable: counted("unevictable"),
            slab_reclaimable: counted("slab_reclaimable"),
            slab_unreclaimable: counted("slab_unreclaimable"),
            pgfault: counted("pgfault"),
            pgmajfault: counted("pgmajfault"),
            ..Default::default()
        })
        .into(),
        memory_events: Some(MemoryEvents {
            low: event("low"),
            high: event("high"),
            max: event("max"),
            oom: event("oom"),
            oom_kill: event("oom_kill"),
            ..Default::default()
        })
        .into(),
        io: Some(io(stats)).into(),
        ..Default::default()
    }
}

/// What the guest as a whole uses.
pub fn of_guest(stats: &GuestStats) -> Metrics {
    let used = stats.memory_total.saturating_sub(stats.memory_available);
    Metrics {
        cpu: Some(cpu(stats.cpu.get_or_default())).into(),
        memory: Some(MemoryStat {
            usage: used,
            usage_limit: stats.memory_total,
            ..Default::default()
        })
        .into(),
        ..Default::default()
    }
}

/// The figures as a response carries them.
pub fn any(metrics: &Metrics) -> Any {
    Any {
        type_url: Metrics::descriptor().full_name().to_owned(),
        value: metrics.write_to_bytes().unwrap_or_default(),
        ..Default::default()
    }
}

fn cpu(cpu: &CpuStats) -> CPUStat {
    CPUStat {
        usage_usec: cpu.usage_usec,
        user_usec: cpu.user_usec,
        system_usec: cpu.system_usec,
        nr_periods: cpu.nr_periods,
        nr_throttled: cpu.nr_throttled,
        throttled_usec: cpu.throttled_usec,
        ..Default::default()
    }
}

fn io(stats: &ContainerStats) -> IOStat {
    let entry = |io: &sandbox::container::IoStats| IOEntry {
        major: io.major.into(),
        minor: io.minor.into(),
        rbytes: io.rbytes,
        wbytes: io.wbytes,
        rios: io.rios,
        wios: io.wios,
        ..Default::default()
    };
    IOStat {
        usage: stats.io.iter().map(entry).collect(),
        ..Default::default()
    }
}
