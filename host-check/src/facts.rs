//! What several checks want to know, read once.

use std::cell::OnceCell;

use crate::host::{Host, Kvm, Probe};
use crate::place::{self, Hypervisor, Place};

/// Who made the processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Intel.
    Intel,
    /// AMD, and Hygon after it.
    Amd,
    /// Others.
    Other(String),
}

/// The processor.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// Who made it.
    pub vendor: Vendor,
    /// What it calls itself.
    pub brand: String,
    /// `CPUID.1:ECX[5]`.
    pub vmx: bool,
    /// `CPUID.8000_0001h:ECX[2]`.
    pub svm: bool,
    /// Whether the kernel shows the flag, too: newer ones do not when the firmware has locked it.
    /// Nothing if the kernel's list could not be read.
    pub kernel_agrees: Option<bool>,
}

impl Cpu {
    fn of(host: &dyn Host) -> Self {
        let vendor = {
            let leaf = host.cpuid(0);
            text(&[leaf.ebx.0, leaf.edx.0, leaf.ecx.0])
        };
        let vmx = host.cpuid(1).ecx.0 & 1 << 5 != 0;
        let has = |leaf: u32| host.cpuid(0x8000_0000).eax.0 >= leaf;
        let svm = has(0x8000_0001) && host.cpuid(0x8000_0001).ecx.0 & 1 << 2 != 0;
        let brand = if has(0x8000_0004) {
            let words: Vec<u32> = (0x8000_0002..=0x8000_0004)
                .flat_map(|leaf| {
                    let registers = host.cpuid(leaf);
                    [registers.eax, registers.ebx, registers.ecx, registers.edx].map(|word| word.0)
                })
                .collect();
            text(&words)
        } else {
            String::new()
        };
        let flags = host.read("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("flags"))?;
            let (_, flags) = line.split_once(':')?;
            Some(flags.to_owned())
        });
        Self {
            vendor: match vendor.as_str() {
                "GenuineIntel" => Vendor::Intel,
                "AuthenticAMD" | "HygonGenuine" => Vendor::Amd,
                _ => Vendor::Other(vendor),
            },
            brand,
            vmx,
            svm,
            kernel_agrees: flags.map(|flags| {
                let mut flags = flags.split_whitespace();
                flags.any(|flag| flag == if vmx { "vmx" } else { "svm" })
            }),
        }
    }

    /// Whether it shows virtualization at all.
    #[must_use]
    pub fn virtualizes(&self) -> bool {
        self.vmx || self.svm
    }

    /// The module of KVM for it.
    #[must_use]
    pub fn module(&self) -> &'static str {
        match self.vendor {
            Vendor::Intel => "kvm_intel",
            Vendor::Amd => "kvm_amd",
            Vendor::Other(_) => "kvm_intel or kvm_amd",
        }
    }

    /// What its maker calls the extension.
    #[must_use]
    pub fn extension(&self) -> &'static str {
        match self.vendor {
            Vendor::Intel => "VMX",
            Vendor::Amd => "SVM",
            Vendor::Other(_) => "VMX or SVM",
        }
    }
}

/// The text in registers.
fn text(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let text = String::from_utf8_lossy(&bytes);
    let words: Vec<&str> = text.trim_matches('\0').split_whitespace().collect();
    words.join(" ")
}

/// Who this process is.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Its effective user.
    pub uid: Option<u32>,
    /// Its groups.
    pub groups: Vec<u32>,
    /// Its effective capabilities.
    pub capabilities: Option<u64>,
}

impl Identity {
    fn of(host: &dyn Host) -> Self {
        let status = host.read("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let mut lines = status.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        };
        let numbers = |text: &str| -> Vec<u32> {
            let words = text.split_whitespace();
            words.filter_map(|word| word.parse().ok()).collect()
        };
        let mut groups = field("Groups").map(numbers).unwrap_or_default();
        groups.extend(field("Gid").and_then(|ids| numbers(ids).get(1).copied()));
        Self {
            uid: field("Uid").and_then(|ids| numbers(ids).get(1).copied()),
            groups,
            capabilities: field("CapEff")
                .and_then(|text| u64::from_str_radix(text.trim(), 16).ok()),
        }
    }

    /// Whether it is root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.uid == Some(0)
    }
}

/// A machine and what was learned of it so far.
pub struct Facts<'h> {
    host: &'h dyn Host,
    cpu: OnceCell<Cpu>,
    place: OnceCell<Place>,
    hypervisor: OnceCell<Hypervisor>,
    identity: OnceCell<Identity>,
    kvm: OnceCell<Kvm>,
    probe: OnceCell<Probe>,
}

impl<'h> Facts<'h> {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(host: &'h dyn Host) -> Self {
        Self {
            host,
            cpu: OnceCell::new(),
            place: OnceCell::new(),
            hypervisor: OnceCell::new(),
            identity: OnceCell::new(),
            kvm: OnceCell::new(),
            probe: OnceCell::new(),
        }
    }

    /// The machine itself.
    #[must_use]
    pub fn host(&self) -> &'h dyn Host {
        self.host
    }

    /// The processor.
    pub fn cpu(&self) -> &Cpu {
        self.cpu.get_or_init(|| Cpu::of(self.host))
    }

    /// What is below the kernel.
    pub fn hypervisor(&self) -> &Hypervisor {
        self.hypervisor.get_or_init(|| place::hypervisor(self.host))
    }

    /// Where we run.
    pub fn place(&self) -> &Place {
        self.place
            .get_or_init(|| Place::of(self.host, self.hypervisor().clone()))
    }

    /// Who this process is.
    pub fn identity(&self) -> &Identity {
        self.identity.get_or_init(|| Identity::of(self.host))
    }

    /// What `/dev/kvm` says.
    pub fn kvm(&self) -> &Kvm {
        self.kvm.get_or_init(|| self.host.kvm())
    }

    /// Microsoft's hypervisor is there and KVM is not.
    pub fn other_hypervisor(&self) -> bool {
        self.kvm().open == Err(crate::Errno::NOENT) && self.host.exists("/dev/mshv")
    }

    /// What a test machine showed; none is made where `/dev/kvm` does not open.
    pub fn probe(&self) -> &Probe {
        self.probe.get_or_init(|| match self.kvm().open {
            Ok(()) => self.host.probe(),
            Err(_) => Probe::NoDevice,
        })
    }

    /// The first two numbers of the kernel's release.
    pub fn kernel(&self) -> Option<(u32, u32)> {
        let release = self.line("/proc/sys/kernel/osrelease").ok()?;
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let mut number = || numbers.next()?.parse().ok();
        Some((number()?, number()?))
    }

    /// A file of one line.
    pub fn line(&self, path: &str) -> Result<String, crate::Errno> {
        self.host.read(path).map(|text| text.trim().to_owned())
    }

    /// Whether a module parameter is on; nothing if it cannot be read.
    pub fn switch(&self, path: &str) -> Option<bool> {
        match self.line(path).ok()?.as_str() {
            "Y" | "1" => Some(true),
            "N" | "0" => Some(false),
            _ => None,
        }
    }
}
