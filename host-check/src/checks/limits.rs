//! Limits of this process and memory of the machine.

use crate::check::{Check, Group, Look, Weight};
use crate::facts::Facts;

/// A pod's default memory, in KiB.
const POD_KIB: u64 = 2 << 20;
const POD_BYTES: u64 = POD_KIB << 10;
/// Each open file of a guest is one of its VMM.
const FILES: u64 = 4096;
const PROCESSES: u64 = 1024;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "limits.open-files",
        group: Group::Limits,
        parameter: "RLIMIT_NOFILE (ulimit -n)",
        expected: "4096 or more (hard limit)",
        why: "each file that a pod has open is one of its VMM process",
        weight: Weight::ADVICE,
        fast: false,
        look: open_files,
    },
    Check {
        id: "limits.processes",
        group: Group::Limits,
        parameter: "RLIMIT_NPROC (ulimit -u)",
        expected: "1024 or more",
        why: "a pod is about ten threads on the host, and one more per vCPU",
        weight: Weight::ADVICE,
        fast: false,
        look: processes,
    },
    Check {
        id: "limits.address-space",
        group: Group::Limits,
        parameter: "RLIMIT_AS (ulimit -v)",
        expected: "unlimited",
        why: "a guest's memory is mapped whole, used or not",
        weight: Weight::ADVICE,
        fast: false,
        look: address_space,
    },
    Check {
        id: "limits.memory",
        group: Group::Limits,
        parameter: "memory",
        expected: "2 GiB available",
        why: "a pod may use 2 GiB unless told otherwise",
        weight: Weight::ADVICE,
        fast: false,
        look: memory,
    },
    Check {
        id: "limits.overcommit",
        group: Group::Limits,
        parameter: "vm.overcommit_memory",
        expected: "0 or 1",
        why: "2 counts all of a guest's memory when it is mapped, not when it is used",
        weight: Weight::ADVICE,
        fast: false,
        look: overcommit,
    },
];

/// Soft and hard limit, in this order; nothing is unlimited.
type Limit = (Option<u64>, Option<u64>);

fn limit(facts: &Facts<'_>, name: &str) -> Result<Limit, Look> {
    let missing = || Look::skip("/proc/self/limits cannot be read");
    let text = facts
        .host()
        .read("/proc/self/limits")
        .map_err(|_| missing())?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let mut words = line.ok_or_else(missing)?.split_whitespace();
    let mut next = || words.next().and_then(|word| word.parse().ok());
    Ok((next(), next()))
}

fn open_files(facts: &Facts<'_>) -> Look {
    match limit(facts, "Max open files") {
        Err(look) => look,
        Ok((_, Some(hard))) if hard < FILES => Look::warn(
            hard.to_string(),
            format!("a process may have {hard} files open"),
            "raise it: LimitNOFILE= of the service, or /etc/security/limits.conf; docker: \
             `--ulimit nofile=1048576`",
        ),
        Ok((_, hard)) => Look::pass(shown(hard)),
    }
}

fn processes(facts: &Facts<'_>) -> Look {
    match limit(facts, "Max processes") {
        Err(look) => look,
        Ok((Some(soft), _)) if soft < PROCESSES && !facts.identity().is_root() => Look::warn(
            soft.to_string(),
            format!("this user may have {soft} threads"),
            "raise it: LimitNPROC= of the service, or /etc/security/limits.conf",
        ),
        Ok((soft, _)) => Look::pass(shown(soft)),
    }
}

fn address_space(facts: &Facts<'_>) -> Look {
    match limit(facts, "Max address space") {
        Err(look) => look,
        Ok((Some(soft), _)) if soft < 2 * POD_BYTES => Look::warn(
            format!("{} MiB", soft >> 20),
            "too little address space for a pod's memory",
            "`ulimit -v unlimited`, or LimitAS=infinity of the service",
        ),
        Ok((soft, _)) => Look::pass(shown(soft)),
    }
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |number| number.to_string())
}

fn memory(facts: &Facts<'_>) -> Look {
    let available = facts.host().read("/proc/meminfo").ok().and_then(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    let Some(available) = available else {
        return Look::skip("/proc/meminfo cannot be read");
    };
    let observed = format!("{} MiB available", available >> 10);
    if available < POD_KIB {
        return Look::warn(
            &observed,
            format!("there is less memory than a pod may use ({observed})"),
            "give pods less: `podvmm run --mem 512M`, a memory limit in the pod's manifest; or use a \
             machine with more",
        );
    }
    Look::pass(observed)
}

fn overcommit(facts: &Facts<'_>) -> Look {
    match facts.line("/proc/sys/vm/overcommit_memory").as_deref() {
        Err(_) => Look::skip("/proc/sys/vm/overcommit_memory cannot be read"),
        Ok("2") => Look::warn(
            "2",
            "memory is counted when it is mapped (vm.overcommit_memory = 2)",
            "`sysctl vm.overcommit_memory=0`, or raise vm.overcommit_ratio so far that all pods' \
             memory fits",
        ),
        Ok(value) => Look::pass(value),
    }
}
