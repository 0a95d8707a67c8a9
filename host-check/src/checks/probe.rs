//! What a test machine shows. Speed decides, not flags.

use crate::advice;
use crate::check::{Check, Group, Look, Weight};
use crate::facts::Facts;
use crate::host::{Probe, Speed};
use crate::place::Hypervisor;

/// Slower than any hardware since 2010, in million instructions per second: software emulation, or
/// a machine with far too much to do.
const SLOW: f64 = 1000.0;
/// User mode so much faster than kernel mode is no hardware.
const UNEVEN: f64 = 5.0;
/// Microseconds from which `KVM_CREATE_VM` shows in the start of a pod.
const SLOW_CREATE: f64 = 10_000.0;
/// Microseconds of an exit that only nested virtualization takes.
const SLOW_EXIT: f64 = 10.0;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "probe.run",
        group: Group::Probe,
        parameter: "/dev/kvm",
        expected: "a test machine gets through a loop in kernel mode and in user mode",
        why: "a KVM can accept every call and still not run a guest",
        weight: Weight::VITAL,
        fast: true,
        look: run,
    },
    Check {
        id: "probe.speed",
        group: Group::Probe,
        parameter: "/dev/kvm",
        expected: "100 M instructions/s or more at CPL 0, or both levels alike",
        why: "a guest's kernel would run thousands of times slower than its programs: minutes to boot",
        weight: Weight::VITAL,
        fast: true,
        look: speed,
    },
    Check {
        id: "probe.create-vm",
        group: Group::Probe,
        parameter: "favordynmods, kvm nx_huge_pages",
        expected: "at most 10 ms",
        why: "it is part of each pod's start",
        weight: Weight::ADVICE,
        fast: false,
        look: create_vm,
    },
    Check {
        id: "probe.exit",
        group: Group::Probe,
        parameter: "nested virtualization",
        expected: "at most 10 us",
        why: "a guest leaves for each access to a device that cannot be handled in the kernel",
        weight: Weight::INFORMATION,
        fast: false,
        look: exit,
    },
];

fn run(facts: &Facts<'_>) -> Look {
    let broken = |observed: String, message: String| {
        let advice = advice::virtualization(facts.place(), facts.cpu());
        let remedy = if facts.place().is_bare_metal() {
            "update the firmware and the kernel; `dmesg | grep -i kvm` may say more".to_owned()
        } else {
            format!(
                "use a machine with working VMX or SVM: hardware, or nested virtualization that \
                 works; here: {}",
                advice.remedy
            )
        };
        Look::fail(observed, message, remedy)
    };
    match facts.probe() {
        Probe::Measured(_) => Look::pass("runs at CPL 0 and CPL 3"),
        Probe::NoDevice => Look::does_not_apply("there is no KVM to ask"),
        Probe::Busy => Look::does_not_apply("the processor is in use: see kvm.busy"),
        Probe::NotTried { why } => Look::skip(why.clone()),
        Probe::Refused { step, errno } => broken(
            format!("{step}: {errno}"),
            format!("KVM refuses to make a test machine ({step}: {errno})"),
        ),
        Probe::Broken { cpl, what } => broken(
            format!("at CPL {cpl}: {what}"),
            format!("this KVM cannot run a loop of two instructions at CPL {cpl}: {what}"),
        ),
        Probe::Hung { after_ms } => broken(
            format!("no answer within {after_ms} ms"),
            format!("a test machine did not come back within {after_ms} ms"),
        ),
    }
}

fn measured<'f>(facts: &'f Facts<'_>) -> Result<&'f Speed, Look> {
    match facts.probe() {
        Probe::Measured(speed) => Ok(speed),
        _ => Err(Look::does_not_apply("nothing was measured: see probe.run")),
    }
}

fn speed(facts: &Facts<'_>) -> Look {
    let speed = match measured(facts) {
        Ok(speed) => speed,
        Err(look) => return look,
    };
    let observed = format!(
        "{} M instructions/s at CPL 0, {} M at CPL 3",
        figure(speed.cpl0_mips),
        figure(speed.cpl3_mips)
    );
    if kernel_mode_is_emulated(speed) {
        let here = match facts.place().cloud {
            Some(_) => advice::virtualization(facts.place(), facts.cpu()).remedy,
            None if facts.place().is_bare_metal() => {
                advice::virtualization(facts.place(), facts.cpu()).remedy
            }
            None => {
                "this machine's hypervisor gives it no VMX or SVM, so KVM does in software what \
                 the processor should do"
                    .to_owned()
            }
        };
        return Look::fail(
            &observed,
            format!("KVM is present but emulates kernel mode ({observed})"),
            format!("run pods on hardware or on a VM with nested virtualization; {here}"),
        );
    }
    if speed.cpl3_mips > speed.cpl0_mips * UNEVEN {
        return Look::warn(
            &observed,
            format!(
                "kernel mode is {:.0} times slower than user mode",
                speed.cpl3_mips / speed.cpl0_mips
            ),
            "see that nested paging is on (kvm.paging); nested virtualization without it is slow",
        );
    }
    if is_slow(speed) {
        let message = if *facts.hypervisor() == Hypervisor::Tcg {
            "software emulation, evenly slow: pods work, and their times say nothing"
        } else {
            "evenly slow: pods work, slowly"
        };
        return Look::info(observed, message);
    }
    Look::pass(observed)
}

/// The verdict is the probe's own, so that it is one and the same everywhere.
fn kernel_mode_is_emulated(speed: &Speed) -> bool {
    let instant = std::time::Duration::ZERO;
    let measured = vmm::probe::Speed {
        create_vm: instant,
        exit: instant,
        cpl0_mips: speed.cpl0_mips,
        cpl3_mips: speed.cpl3_mips,
    };
    measured.verdict().is_err()
}

fn is_slow(speed: &Speed) -> bool {
    speed.cpl0_mips < SLOW
}

/// Small numbers with a decimal, large ones without.
fn figure(number: f64) -> String {
    if number < 100.0 {
        format!("{number:.1}")
    } else {
        format!("{number:.0}")
    }
}

fn create_vm(facts: &Facts<'_>) -> Look {
    let speed = match measured(facts) {
        Ok(speed) => speed,
        Err(look) => return look,
    };
    let observed = format!("{:.1} ms", speed.create_vm_us / 1000.0);
    if speed.create_vm_us <= SLOW_CREATE {
        return Look::pass(observed);
    }
    if is_slow(speed) {
        return Look::info(observed, "slow, as everything on this machine");
    }
    Look::warn(
        &observed,
        format!("making a virtual machine takes {observed}"),
        "mount cgroup v2 with favordynmods (`mount -o remount,favordynmods /sys/fs/cgroup`), or load \
         kvm with nx_huge_pages=never where vulnerabilities/itlb_multihit says \"Not affected\"",
    )
}

fn exit(facts: &Facts<'_>) -> Look {
    let speed = match measured(facts) {
        Ok(speed) => speed,
        Err(look) => return look,
    };
    let observed = format!("{:.1} us", speed.exit_us);
    if speed.exit_us <= SLOW_EXIT {
        return Look::pass(observed);
    }
    Look::info(
        &observed,
        format!("leaving a guest takes {observed}: input and output cost more than on hardware"),
    )
}
