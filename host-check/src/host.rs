//! The seam: everything that a check may know of a machine.
//!
//! ```text
//!   Live ───────────┐                     ┌─▶ Facts ──▶ checks
//!   Recorded ───────┼─▶ dyn Host ─────────┤
//!   Recorder(Live) ─┘    (this module)    └─▶ nothing else
//! ```
//!
//! A question changes nothing on the machine, reaches no network and needs no privilege to be
//! asked: without it the answer is the error that the kernel gave.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::errno::Errno;

/// A machine, as far as the checks can see it.
pub trait Host {
    /// The beginning of a file (16 KiB), as text.
    ///
    /// # Errors
    /// What opening or reading it gave.
    fn read(&self, path: &str) -> Result<String, Errno>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// What opening or reading it gave.
    fn names(&self, path: &str) -> Result<Vec<String>, Errno>;

    /// Whether there is anything at this path.
    fn exists(&self, path: &str) -> bool;

    /// A device node.
    ///
    /// # Errors
    /// What stat(2) gave.
    fn node(&self, path: &str) -> Result<Node, Errno>;

    /// The file system at the nearest directory that exists at or above this path.
    ///
    /// # Errors
    /// What statfs(2) gave.
    fn file_system(&self, path: &str) -> Result<FileSystem, Errno>;

    /// CPUID, subleaf 0.
    fn cpuid(&self, leaf: u32) -> Registers;

    /// A model-specific register, by `/dev/cpu/0/msr`: needs root and the module msr.
    ///
    /// # Errors
    /// What opening or reading it gave.
    fn msr(&self, index: u32) -> Result<u64, Errno>;

    /// What `/dev/kvm` says.
    fn kvm(&self) -> Kvm;

    /// What a test machine showed. Takes milliseconds.
    fn probe(&self) -> Probe;

    /// A call to the kernel, tried and undone. The number is the call's own, where it has one.
    ///
    /// # Errors
    /// What the call gave.
    fn attempt(&self, attempt: Attempt) -> Result<u64, Errno>;

    /// The name of a group, from the system's own list.
    fn group_name(&self, id: u32) -> Option<String>;

    /// Where images and pods are kept.
    fn store(&self) -> String;
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Permissions, in octal.
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Major and minor number of a character device; other kinds have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<(u32, u32)>,
}

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSystem {
    /// Its kind: a name, or the magic number of statfs(2).
    pub kind: String,
    /// Bytes that this user may still write.
    pub available: u64,
    /// Files that may still be made; file systems without a limit say 0 and have 0 in all.
    pub free_files: u64,
    /// Files that it can hold.
    pub files: u64,
}

/// What a CPUID leaf holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct Registers {
    pub eax: Hex,
    pub ebx: Hex,
    pub ecx: Hex,
    pub edx: Hex,
}

/// What `/dev/kvm` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kvm {
    /// How opening it for reading and writing ended.
    pub open: Result<(), Errno>,
    /// `KVM_GET_API_VERSION`, if it could be opened.
    #[serde(default)]
    pub api_version: Option<i32>,
    /// `KVM_CHECK_EXTENSION`, by name; 0 is no.
    #[serde(default)]
    pub capabilities: BTreeMap<String, i32>,
}

impl Default for Kvm {
    fn default() -> Self {
        Self {
            open: Err(Errno::NOENT),
            api_version: None,
            capabilities: BTreeMap::new(),
        }
    }
}

/// What a test machine showed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Probe {
    /// It ran.
    Measured(Speed),
    /// `/dev/kvm` could not be opened, or is no KVM.
    #[default]
    NoDevice,
    /// Another hypervisor holds the processor.
    Busy,
    /// A call before the first instruction failed.
    Refused {
        /// Which.
        step: String,
        /// What it gave.
        errno: Errno,
    },
    /// It did not get through its loop.
    Broken {
        /// The privilege level at which it ran.
        cpl: u8,
        /// How it ended.
        what: String,
    },
    /// It did not come back.
    Hung {
        /// After how long it was given up.
        after_ms: u64,
    },
    /// This process could not try: out of memory or threads.
    NotTried {
        /// Why.
        why: String,
    },
}

/// The figures of a test machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Speed {
    /// Microseconds that `KVM_CREATE_VM` took.
    pub create_vm_us: f64,
    /// Microseconds of the fastest way out of the guest and back.
    pub exit_us: f64,
    /// Million instructions per second in kernel mode.
    pub cpl0_mips: f64,
    /// Million instructions per second in user mode.
    pub cpl3_mips: f64,
}

/// Calls that are tried because no file says whether they work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attempt {
    /// `openat2` with `RESOLVE_BENEATH`.
    Openat2,
    /// `memfd_create`.
    Memfd,
    /// `userfaultfd`.
    Userfaultfd,
    /// The version of Landlock.
    Landlock,
    /// A user namespace, in a process of its own.
    UserNamespace,
    /// A network namespace inside a user namespace: some systems allow the one and not the other.
    NetworkInUserNamespace,
    /// Opening `/dev/net/tun`, which makes no interface.
    Tun,
}

/// A 32-bit number that is written in hexadecimal.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hex(pub u32);

impl fmt::Debug for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08x}", self.0)
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.strip_prefix("0x")
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("`{text}` is no number of the form 0x1234")))
    }
}
