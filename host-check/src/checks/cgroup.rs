//! Control groups.

use crate::check::{Check, Group, Look, Weight};
use crate::facts::Facts;

const ROOT: &str = "/sys/fs/cgroup";
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "cgroup.version",
        group: Group::Cgroup,
        parameter: "systemd.unified_cgroup_hierarchy",
        expected: "version 2 alone",
        why: "a pod's processor time and memory on the host are limited by version 2",
        weight: Weight::ADVICE,
        fast: false,
        look: version,
    },
    Check {
        id: "cgroup.controllers",
        group: Group::Cgroup,
        parameter: "cgroup.controllers",
        expected: "cpu, memory, pids",
        why: "what has no controller has no limit",
        weight: Weight::ADVICE,
        fast: false,
        look: controllers,
    },
];

fn is_v2(facts: &Facts<'_>) -> bool {
    kind(facts, ROOT) == "cgroup2"
}

fn kind(facts: &Facts<'_>, path: &str) -> String {
    let found = facts.host().file_system(path);
    found.map(|found| found.kind).unwrap_or_default()
}

fn version(facts: &Facts<'_>) -> Look {
    if is_v2(facts) {
        return Look::pass("version 2");
    }
    if !facts.host().exists(ROOT) || kind(facts, ROOT) == "sysfs" {
        return Look::warn(
            format!("nothing mounted on {ROOT}"),
            "there are no control groups",
            format!("mount them: `mount -t cgroup2 cgroup2 {ROOT}`"),
        );
    }
    let remedy = "boot with systemd.unified_cgroup_hierarchy=1 (kernel parameter); distributions \
                  of 2022 and later do by default";
    if kind(facts, &format!("{ROOT}/unified")) == "cgroup2" {
        return Look::warn(
            "hybrid: version 1, and version 2 on unified",
            "cgroup controllers are on version 1 (hybrid)",
            remedy,
        );
    }
    Look::warn("version 1", "control groups are version 1", remedy)
}

fn controllers(facts: &Facts<'_>) -> Look {
    if !is_v2(facts) {
        return Look::does_not_apply("version 2 is not mounted: see cgroup.version");
    }
    let Ok(there) = facts.line(&format!("{ROOT}/cgroup.controllers")) else {
        return Look::skip(format!("{ROOT}/cgroup.controllers cannot be read"));
    };
    let missing: Vec<&str> = NEEDED
        .into_iter()
        .filter(|name| !there.split_whitespace().any(|word| word == *name))
        .collect();
    if missing.is_empty() {
        return Look::pass(there);
    }
    let missing = missing.join(", ");
    Look::warn(
        if there.is_empty() { "none" } else { &there },
        format!("there is no cgroup controller {missing}"),
        match facts.place().container {
            Some(_) => format!("let the container engine delegate {missing} (cgroup namespace)"),
            None => format!(
                "see that the kernel does not switch {missing} off (cgroup_disable=) and that no \
                 version 1 hierarchy holds it"
            ),
        },
    )
}
