//! How to get at the processor's virtualization in each place.

use crate::facts::{Cpu, Vendor};
use crate::place::{Cloud, Container, Hypervisor, Place};

/// What is at fault, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// In the words of the place.
    pub parameter: String,
    /// Why virtualization does not show.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

fn advice(
    parameter: impl Into<String>,
    message: impl Into<String>,
    remedy: impl Into<String>,
) -> Advice {
    Advice {
        parameter: parameter.into(),
        message: message.into(),
        remedy: remedy.into(),
    }
}

/// Virtualization is not there, or not real: what to do about it here.
#[must_use]
pub fn virtualization(place: &Place, cpu: &Cpu) -> Advice {
    if place.wsl {
        return advice(
            "nestedVirtualization in .wslconfig",
            "WSL shows no virtualization to Linux",
            "set nestedVirtualization=true below [wsl2] in %UserProfile%\\.wslconfig and run \
             `wsl --shutdown`; it needs Windows 11 and virtualization in the firmware",
        );
    }
    if place.is_bare_metal() {
        return bare_metal(place, cpu);
    }
    match place.cloud {
        Some(cloud) => in_cloud(cloud, place, cpu),
        None => on_hypervisor(place, cpu),
    }
}

/// What the firmware calls it.
#[must_use]
pub fn firmware_setting(cpu: &Cpu) -> &'static str {
    match cpu.vendor {
        Vendor::Intel => "Intel Virtualization Technology (VT-x)",
        Vendor::Amd => "SVM Mode (AMD-V)",
        Vendor::Other(_) => "virtualization (VT-x, AMD-V, SVM)",
    }
}

fn bare_metal(place: &Place, cpu: &Cpu) -> Advice {
    let setting = firmware_setting(cpu);
    let where_else = match place.cloud {
        Some(cloud) => format!("; {cloud} may have to be asked to do it"),
        None => String::new(),
    };
    advice(
        format!("firmware: {setting}"),
        "the processor shows neither VMX nor SVM, and no hypervisor is in between",
        format!(
            "switch {setting} on in the firmware's setup{where_else}; if there is no such setting, \
             the processor is too old"
        ),
    )
}

fn in_cloud(cloud: Cloud, place: &Place, cpu: &Cpu) -> Advice {
    match cloud {
        Cloud::Azure => azure(place),
        Cloud::Aws => aws(place),
        Cloud::Gcp => gcp(cpu),
        Cloud::HetznerCloud => advice(
            "server type",
            "Hetzner Cloud offers no nested virtualization",
            "take a dedicated server (Robot, server auction): those have it; no cloud server type \
             does",
        ),
        Cloud::OpenStack => advice(
            "cpu_mode of the compute host",
            "this OpenStack flavour shows no virtualization",
            "ask the operator for a flavour with nested virtualization \
             (nova: cpu_mode = host-passthrough, and nested=1 of kvm_intel or kvm_amd), or for a \
             bare-metal one",
        ),
        Cloud::DigitalOcean
        | Cloud::Oracle
        | Cloud::Alibaba
        | Cloud::Akamai
        | Cloud::Vultr
        | Cloud::Scaleway => advice(
            "instance type",
            format!("{cloud} shows no virtualization to this instance"),
            "take an instance type with nested virtualization, or a bare-metal one; the provider's \
             documentation says which have it",
        ),
    }
}

fn azure(place: &Place) -> Advice {
    if place.azure_generation == Some(1) {
        return advice(
            "--node-vm-size",
            "this Azure VM is Generation 1 and shows no virtualization",
            "recreate it as Generation 2, of a size with nested virtualization, for instance \
             Standard_D4s_v5 or Standard_D4as_v5; AKS: a new pool by `az aks nodepool add \
             --node-vm-size Standard_D4s_v5`; a VM of its own: `az vm create --size …` with a \
             Generation 2 image",
        );
    }
    advice(
        "--node-vm-size",
        "the size of this Azure VM (Generation 2) shows no nested virtualization",
        "take a size that has it: Dsv3, Dsv5, Dasv5, Dsv6, Dasv6 and their relatives do, Dasv4 and \
         Bsv2 do not; if this size should have it, Trusted Launch may be what hides it: try \
         --security-type Standard",
    )
}

/// Families whose CPU option switches nested virtualization on.
const AWS_NESTED: [&str; 3] = ["c8i", "m8i", "r8i"];

