//! Where we run: on which hypervisor, in which cloud, in a container or not.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::host::Host;

/// What is below the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hypervisor {
    /// Nothing: `CPUID.1:ECX[31]` is clear.
    None,
    /// Linux' KVM, whoever drives it.
    Kvm,
    /// Microsoft's Hyper-V.
    HyperV,
    /// VMware.
    Vmware,
    /// VirtualBox.
    VirtualBox,
    /// Xen.
    Xen,
    /// QEMU's software emulation.
    Tcg,
    /// Another one, with its signature; empty if it shows none.
    Other(String),
}

/// Signatures of CPUID leaf 0x4000_0000.
const SIGNATURES: &[(&str, Hypervisor)] = &[
    ("KVMKVMKVM", Hypervisor::Kvm),
    ("Linux KVM Hv", Hypervisor::Kvm),
    ("Microsoft Hv", Hypervisor::HyperV),
    ("VMwareVMware", Hypervisor::Vmware),
    ("VBoxVBoxVBox", Hypervisor::VirtualBox),
    ("XenVMMXenVMM", Hypervisor::Xen),
    ("TCGTCGTCGTCG", Hypervisor::Tcg),
];

impl fmt::Display for Hypervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Kvm => "KVM",
            Self::HyperV => "Hyper-V",
            Self::Vmware => "VMware",
            Self::VirtualBox => "VirtualBox",
            Self::Xen => "Xen",
            Self::Tcg => "QEMU's software emulation (TCG)",
            Self::Other(signature) if signature.is_empty() => "a hypervisor without a name",
            Self::Other(signature) => signature,
        })
    }
}

/// Whose machine it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Cloud {
    Azure,
    Aws,
    Gcp,
    HetznerCloud,
    DigitalOcean,
    Oracle,
    Alibaba,
    Akamai,
    Vultr,
    Scaleway,
    OpenStack,
}

impl fmt::Display for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Azure => "Azure",
            Self::Aws => "AWS",
            Self::Gcp => "Google Cloud",
            Self::HetznerCloud => "Hetzner Cloud",
            Self::DigitalOcean => "DigitalOcean",
            Self::Oracle => "Oracle Cloud",
            Self::Alibaba => "Alibaba Cloud",
            Self::Akamai => "Akamai (Linode)",
            Self::Vultr => "Vultr",
            Self::Scaleway => "Scaleway",
            Self::OpenStack => "OpenStack",
        })
    }
}

impl Serialize for Cloud {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Azure marks its machines by this asset tag; other machines on Hyper-V have another.
const AZURE_TAG: &str = "7783-7084-3265-9085-8269-3286-77";

/// Which field of the firmware's tables begins with what in which cloud. The first that fits wins.
const CLOUDS: &[(&str, &str, Cloud)] = &[
    ("chassis_asset_tag", AZURE_TAG, Cloud::Azure),
    ("chassis_asset_tag", "OracleCloud.com", Cloud::Oracle),
    ("sys_vendor", "Amazon EC2", Cloud::Aws),
    ("bios_vendor", "Amazon EC2", Cloud::Aws),
    // The older instance types, which run on Xen.
    ("bios_version", "4.11.amazon", Cloud::Aws),
    ("bios_version", "4.2.amazon", Cloud::Aws),
    ("product_name", "Google Compute Engine", Cloud::Gcp),
    ("sys_vendor", "Hetzner", Cloud::HetznerCloud),
    ("sys_vendor", "DigitalOcean", Cloud::DigitalOcean),
    ("sys_vendor", "Alibaba Cloud", Cloud::Alibaba),
    ("sys_vendor", "Linode", Cloud::Akamai),
    ("sys_vendor", "Akamai", Cloud::Akamai),
    ("sys_vendor", "Vultr", Cloud::Vultr),
    ("sys_vendor", "Scaleway", Cloud::Scaleway),
    ("sys_vendor", "OpenStack Foundation", Cloud::OpenStack),
    ("product_name", "OpenStack", Cloud::OpenStack),
];

/// What kind of container we are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// Docker.
    Docker,
    /// Podman, or another that leaves its mark.
    Podman,
    /// A pod of Kubernetes.
    Kubernetes,
    /// LXC, Incus.
    Lxc,
    /// Some other.
    Other,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "Docker",
            Self::Podman => "Podman",
            Self::Kubernetes => "Kubernetes",
            Self::Lxc => "LXC",
            Self::Other => "an unknown engine",
        })
    }
}

