//! Limits of a configuration as files of a cgroup (v2) and as resource limits of a process.

use rustix::process::{Resource, Rlimit};

use super::spec::{self, Resources};
use crate::rpc::Refusal;

/// The kernel's default period of `cpu.max` in microseconds.
const DEFAULT_CPU_PERIOD_US: u64 = 100_000;

/// Files to write, in order.
pub(super) fn files(resources: &Resources) -> Result<Vec<(String, String)>, Refusal> {
    let mut files = Vec::new();
    let mut add = |name: &str, value: String| files.push((name.to_owned(), value));
    memory(&resources.memory, &mut add)?;
    cpu(&resources.cpu, &mut add)?;
    if let Some(limit) = resources.pids.limit {
        add(
            "pids.max",
            if limit > 0 {
                limit.to_string()
            } else {
                "max".to_owned()
            },
        );
    }
    for (name, value) in &resources.unified {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        // A dot inside: such files belong to a controller and are not the cgroup's own directories.
        let is_file = name.contains('.') && !name.starts_with('.') && !name.starts_with("cgroup.");
        if !is_file || !name.chars().all(allowed) {
            return Err(Refusal::invalid(format!(
                "linux.resources.unified: {name:?}"
            )));
        }
        add(name, value.clone());
    }
    Ok(files)
}

fn memory(memory: &spec::Memory, add: &mut impl FnMut(&str, String)) -> Result<(), Refusal> {
    if let Some(limit) = memory.limit {
        add("memory.max", bytes("memory.limit", limit)?);
    }
    if let Some(reservation) = memory.reservation {
        add("memory.low", bytes("memory.reservation", reservation)?);
    }
    match (memory.swap, memory.limit) {
        (None | Some(0), _) => {}
        (Some(-1), _) => add("memory.swap.max", "max".to_owned()),
        // The configuration counts memory and swap together, the kernel swap alone.
        (Some(both), Some(limit)) if limit >= 0 && both >= limit => {
            add("memory.swap.max", (both - limit).to_string());
        }
        (Some(both), _) => {
            let problem = format!("linux.resources.memory.swap {both} is below the memory limit");
            return Err(Refusal::invalid(problem));
        }
    }
    Ok(())
}

fn bytes(field: &str, value: i64) -> Result<String, Refusal> {
    match value {
        -1 => Ok("max".to_owned()),
        0.. => Ok(value.to_string()),
        _ => Err(Refusal::invalid(format!("linux.resources.{field} {value}"))),
    }
}

fn cpu(cpu: &spec::Cpu, add: &mut impl FnMut(&str, String)) -> Result<(), Refusal> {
    if let Some(idle) = cpu.idle {
        add("cpu.idle", idle.to_string());
    }
    if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
        add("cpu.weight", weight(shares).to_string());
    }
    if cpu.quota.is_some() || cpu.period.is_some() {
        let period = cpu
            .period
            .filter(|us| *us != 0)
            .unwrap_or(DEFAULT_CPU_PERIOD_US);
        let quota = match cpu.quota {
            Some(quota @ 1..) => quota.to_string(),
            _ => "max".to_owned(),
        };
        add("cpu.max", format!("{quota} {period}"));
    }
    if let Some(burst) = cpu.burst {
        add("cpu.max.burst", burst.to_string());
    }
    for (file, list) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
        let Some(list) = list.as_deref().filter(|list| !list.is_empty()) else {
            continue;
        };
        if !list.chars().all(|c| c.is_ascii_digit() || ",-".contains(c)) {
            return Err(Refusal::invalid(format!(
                "linux.resources.cpu: list {list:?}"
            )));
        }
        add(file, list.to_owned());
    }
    Ok(())
}

/// cgroup v1's shares (2 to 262,144) on the scale of v2's weights (1 to 10,000), as runc maps them.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

const RLIMITS: [(&str, Resource); 16] = [
    ("RLIMIT_AS", Resource::As),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_DATA", Resource::Data),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_LOCKS", Resource::Locks),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NICE", Resource::Nice),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_RSS", Resource::Rss),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_RTTIME", Resource::Rttime),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_STACK", Resource::Stack),
];

/// Checks one of `process.rlimits`.
pub(super) fn rlimit(limit: &spec::Rlimit) -> Result<(Resource, Rlimit), Refusal> {
    let (_, resource) = RLIMITS
        .into_iter()
        .find(|(name, _)| *name == limit.kind)
        .ok_or_else(|| Refusal::invalid(format!("process.rlimits: type {:?}", limit.kind)))?;
    if limit.soft > limit.hard {
        return Err(Refusal::invalid(format!(
            "process.rlimits: {} soft > hard",
            limit.kind
        )));
    }
    // The configuration's largest number is RLIM_INFINITY.
    let value = |value: u64| (value != u64::MAX).then_some(value);
    Ok((
        resource,
        Rlimit {
            current: value(limit.soft),
            maximum: value(limit.hard),
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files_of(json: &str) -> Result<Vec<(String, String)>, Refusal> {
        files(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn limits_become_files() {
        let files = files_of(
            r#"{"memory":{"limit":1048576,"swap":3145728},"cpu":{"shares":1024,"quota":50000},
                "pids":{"limit":10},"unified":{"memory.oom.group":"1"}}"#,
        )
        .unwrap();
        let expected = [
            ("memory.max", "1048576"),
            ("memory.swap.max", "2097152"),
            ("cpu.weight", "39"),
            ("cpu.max", "50000 100000"),
            ("pids.max", "10"),
            ("memory.oom.group", "1"),
        ];
        let expected: Vec<_> = expected
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        assert_eq!(files, expected);
    }

    #[test]
    fn weights_span_their_scale() {
        assert_eq!(weight(2), 1);
        assert_eq!(weight(262_144), 10_000);
        assert_eq!(weight(u64::MAX), 10_000);
    }

    #[test]
    fn no_limit_reaches_another_file() {
        for name in [
            "../memory.max",
            "cgroup.procs",
            "a/b.c",
            ".hidden",
            "subgroup",
        ] {
            let json = format!(r#"{{"unified":{{"{name}":"1"}}}}"#);
            assert!(files_of(&json).is_err(), "{name}");
        }
        assert!(files_of(r#"{"cpu":{"cpus":"0\n1"}}"#).is_err());
        assert!(files_of(r#"{"memory":{"limit":-2}}"#).is_err());
    }
}
