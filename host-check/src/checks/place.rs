//! Where we run, and what that means for pods.

use crate::check::{Check, Group, Look, Weight};
use crate::facts::Facts;
use crate::place::{Cloud, Hypervisor};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "place.hypervisor",
        group: Group::Place,
        parameter: "hypervisor below",
        expected: "none, or one that passes virtualization on",
        why: "in a virtual machine pods are nested: exits cost more, and another party can see them",
        weight: Weight::INFORMATION,
        fast: false,
        look: hypervisor,
    },
    Check {
        id: "place.cloud",
        group: Group::Place,
        parameter: "cloud and instance type",
        expected: "any",
        why: "what has to be set where, for virtualization to be there, differs from cloud to cloud",
        weight: Weight::INFORMATION,
        fast: false,
        look: cloud,
    },
    Check {
        id: "place.azure-generation",
        group: Group::Place,
        parameter: "--node-vm-size",
        expected: "Generation 2",
        why: "sandboxed pods are promised on Generation 2 VMs; newer sizes have no other",
        weight: Weight::NODE,
        fast: false,
        look: azure_generation,
    },
    Check {
        id: "place.container",
        group: Group::Place,
        parameter: "container",
        expected: "none",
        why: "podvmm sees the container's devices, limits and files, not the machine's",
        weight: Weight::INFORMATION,
        fast: false,
        look: container,
    },
];

fn hypervisor(facts: &Facts<'_>) -> Look {
    let place = facts.place();
    if place.wsl {
        return Look::info(
            "WSL on Hyper-V",
            "Windows' subsystem for Linux: pods are nested",
        );
    }
    match &place.hypervisor {
        Hypervisor::None => Look::pass("bare metal"),
        Hypervisor::Tcg => Look::info(
            "QEMU without KVM",
            "this machine is emulated in software: pods work, and slowly",
        ),
        other => Look::info(
            other.to_string(),
            format!("this is a virtual machine ({other}): pods are nested"),
        ),
    }
}

fn cloud(facts: &Facts<'_>) -> Look {
    let place = facts.place();
    let Some(cloud) = place.cloud else {
        return match &place.model {
            Some(model) => Look::pass(format!("none that is known ({model})")),
            None => Look::skip("this machine shows no firmware tables (/sys/class/dmi/id)"),
        };
    };
    let observed = match (cloud, &place.model, place.azure_generation) {
        (Cloud::Azure, _, Some(generation)) => format!("Azure, Generation {generation}"),
        (Cloud::Aws, Some(model), _) => format!("AWS, {model}"),
        (cloud, _, _) => cloud.to_string(),
    };
    Look::info(&observed, observed.clone())
}

fn azure_generation(facts: &Facts<'_>) -> Look {
    match facts.place().azure_generation {
        None => Look::does_not_apply("not on Azure"),
        Some(2) => Look::pass("Generation 2"),
        Some(_) => Look::fail(
            "booted by a BIOS, not by EFI",
            "this Azure VM is Generation 1",
            "recreate it as Generation 2, of a size with nested virtualization, for instance \
             `--node-vm-size Standard_D4s_v5`; the image decides the generation, and the size has \
             to allow it",
        ),
    }
}

fn container(facts: &Facts<'_>) -> Look {
    match facts.place().container {
        None => Look::pass("none"),
        Some(container) => Look::info(
            format!("a container ({container})"),
            format!(
                "this is a container ({container}): pods have its limits, and end with it; this \
                 check says nothing about the machine around it"
            ),
        ),
    }
}
