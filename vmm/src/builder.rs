//! What a machine is made of, checked once.

use std::fs::File;

use devices::VirtioDevice;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::events::ThreadHook;
use crate::machine::{BuildError, Vm};

/// A value that no machine can have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Number of vCPUs out of range.
    #[error("{0} vCPUs: a machine has 1 to {max}", max = VcpuCount::MAX)]
    Vcpus(u64),
    /// Memory too small to hold a kernel.
    #[error("{0} bytes of memory: a machine needs at least {min} MiB", min = MemorySize::MIN >> 20)]
    MemoryTooSmall(u64),
    /// Memory beyond what is supported.
    #[error("{0} bytes of memory: a machine has at most {max} GiB", max = MemorySize::MAX >> 30)]
    MemoryTooLarge(u64),
    /// A kernel command line that is too long or not ASCII text.
    #[error("kernel command line: {0}")]
    CommandLine(&'static str),
}

/// A number of vCPUs that a machine can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct VcpuCount(u8);

impl VcpuCount {
    /// The guest kernel's limit (`CONFIG_NR_CPUS`).
    pub const MAX: u8 = 64;

    /// `count` vCPUs.
    ///
    /// # Errors
    /// [`ConfigError::Vcpus`] outside 1..=[`MAX`](Self::MAX).
    pub fn new(count: u64) -> Result<Self, ConfigError> {
        match u8::try_from(count) {
            Ok(n) if (1..=Self::MAX).contains(&n) => Ok(Self(n)),
            _ => Err(ConfigError::Vcpus(count)),
        }
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u64> for VcpuCount {
    type Error = ConfigError;

    fn try_from(count: u64) -> Result<Self, ConfigError> {
        Self::new(count)
    }
}

impl From<VcpuCount> for u64 {
    fn from(count: VcpuCount) -> Self {
        count.0.into()
    }
}

impl TryFrom<u64> for MemorySize {
    type Error = ConfigError;

    fn try_from(bytes: u64) -> Result<Self, ConfigError> {
        Self::from_bytes(bytes)
    }
}

impl From<MemorySize> for u64 {
    fn from(size: MemorySize) -> Self {
        size.0
    }
}

/// A memory size that a machine can have, in bytes, a multiple of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct MemorySize(u64);

impl MemorySize {
    /// The smallest: kernel, initramfs and agent fit, and little else.
    pub const MIN: u64 = 64 << 20;
    /// The largest.
    pub const MAX: u64 = 1 << 40;

    /// `bytes` of memory, rounded up to a multiple of 4 KiB.
    ///
    /// # Errors
    /// [`ConfigError`] outside [`MIN`](Self::MIN)..=[`MAX`](Self::MAX).
    pub fn from_bytes(bytes: u64) -> Result<Self, ConfigError> {
        if bytes < Self::MIN {
            Err(ConfigError::MemoryTooSmall(bytes))
        } else if bytes > Self::MAX {
            Err(ConfigError::MemoryTooLarge(bytes))
        } else {
            Ok(Self(bytes.next_multiple_of(4096)))
        }
    }

    /// `mib` MiB of memory.
    ///
    /// # Errors
    /// As [`from_bytes`](Self::from_bytes).
    pub fn from_mib(mib: u64) -> Result<Self, ConfigError> {
        Self::from_bytes(mib.saturating_mul(1 << 20))
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }
}

/// Everything that goes into a machine.
pub struct VmBuilder {
    pub(crate) kvm: Option<File>,
    pub(crate) vcpus: VcpuCount,
    pub(crate) memory: MemorySize,
    pub(crate) max_vcpus: VcpuCount,
    pub(crate) max_memory: MemorySize,
    pub(crate) kernel: File,
    pub(crate) initrd: Option<File>,
    pub(crate) cmdline: String,
    pub(crate) console: Option<File>,
    pub(crate) devices: Vec<Box<dyn VirtioDevice>>,
    pub(crate) slots: usize,
    pub(crate) on_thread_start: Option<ThreadHook>,
}

impl VmBuilder {
    /// A machine with one vCPU and 256 MiB that boots `kernel`: an ELF `vmlinux` or a bzImage.
    #[must_use]
    pub fn new(kernel: File) -> Self {
        Self {
            kvm: None,
            vcpus: VcpuCount(1),
            memory: MemorySize(256 << 20),
            max_vcpus: VcpuCount(1),
            max_memory: MemorySize(256 << 20),
            kernel,
            initrd: None,
            cmdline: String::new(),
            console: None,
            devices: Vec::new(),
            slots: 0,
            on_thread_start: None,
        }
    }

    /// Uses an open `/dev/kvm` instead of opening it: for a process that cannot.
    #[must_use]
    pub fn kvm(mut self, device: File) -> Self {
        self.kvm = Some(device);
        self
    }

    /// Sets the number of vCPUs.
    #[must_use]
    pub fn vcpus(mut self, count: VcpuCount) -> Self {
        self.vcpus = count;
        self
    }

    /// Sets the size of guest memory.
    #[must_use]
    pub fn memory(mut self, size: MemorySize) -> Self {
        self.memory = size;
        self
    }

    /// Lets the machine grow up to so many vCPUs while it runs; with fewer than it starts with, it does not.
    #[must_use]
    pub fn max_vcpus(mut self, count: VcpuCount) -> Self {
        self.max_vcpus = count;
        self
    }

    /// Lets the machine grow up to so much memory while it runs; with less than it starts with, it does not.
    /// Room for it comes in pieces of 128 MiB, or of 2 GiB where it starts with 63 GiB or more, and the rest of
    /// a piece is left out.
    #[must_use]
    pub fn max_memory(mut self, size: MemorySize) -> Self {
        self.max_memory = size;
        self
    }

    /// Loads `initrd` behind the kernel.
    #[must_use]
    pub fn initrd(mut self, initrd: File) -> Self {
        self.initrd = Some(initrd);
        self
    }

    /// Sets the kernel command line. What the machine needs (devices, console) is appended.
    #[must_use]
    pub fn cmdline(mut self, cmdline: impl Into<String>) -> Self {
        self.cmdline = cmdline.into();
        self
    }

    /// Copies the guest's console to `file` and makes the kernel talkative. Costs an exit for each
    /// character: for debugging only.
    #[must_use]
    pub fn console(mut self, file: File) -> Self {
        self.console = Some(file);
        self
    }

    /// Adds a virtio device.
    #[must_use]
    pub fn device(mut self, device: Box<dyn VirtioDevice>) -> Self {
        self.devices.push(device);
        self
    }

    /// Leaves room for `slots` devices that come while the machine runs, by
    /// [`VmHandle::plug`](crate::VmHandle::plug). They share an interrupt line.
    #[must_use]
    pub fn slots(mut self, slots: u8) -> Self {
        self.slots = slots.into();
        self
    }

    /// Calls `hook` first thing in each thread that the machine starts: vCPUs and device workers. All
    /// of them are started by the thread that calls [`Vm::run`], and inherit its rights.
    #[must_use]
    pub fn on_thread_start(mut self, hook: ThreadHook) -> Self {
        self.on_thread_start = Some(hook);
        self
    }

    /// As many as the guest is told of.
    pub(crate) fn most_vcpus(&self) -> VcpuCount {
        VcpuCount(self.vcpus.0.max(self.max_vcpus.0))
    }

    /// Makes the machine: memory mapped, kernel loaded, vCPUs ready to run.
    ///
    /// # Errors
    /// [`BuildError`] names the part that failed.
    pub fn build(self) -> Result<Vm, BuildError> {
        Vm::new(self)
    }
}