fn aws(place: &Place) -> Advice {
    let model = place.model.as_deref().unwrap_or_default();
    let family = model.split('.').next().unwrap_or_default();
    let base = family.split('-').next().unwrap_or_default();
    if AWS_NESTED.contains(&base) {
        return advice(
            "--cpu-options NestedVirtualization",
            format!("nested virtualization of this {model} is off, as it is by default"),
            "stop the instance and run `aws ec2 modify-instance-cpu-options --instance-id ID \
             --nested-virtualization enabled`; in a launch template: CpuOptions \
             NestedVirtualization=enabled; managed node groups may drop the option, so look at an \
             instance of theirs",
        );
    }
    let this = if model.contains('.') {
        format!("the AWS instance type {model} has no nested virtualization")
    } else {
        "this AWS instance type has no nested virtualization".to_owned()
    };
    advice(
        "--instance-type",
        this,
        "take a c8i, m8i or r8i with --cpu-options NestedVirtualization=enabled, or a .metal type; \
         other types have none",
    )
}

fn gcp(cpu: &Cpu) -> Advice {
    if cpu.vendor != Vendor::Intel {
        return advice(
            "--machine-type",
            "Google Cloud has no nested virtualization on this machine type's processor",
            "take a machine type with Intel's processors that offers it, for instance N2, \
             created with --enable-nested-virtualization; AMD's, Arm's and E2 types do not",
        );
    }
    advice(
        "--enable-nested-virtualization",
        "Google Cloud shows no virtualization to this VM",
        "recreate the VM or node pool with --enable-nested-virtualization; an existing VM: \
         `gcloud compute instances update-from-file` with \
         advancedMachineFeatures.enableNestedVirtualization, then a restart; E2, AMD's and Arm's \
         machine types do not offer it",
    )
}

fn on_hypervisor(place: &Place, cpu: &Cpu) -> Advice {
    let module = cpu.module();
    let (parameter, remedy) = match &place.hypervisor {
        Hypervisor::Kvm => (
            "CPU model of this VM".to_owned(),
            format!(
                "give this VM the host's CPU: `-cpu host` (QEMU), mode='host-passthrough' \
                 (libvirt), type host (Proxmox); the host's {module} needs nested=1; if it is \
                 rented, ask for nested virtualization"
            ),
        ),
        Hypervisor::Tcg => (
            "-cpu".to_owned(),
            "give the emulated processor SVM: `-cpu max`, or `-cpu EPYC,+svm`; it will be slow"
                .to_owned(),
        ),
        Hypervisor::HyperV => (
            "ExposeVirtualizationExtensions".to_owned(),
            "on the Hyper-V host, with this VM off: `Set-VMProcessor -VMName NAME \
             -ExposeVirtualizationExtensions $true`"
                .to_owned(),
        ),
        Hypervisor::Vmware => (
            "vhv.enable".to_owned(),
            "switch \"Expose hardware assisted virtualization to the guest OS\" on for this VM \
             (vhv.enable = \"TRUE\" in its .vmx), with the VM off"
                .to_owned(),
        ),
        Hypervisor::VirtualBox => (
            "--nested-hw-virt".to_owned(),
            "with this VM off: `VBoxManage modifyvm NAME --nested-hw-virt on`; it works where \
             VirtualBox itself uses VT-x or AMD-V, not where it runs on Hyper-V"
                .to_owned(),
        ),
        Hypervisor::Xen => (
            "nestedhvm".to_owned(),
            "run pods on another hypervisor or on hardware; Xen's nestedhvm=1 is experimental"
                .to_owned(),
        ),
        Hypervisor::None | Hypervisor::Other(_) => (
            "hypervisor".to_owned(),
            "switch nested virtualization on in the hypervisor below, or run pods on hardware"
                .to_owned(),
        ),
    };
    advice(
        parameter,
        format!(
            "the hypervisor below ({}) shows no virtualization to this VM",
            place.hypervisor
        ),
        remedy,
    )
}

/// How to pass a device into this container.
#[must_use]
pub fn pass_in(container: Container, device: &str) -> String {
    match container {
        Container::Docker => format!("start the container with `--device {device}`"),
        Container::Podman => {
            format!("start the container with `--device {device} --group-add keep-groups`")
        }
        Container::Kubernetes => format!(
            "give the pod {device}: by a device plugin, or a privileged container with a hostPath \
             volume"
        ),
        Container::Lxc => {
            let name = device.rsplit('/').next().unwrap_or(device);
            format!("`lxc config device add CONTAINER {name} unix-char source={device}`")
        }
        Container::Other => format!("pass {device} into the container"),
    }
}
