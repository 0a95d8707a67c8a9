//! Is there a KVM, may we use it, and can it do what we need?

use crate::capabilities::CAPABILITIES;
use crate::check::{Check, Group, Look, Weight};
use crate::checks::{cpu, device};
use crate::errno::Errno;
use crate::facts::{Facts, Vendor};
use crate::host::Probe;

pub(super) const DEVICE: &str = "/dev/kvm";
const API_VERSION: i32 = 12;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "kvm.mshv",
        group: Group::Kvm,
        parameter: "--workload-runtime, --node-vm-size",
        expected: "no /dev/mshv, or /dev/kvm beside it",
        why: "podvmm is made for KVM and cannot use Microsoft's hypervisor",
        weight: Weight::VITAL,
        fast: true,
        look: mshv,
    },
    Check {
        id: "kvm.module",
        group: Group::Kvm,
        parameter: "kernel module kvm_intel or kvm_amd",
        expected: "KVM in the kernel, with the module for this processor",
        why: "without the processor's module there is no /dev/kvm",
        weight: Weight::VITAL,
        fast: true,
        look: module,
    },
    Check {
        id: "kvm.device",
        group: Group::Kvm,
        parameter: DEVICE,
        expected: "a device node that KVM answers",
        why: "everything that podvmm asks of KVM goes through this file",
        weight: Weight::VITAL,
        fast: true,
        look: device::there,
    },
    Check {
        id: "kvm.permission",
        group: Group::Kvm,
        parameter: DEVICE,
        expected: "opens for reading and writing",
        why: "everything that podvmm asks of KVM goes through this file",
        weight: Weight::VITAL,
        fast: true,
        look: device::permission,
    },
    Check {
        id: "kvm.api",
        group: Group::Kvm,
        parameter: DEVICE,
        expected: "API version 12",
        why: "another version is a KVM of before 2007, or no KVM at all",
        weight: Weight::VITAL,
        fast: true,
        look: api,
    },
    Check {
        id: "kvm.capabilities",
        group: Group::Kvm,
        parameter: "capabilities of /dev/kvm",
        expected: "all that the VMM uses",
        why: "a machine cannot be built without them",
        weight: Weight::VITAL,
        fast: true,
        look: capabilities,
    },
    Check {
        id: "kvm.busy",
        group: Group::Kvm,
        parameter: DEVICE,
        expected: "no other hypervisor holds the processor",
        why: "only one hypervisor at a time can use VMX or SVM",
        weight: Weight::VITAL,
        fast: true,
        look: busy,
    },
    Check {
        id: "kvm.paging",
        group: Group::Kvm,
        parameter: "kvm_intel ept, kvm_amd npt",
        expected: "on",
        why: "without nested paging each change of a guest's page tables is an exit",
        weight: Weight::ADVICE,
        fast: true,
        look: paging,
    },
    Check {
        id: "kvm.unrestricted-guest",
        group: Group::Kvm,
        parameter: "kvm_intel unrestricted_guest",
        expected: "on",
        why: "a pod's second and further vCPUs start in real mode, which is emulated without it",
        weight: Weight::ADVICE,
        fast: false,
        look: unrestricted_guest,
    },
    Check {
        id: "kvm.nested",
        group: Group::Kvm,
        parameter: "kvm_intel nested, kvm_amd nested",
        expected: "either: it concerns machines inside pods",
        why: "a pod could run virtual machines of its own; this widens what a guest can reach",
        weight: Weight::INFORMATION,
        fast: false,
        look: nested,
    },
];

fn mshv(facts: &Facts<'_>) -> Look {
    if !facts.host().exists("/dev/mshv") {
        return Look::pass("no /dev/mshv");
    }
    if !facts.other_hypervisor() {
        return Look::pass("/dev/mshv, and /dev/kvm beside it");
    }
    Look::fail(
        "/dev/mshv and no /dev/kvm",
        "this machine runs Microsoft's hypervisor (/dev/mshv), not KVM (/dev/kvm)",
        "take an ordinary node pool of a Generation 2 size with nested virtualization \
         (`--node-vm-size Standard_D4s_v5`); a pool with `--workload-runtime KataVmIsolation` or \
         KataMshvVmIsolation has this hypervisor",
    )
}

