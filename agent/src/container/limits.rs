//! Limits of a configuration as files of a cgroup (v2) and as resource limits of a process.

use rustix::process::{Resource, Rlimit};

use super::spec::{self, Resources};
use super::{Cgroup, plan};
use crate::rpc::Refusal;

/// A checked change of limits.
#[derive(Debug)]
pub(crate) struct Update {
    /// File of the container's cgroup, and value.
    files: Vec<(String, String)>,
    /// Do nothing if more memory than this is in use.
    only_if_used_at_most: Option<u64>,
}

impl Update {
    /// Checks the resources of an UpdateContainer request.
    pub(crate) fn new(json: &[u8]) -> Result<Self, Refusal> {
        let resources: Resources = plan::parse("resources_json", json)?;
        plan::refuse(resources.refused_field())?;
        if resources.cpu.period.is_some() && resources.cpu.quota.is_none() {
            // The kernel has one file for both, which would lose the quota.
            return Err(Refusal::invalid(
                "linux.resources.cpu.period without cpu.quota",
            ));
        }
        let memory = &resources.memory;
        let limit = memory.limit.filter(|_| memory.check_before_update);
        Ok(Self {
            files: files(&resources)?,
            only_if_used_at_most: limit.and_then(|limit| u64::try_from(limit).ok()),
        })
    }

    /// Carries it out, which takes as long as the kernel takes to reclaim memory.
    pub(crate) fn apply(&self, cgroup: &Cgroup) -> Result<(), String> {
        if let Some(limit) = self.only_if_used_at_most {
            let used = cgroup.read("memory.current").unwrap_or_default();
            let used = used.trim();
            if used.parse().is_ok_and(|used: u64| used > limit) {
                return Err(format!(
                    "memory.limit {limit} is below the {used} bytes in use (checkBeforeUpdate)"
                ));
            }
        }
        cgroup
            .set_limits(&self.files)
            .map_err(|error| error.to_string())
    }
}

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
    for limit in &resources.hugepage_limits {
        // The guest has no pool of huge pages, so nobody can have any; the kubelet says so of every pod.
        if limit.limit != 0 {
            return Err(Refusal::unimplemented(format!(
                "linux.resources.hugepageLimits: {} of {} is not supported",
                limit.limit, limit.page_size
            )));
        }
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
            let problem = format!(
                "linux.resources.memory.swap {both} needs a memory.limit that is not above it"
            );
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
        let quota = match cpu.quota {
            Some(quota @ 1..) => quota.to_string(),
            _ => "max".to_owned(),
        };
        let value = match cpu.period.filter(|us| *us != 0) {
            Some(period) => format!("{quota} {period}"),
            // The period stays as it is: 100 ms at first.
            None => quota,
        };
        add("cpu.max", value);
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
            ("cpu.max", "50000"),
            ("pids.max", "10"),
            ("memory.oom.group", "1"),
        ];
        let expected: Vec<_> = expected
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        assert_eq!(files, expected);
    }

    #[test]
    fn an_update_leaves_what_it_does_not_name() {
        let update = |json: &str| Update::new(json.as_bytes());
        assert_eq!(update("{}").unwrap().files, []);
        let both =
            update(r#"{"cpu":{"quota":-1,"period":50000},"memory":{"limit":4096}}"#).unwrap();
        let expected = [("memory.max", "4096"), ("cpu.max", "max 50000")];
        assert_eq!(
            both.files,
            expected.map(|(file, value)| (file.to_owned(), value.to_owned()))
        );
        assert_eq!(both.only_if_used_at_most, None);
        let careful = r#"{"memory":{"limit":4096,"checkBeforeUpdate":true}}"#;
        assert_eq!(update(careful).unwrap().only_if_used_at_most, Some(4096));
        let refused = |json: &str| update(json).unwrap_err().message;
        assert!(refused(r#"{"cpu":{"period":50000}}"#).contains("cpu.period"));
        assert!(refused(r#"{"blockIO":{"weight":10}}"#).contains("linux.resources.blockIO"));
        assert!(refused(r#"{"memory":{"swap":4096}}"#).contains("memory.swap"));
        assert!(refused(r#"{"memory":{"kernel":4096}}"#).contains("memory.kernel"));
        assert!(refused(r#"{"cpu":{"unheardOf":1}}"#).contains("unheardOf"));
        assert!(refused("x").contains("resources_json"));
    }

    #[test]
    fn huge_pages_may_be_none() {
        let none =
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0},{"pageSize":"1GB","limit":0}]}"#;
        assert_eq!(files_of(none).unwrap(), []);
        let some = files_of(r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#);
        assert!(some.unwrap_err().message.contains("2MB"));
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
