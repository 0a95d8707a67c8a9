//! What the host's kernel can do.

use crate::check::{Check, Group, Look, Weight};
use crate::errno::Errno;
use crate::facts::Facts;
use crate::host::Attempt;

/// The oldest kernel that podvmm is meant for.
const OLDEST: (u32, u32) = (5, 10);

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "kernel.version",
        group: Group::Kernel,
        parameter: "kernel",
        expected: "5.10 or newer",
        why: "older ones lack fixes of KVM that guests can reach",
        weight: Weight::ADVICE,
        fast: false,
        look: version,
    },
    Check {
        id: "kernel.openat2",
        group: Group::Kernel,
        parameter: "system call openat2",
        expected: "works",
        why: "it keeps a guest inside the directories that it was given",
        weight: Weight::VITAL,
        fast: false,
        look: openat2,
    },
    Check {
        id: "kernel.memfd",
        group: Group::Kernel,
        parameter: "system call memfd_create",
        expected: "works",
        why: "the VMM process writes its last words to such a file",
        weight: Weight::VITAL,
        fast: false,
        look: memfd,
    },
    Check {
        id: "kernel.seccomp",
        group: Group::Kernel,
        parameter: "CONFIG_SECCOMP_FILTER",
        expected: "filters that can end a process",
        why: "it limits what a guest can do that has taken over its VMM",
        weight: Weight::ADVICE,
        fast: false,
        look: seccomp,
    },
    Check {
        id: "kernel.landlock",
        group: Group::Kernel,
        parameter: "CONFIG_SECURITY_LANDLOCK, kernel parameter lsm=",
        expected: "there",
        why: "it takes files away from a process without privileges",
        weight: Weight::INFORMATION,
        fast: false,
        look: landlock,
    },
    Check {
        id: "kernel.user-namespaces",
        group: Group::Kernel,
        parameter: "user namespaces",
        expected: "allowed, with rights inside",
        why: "without them only root can put a VMM into namespaces of its own",
        weight: Weight::ADVICE,
        fast: false,
        look: user_namespaces,
    },
    Check {
        id: "kernel.userfaultfd",
        group: Group::Kernel,
        parameter: "vm.unprivileged_userfaultfd",
        expected: "works",
        why: "it lets a guest run before all of its memory has been read from a snapshot",
        weight: Weight::INFORMATION,
        fast: false,
        look: userfaultfd,
    },
    Check {
        id: "kernel.huge-pages",
        group: Group::Kernel,
        parameter: "transparent_hugepage",
        expected: "always or madvise",
        why: "with pages of 4 KiB a guest's start takes hundreds of faults more",
        weight: Weight::ADVICE,
        fast: false,
        look: huge_pages,
    },
];

fn version(facts: &Facts<'_>) -> Look {
    let Ok(release) = facts.line("/proc/sys/kernel/osrelease") else {
        return Look::skip("/proc/sys/kernel/osrelease cannot be read");
    };
    match facts.kernel() {
        Some(version) if version < OLDEST => Look::warn(
            &release,
            format!("the kernel is older than 5.10 ({release})"),
            "update the kernel; podvmm is not tried on older ones",
        ),
        Some(_) => Look::pass(release),
        None => Look::skip(format!("`{release}` is no version of Linux")),
    }
}

/// A call that podvmm cannot do without.
fn needed(facts: &Facts<'_>, attempt: Attempt, call: &str, since: &str) -> Look {
    match facts.host().attempt(attempt) {
        Ok(_) => Look::pass("works"),
        Err(errno @ (Errno::PERM | Errno::ACCES)) => Look::fail(
            errno.to_string(),
            format!("{call} is forbidden, by a seccomp profile most likely"),
            format!("allow {call} in the container's seccomp profile (newer container engines do)"),
        ),
        Err(Errno::NOSYS) => Look::fail(
            "ENOSYS",
            format!("{call} is not there"),
            format!(
                "use Linux {since} or newer; in a container, an old engine's seccomp profile can be \
                 the reason: update it"
            ),
        ),
        Err(errno) => Look::fail(
            errno.to_string(),
            format!("{call} fails ({errno})"),
            "see what limits this process: seccomp profiles, limits, memory",
        ),
    }
}