/// Why there can be no device, as another check has said.
pub(super) fn earlier(facts: &Facts<'_>) -> Option<&'static str> {
    if facts.other_hypervisor() {
        Some("kvm.mshv")
    } else if !facts.cpu().virtualizes() {
        Some("cpu.virtualization")
    } else if cpu::is_locked(facts) {
        Some("cpu.firmware")
    } else {
        None
    }
}

fn is_missing(facts: &Facts<'_>) -> bool {
    matches!(
        facts.kvm().open,
        Err(Errno::NOENT | Errno::NODEV | Errno::NXIO)
    )
}

/// The processor's module, as the kernel shows it: also when it is built in.
pub(super) fn loaded(facts: &Facts<'_>) -> Option<&'static str> {
    let modules = [
        ("kvm_intel", "/sys/module/kvm_intel"),
        ("kvm_amd", "/sys/module/kvm_amd"),
        ("kvm_pvm", "/sys/module/kvm_pvm"),
    ];
    let found = modules.iter().find(|(_, path)| facts.host().exists(path));
    found.map(|(name, _)| *name)
}

fn module(facts: &Facts<'_>) -> Look {
    if let Some(name) = loaded(facts) {
        return Look::pass(name);
    }
    if !is_missing(facts) {
        return Look::pass("/dev/kvm answers");
    }
    if let Some(id) = earlier(facts) {
        return Look::does_not_apply(format!("it would not load: see {id}"));
    }
    let module = facts.cpu().module();
    let observed = if facts.host().exists("/sys/module/kvm") {
        "kvm is loaded, and no module for the processor"
    } else {
        "no module of KVM"
    };
    let release = facts.line("/proc/sys/kernel/osrelease").unwrap_or_default();
    let who = match facts.place().container {
        Some(_) => "on the machine around this container, ",
        None => "",
    };
    Look::fail(
        observed,
        format!("the kernel has no KVM loaded ({module})"),
        format!(
            "{who}run `modprobe {module}` as root; `dmesg | grep -i kvm` says why if it refuses; if \
             there is no such module for {release}, install the distribution's full kernel (not a \
             minimal or cloud variant without KVM)"
        ),
    )
    .at(format!("kernel module {module}"))
}

fn api(facts: &Facts<'_>) -> Look {
    match facts.kvm().api_version {
        None => Look::does_not_apply("/dev/kvm does not open"),
        Some(API_VERSION) => Look::pass("version 12"),
        Some(found) if found < 0 => Look::fail(
            "it does not know KVM's calls",
            "/dev/kvm is something else than KVM's device",
            "make it anew: `rm /dev/kvm && mknod -m 660 /dev/kvm c 10 232`; then see that kvm_intel \
             or kvm_amd is loaded",
        ),
        Some(found) => Look::fail(
            format!("version {found}"),
            format!("/dev/kvm speaks version {found} of KVM's API, and 12 is needed"),
            "use a kernel of this decade",
        ),
    }
}

fn is_kvm(facts: &Facts<'_>) -> bool {
    facts.kvm().api_version == Some(API_VERSION)
}

fn capabilities(facts: &Facts<'_>) -> Look {
    if !is_kvm(facts) {
        return Look::does_not_apply("there is no KVM to ask");
    }
    let answers = &facts.kvm().capabilities;
    let lacking = |required: bool| -> Vec<&'static str> {
        CAPABILITIES
            .iter()
            .filter(|capability| capability.required == required)
            .filter(|capability| answers.get(capability.name).is_none_or(|value| *value <= 0))
            .map(|capability| capability.name)
            .collect()
    };
    let (needed, wanted) = (lacking(true), lacking(false));
    if let Some(first) = needed.first() {
        let purpose = CAPABILITIES
            .iter()
            .find(|capability| capability.name == *first)
            .map_or("", |capability| capability.purpose);
        return Look::fail(
            format!("lacks {}", needed.join(", ")),
            format!("this KVM lacks KVM_CAP_{first} ({purpose})"),
            "use the distribution's own kernel, 5.10 or newer; a KVM that is not Linux' own may \
             never have it",
        );
    }
    if !wanted.is_empty() {
        return Look::info(
            format!("lacks {}", wanted.join(", ")),
            format!("pods run without {}, with less comfort", wanted.join(", ")),
        );
    }
    Look::pass(format!("all {}", CAPABILITIES.len()))
}

fn busy(facts: &Facts<'_>) -> Look {
    match facts.probe() {
        Probe::NoDevice => Look::does_not_apply("there is no KVM to ask"),
        Probe::Busy => {
            let known = [
                ("vboxdrv", "VirtualBox"),
                ("vmmon", "VMware"),
                ("xen_privcmd", "Xen"),
            ];
            let holder = known
                .iter()
                .find(|(module, _)| facts.host().exists(&format!("/sys/module/{module}")));
            let (name, stop) = match holder {
                Some((module, name)) => (
                    (*name).to_owned(),
                    format!(
                        "stop the machines of {name}; `rmmod {module}` as root if it is not used"
                    ),
                ),
                None => (
                    "another hypervisor".to_owned(),
                    "stop the other hypervisor (VirtualBox, VMware?); its module may have to be \
                     unloaded"
                        .to_owned(),
                ),
            };
            Look::fail(
                "KVM_CREATE_VM: EBUSY",
                format!("the processor's virtualization is in use by {name}"),
                stop,
            )
        }
        _ => Look::pass("free"),
    }
}

fn paging(facts: &Facts<'_>) -> Look {
    let (parameter, path) = match facts.cpu().vendor {
        Vendor::Intel => ("kvm_intel ept", "/sys/module/kvm_intel/parameters/ept"),
        Vendor::Amd => ("kvm_amd npt", "/sys/module/kvm_amd/parameters/npt"),
        Vendor::Other(_) => return Look::does_not_apply("an unknown maker's processor"),
    };
    match facts.switch(path) {
        Some(true) => Look::pass("on"),
        Some(false) => Look::warn(
            "off",
            format!("nested paging is off ({parameter})"),
            format!(
                "load the module with {}=1: remove the option from /etc/modprobe.d and the kernel's \
                 command line; if the processor lacks it, it is too old",
                parameter.split(' ').next_back().unwrap_or(parameter)
            ),
        )
        .at(parameter),
        None => unreadable(facts),
    }
}

/// A module's parameter cannot be read: that matters only where there is a module.
fn unreadable(facts: &Facts<'_>) -> Look {
    match loaded(facts) {
        Some("kvm_pvm") => Look::does_not_apply("a KVM of another kind: kvm_pvm"),
        Some(_) => Look::skip("the module's parameter cannot be read"),
        None => Look::does_not_apply("the module is not loaded"),
    }
}

fn unrestricted_guest(facts: &Facts<'_>) -> Look {
    if facts.cpu().vendor != Vendor::Intel {
        return Look::does_not_apply("a matter of Intel's processors");
    }
    match facts.switch("/sys/module/kvm_intel/parameters/unrestricted_guest") {
        Some(true) => Look::pass("on"),
        Some(false) => Look::warn(
            "off",
            "real mode is emulated (kvm_intel unrestricted_guest)",
            "load the module with unrestricted_guest=1 and ept=1; processors of before 2010 lack it",
        ),
        None => unreadable(facts),
    }
}

fn nested(facts: &Facts<'_>) -> Look {
    let path = match facts.cpu().vendor {
        Vendor::Intel => "/sys/module/kvm_intel/parameters/nested",
        Vendor::Amd => "/sys/module/kvm_amd/parameters/nested",
        Vendor::Other(_) => return Look::does_not_apply("an unknown maker's processor"),
    };
    match facts.switch(path) {
        Some(true) => Look::info(
            "on",
            "pods could be shown virtualization; podvmm does not need it",
        ),
        Some(false) => Look::info("off", "pods cannot run machines of their own; none has to"),
        None => unreadable(facts),
    }
}