/// Where we run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What is below the kernel.
    pub hypervisor: Hypervisor,
    /// Whose machine it is, if it says so.
    pub cloud: Option<Cloud>,
    /// The machine's model in the firmware's tables: an instance type in some clouds.
    pub model: Option<String>,
    /// Which generation of Azure's machines.
    pub azure_generation: Option<u8>,
    /// Windows' subsystem for Linux.
    pub wsl: bool,
    /// The container around us.
    pub container: Option<Container>,
}

impl Place {
    /// Looks around.
    #[must_use]
    pub fn of(host: &dyn Host, hypervisor: Hypervisor) -> Self {
        let dmi = |field: &str| {
            let text = host.read(&format!("/sys/class/dmi/id/{field}")).ok()?;
            Some(text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        let cloud = CLOUDS
            .iter()
            .find(|(field, prefix, _)| dmi(field).is_some_and(|text| text.starts_with(prefix)))
            .map(|(_, _, cloud)| *cloud);
        let release = host.read("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            hypervisor,
            cloud,
            model: dmi("product_name"),
            azure_generation: (cloud == Some(Cloud::Azure)).then(|| {
                if host.exists("/sys/firmware/efi") {
                    2
                } else {
                    1
                }
            }),
            wsl: release.to_lowercase().contains("microsoft"),
            container: container(host),
        }
    }

    /// No hypervisor below.
    #[must_use]
    pub fn is_bare_metal(&self) -> bool {
        self.hypervisor == Hypervisor::None
    }
}

/// Engines leave a file, or show in the cgroup. The file alone does not count where the kernel's own
/// processes are in sight: a machine can be made of an image that was once a container.
fn container(host: &dyn Host) -> Option<Container> {
    let cgroup = host.read("/proc/self/cgroup").unwrap_or_default();
    let on_its_own = host
        .read("/proc/2/comm")
        .is_ok_and(|name| name.trim() == "kthreadd");
    let marked = |path: &str| !on_its_own && host.exists(path);
    let manager = host.read("/run/systemd/container").unwrap_or_default();
    if host.exists("/run/secrets/kubernetes.io") || cgroup.contains("kubepods") {
        Some(Container::Kubernetes)
    } else if marked("/.dockerenv") || cgroup.contains("/docker") {
        Some(Container::Docker)
    } else if marked("/run/.containerenv") || cgroup.contains("/libpod") {
        Some(Container::Podman)
    } else if manager.trim() == "lxc" || cgroup.contains("/lxc") || host.exists("/dev/lxd/sock") {
        Some(Container::Lxc)
    } else if !manager.trim().is_empty() {
        Some(Container::Other)
    } else {
        None
    }
}

/// The hypervisor by its signature; one that shows two names, like KVM as Hyper-V, is the second.
#[must_use]
pub fn hypervisor(host: &dyn Host) -> Hypervisor {
    const PRESENT: u32 = 1 << 31;
    if host.cpuid(1).ecx.0 & PRESENT == 0 {
        return Hypervisor::None;
    }
    let mut found = None;
    for leaf in [0x4000_0000, 0x4000_0100] {
        let registers = host.cpuid(leaf);
        let bytes = [registers.ebx.0, registers.ecx.0, registers.edx.0].map(u32::to_le_bytes);
        let signature = String::from_utf8_lossy(bytes.as_flattened())
            .trim_matches(['\0', ' '])
            .to_owned();
        let known = SIGNATURES.iter().find(|(text, _)| *text == signature);
        match known {
            Some((_, hypervisor)) => found = Some(hypervisor.clone()),
            None if found.is_none() => found = Some(Hypervisor::Other(signature)),
            None => {}
        }
    }
    found.unwrap_or(Hypervisor::Other(String::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_named_twice() {
        for (index, (signature, _)) in SIGNATURES.iter().enumerate() {
            assert!(
                SIGNATURES[..index]
                    .iter()
                    .all(|(other, _)| other != signature)
            );
        }
        for (index, (field, prefix, _)) in CLOUDS.iter().enumerate() {
            let earlier = &CLOUDS[..index];
            assert!(
                earlier
                    .iter()
                    .all(|(f, p, _)| f != field || !prefix.starts_with(p)),
                "{prefix} is never reached"
            );
        }
    }
}