fn openat2(facts: &Facts<'_>) -> Look {
    needed(facts, Attempt::Openat2, "openat2", "5.6")
}

fn memfd(facts: &Facts<'_>) -> Look {
    needed(facts, Attempt::Memfd, "memfd_create", "3.17")
}

fn seccomp(facts: &Facts<'_>) -> Look {
    let Ok(actions) = facts.line("/proc/sys/kernel/seccomp/actions_avail") else {
        return Look::warn(
            "no /proc/sys/kernel/seccomp/actions_avail",
            "the kernel has no seccomp filters",
            "use a kernel with CONFIG_SECCOMP_FILTER; all distributions' have it",
        );
    };
    if actions
        .split_whitespace()
        .any(|action| action == "kill_process")
    {
        return Look::pass(actions);
    }
    Look::warn(
        &actions,
        "seccomp filters cannot end a whole process (no kill_process)",
        "use Linux 4.14 or newer",
    )
}

fn landlock(facts: &Facts<'_>) -> Look {
    match facts.host().attempt(Attempt::Landlock) {
        Ok(version) => Look::pass(format!("version {version}")),
        Err(errno) => Look::info(
            errno.to_string(),
            "no Landlock: one fence fewer around a VMM that runs without root",
        )
        .with_remedy("add landlock to the kernel parameter lsm=, or use Linux 5.13 or newer"),
    }
}

fn user_namespaces(facts: &Facts<'_>) -> Look {
    if let Err(errno) = facts.host().attempt(Attempt::UserNamespace) {
        let (parameter, setting) = forbidden_by(facts);
        return Look::warn(
            errno.to_string(),
            "this user cannot make user namespaces",
            setting,
        )
        .at(parameter);
    }
    if let Err(errno) = facts.host().attempt(Attempt::NetworkInUserNamespace) {
        return Look::warn(
            format!("{errno} inside"),
            "user namespaces can be made, and give no rights inside",
            "`sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or an AppArmor profile for \
             podvmm with `userns,`",
        )
        .at("kernel.apparmor_restrict_unprivileged_userns");
    }
    Look::pass("allowed, with rights inside")
}

/// Which of the settings it is, and what to do.
fn forbidden_by(facts: &Facts<'_>) -> (&'static str, String) {
    let settings = [
        (
            "user.max_user_namespaces",
            "/proc/sys/user/max_user_namespaces",
            "15000",
        ),
        (
            "kernel.unprivileged_userns_clone",
            "/proc/sys/kernel/unprivileged_userns_clone",
            "1",
        ),
    ];
    let found = settings
        .iter()
        .find(|(_, path, _)| facts.line(path).is_ok_and(|value| value == "0"));
    match (found, facts.place().container) {
        (Some((name, _, value)), _) => (name, format!("`sysctl {name}={value}`")),
        (None, Some(_)) => (
            "seccomp profile of the container",
            "allow clone and unshare of user namespaces in the container's seccomp profile".into(),
        ),
        (None, None) => (
            "user namespaces",
            "use a kernel with CONFIG_USER_NS, or see which security module forbids it".into(),
        ),
    }
}

fn userfaultfd(facts: &Facts<'_>) -> Look {
    match facts.host().attempt(Attempt::Userfaultfd) {
        Ok(_) => Look::pass("works"),
        Err(errno) => Look::info(errno.to_string(), "no userfaultfd: nothing needs it yet"),
    }
}

fn huge_pages(facts: &Facts<'_>) -> Look {
    let Ok(setting) = facts.line("/sys/kernel/mm/transparent_hugepage/enabled") else {
        return Look::warn(
            "no transparent huge pages",
            "guest memory comes in pages of 4 KiB",
            "use a kernel with CONFIG_TRANSPARENT_HUGEPAGE",
        );
    };
    if setting.contains("[never]") {
        return Look::warn(
            setting,
            "transparent huge pages are off: guest memory comes in pages of 4 KiB",
            "`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`; for good: kernel \
             parameter transparent_hugepage=madvise",
        );
    }
    Look::pass(setting)
}
