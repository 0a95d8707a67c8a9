//! What tenants of one machine could learn of each other.

use crate::check::{Check, Group, Look, Weight};
use crate::facts::Facts;

const VULNERABILITIES: &str = "/sys/devices/system/cpu/vulnerabilities";

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "hygiene.vulnerabilities",
        group: Group::Hygiene,
        parameter: "kernel parameter mitigations=, microcode",
        expected: "none \"Vulnerable\"",
        why: "a guest may read memory of other guests and of the host through the processor",
        weight: Weight::ADVICE,
        fast: false,
        look: vulnerabilities,
    },
    Check {
        id: "hygiene.smt",
        group: Group::Hygiene,
        parameter: "kernel parameter nosmt",
        expected: "off",
        why: "two guests on one core share its caches and buffers",
        weight: Weight::TENANTS,
        fast: false,
        look: smt,
    },
    Check {
        id: "hygiene.ksm",
        group: Group::Hygiene,
        parameter: "/sys/kernel/mm/ksm/run",
        expected: "0",
        why: "merged pages tell a guest by their timing what others have in memory",
        weight: Weight::TENANTS,
        fast: false,
        look: ksm,
    },
    Check {
        id: "hygiene.swap",
        group: Group::Hygiene,
        parameter: "swap",
        expected: "none",
        why: "guest memory that was swapped out is on a disk, and slow to come back",
        weight: Weight::TENANTS,
        fast: false,
        look: swap,
    },
];

fn vulnerabilities(facts: &Facts<'_>) -> Look {
    let Ok(names) = facts.host().names(VULNERABILITIES) else {
        return Look::skip(format!("{VULNERABILITIES} cannot be read"));
    };
    let open: Vec<String> = names
        .into_iter()
        .filter(|name| {
            let text = facts.line(&format!("{VULNERABILITIES}/{name}"));
            text.is_ok_and(|text| text.contains("Vulnerable"))
        })
        .collect();
    if open.is_empty() {
        return Look::pass("none open");
    }
    let list = open.join(", ");
    Look::warn(
        format!("vulnerable: {list}"),
        format!("the processor's weaknesses are not all mitigated ({list})"),
        if facts.place().is_bare_metal() {
            "update microcode and kernel, and boot without mitigations=off"
        } else {
            "update the kernel and boot without mitigations=off; microcode is the hypervisor's"
        },
    )
}

fn smt(facts: &Facts<'_>) -> Look {
    match facts.line("/sys/devices/system/cpu/smt/active").as_deref() {
        Err(_) => Look::skip("/sys/devices/system/cpu/smt/active cannot be read"),
        Ok("0") => Look::pass("off"),
        Ok(_) => Look::warn(
            "on",
            "SMT (hyper-threading) is on: two pods can share a core",
            "boot with nosmt, or `echo off > /sys/devices/system/cpu/smt/control`, if tenants do not \
             trust each other",
        ),
    }
}

fn ksm(facts: &Facts<'_>) -> Look {
    match facts.line("/sys/kernel/mm/ksm/run").as_deref() {
        Err(_) => Look::pass("not in the kernel"),
        Ok("0") => Look::pass("off"),
        Ok(value) => Look::warn(
            format!("run = {value}"),
            "KSM merges equal pages of different guests",
            "`echo 2 > /sys/kernel/mm/ksm/run` (ksmtuned may switch it on again)",
        ),
    }
}

fn swap(facts: &Facts<'_>) -> Look {
    let Ok(text) = facts.host().read("/proc/swaps") else {
        return Look::pass("not in the kernel");
    };
    let areas: Vec<&str> = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    if areas.is_empty() {
        return Look::pass("none");
    }
    let list = areas.join(", ");
    Look::warn(
        &list,
        format!("swap is on ({list})"),
        "`swapoff -a` and take it out of /etc/fstab, or encrypt it; zram stays in memory and does \
         no harm",
    )
}
