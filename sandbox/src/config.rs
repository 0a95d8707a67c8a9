//! What a pod is made of.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use devices::rate::RateLimit;
use rustix::fs::{Mode, OFlags};
use thiserror::Error;
use vmm::{ConfigError, MemorySize, VcpuCount};

use crate::assets::GuestAssets;
use crate::events::EventSink;
use crate::jail::{JailMode, SeccompMode, Terms};
use crate::net::Network;

/// Name of the export that holds the root file system of a single-container pod.
pub const ROOTFS: &str = "rootfs";

/// A host path that cannot be shared.
#[derive(Debug, Error)]
pub enum ShareError {
    /// It could not be opened.
    #[error("{parameter} {path}: {}", explain(.cause))]
    Open {
        /// Which parameter named it.
        parameter: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's reason, which is part of the message.
        cause: io::Error,
    },
    /// A device, socket or FIFO: a guest cannot use the host's.
    #[error("{parameter} {path}: is neither a directory nor a regular file; only those are shared")]
    Special {
        /// Which parameter named it.
        parameter: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A root file system that is no directory.
    #[error(
        "{parameter} {path}: is not a directory; name a directory that holds a root file system"
    )]
    NotADirectory {
        /// Which parameter named it.
        parameter: &'static str,
        /// The path.
        path: PathBuf,
    },
}

fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "does not exist".into(),
        Some(libc::ELOOP) => "is a loop of symbolic links".into(),
        Some(libc::EACCES) => "permission denied".into(),
        Some(libc::ENOTDIR) => "a part of the path is not a directory".into(),
        _ => error.to_string(),
    }
}

/// One host directory or file that the guest may see, held open.
#[derive(Debug)]
pub struct Share {
    /// Name in the guest's share.
    pub name: String,
    /// The file itself.
    pub file: OwnedFd,
    /// Whether the host refuses all changes.
    pub read_only: bool,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Whether it stays as it is while the pod runs, so that the guest need not ask again.
    pub unchanging: bool,
    /// Whether what is mounted below belongs to it. Without the privilege to leave mounts out they
    /// are seen in any case.
    pub submounts: bool,
    /// Whether `file` is a mount that is attached nowhere and made for this share.
    pub detached: bool,
}

impl Share {
    /// Opens `path` to be shared as `name`; `parameter` is what the user calls it.
    ///
    /// # Errors
    /// [`ShareError::Open`] with the reason.
    pub fn open(
        parameter: &'static str,
        name: &str,
        path: &Path,
        read_only: bool,
    ) -> Result<Self, ShareError> {
        let failed = |source: io::Error| ShareError::Open {
            parameter,
            path: path.into(),
            cause: source,
        };
        let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| failed(errno.into()))?;
        Self::of_file(parameter, name, file, path, read_only)
    }

    /// Shares a file or directory that is open, as `name`; errors call it `parameter` and `path`.
    ///
    /// # Errors
    /// [`ShareError`].
    pub fn of_file(
        parameter: &'static str,
        name: &str,
        file: OwnedFd,
        path: &Path,
        read_only: bool,
    ) -> Result<Self, ShareError> {
        let failed = |source: io::Error| ShareError::Open {
            parameter,
            path: path.into(),
            cause: source,
        };
        let stat = rustix::fs::fstat(&file).map_err(|errno| failed(errno.into()))?;
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        if !kind.is_dir() && !kind.is_file() {
            return Err(ShareError::Special {
                parameter,
                path: path.into(),
            });
        }
        let is_dir = kind.is_dir();
        Ok(Self {
            name: name.to_owned(),
            file,
            read_only,
            is_dir,
            unchanging: false,
            submounts: true,
            detached: false,
        })
    }

    /// Opens the directory `path` as the root file system `name`. Where it is not writable, nobody
    /// else may change it either while the pod runs.
    ///
    /// # Errors
    /// [`ShareError`] when it is no directory that can be opened.
    pub fn rootfs(name: &str, path: &Path, writable: bool) -> Result<Self, ShareError> {
        const PARAMETER: &str = "--rootfs";
        let mut share = Self::open(PARAMETER, name, path, !writable)?;
        if !share.is_dir {
            return Err(ShareError::NotADirectory {
                parameter: PARAMETER,
                path: path.into(),
            });
        }
        // A host's own root is alive: the guest has to ask whether files are still the same.
        share.unchanging = !writable && !is_host_root(&share.file);
        // The host's `/proc`, `/sys` and `/dev` are no part of a root file system.
        share.submounts = false;
        Ok(share)
    }

    /// What the VMM process may do with it.
    pub(crate) fn terms(&self) -> Terms {
        Terms {
            read_only: self.read_only,
            submounts: self.submounts,
            detached: self.detached,
        }
    }
}

/// Everything that a pod needs before its first container.
#[derive(Debug)]
pub struct PodConfig {
    /// The pod's name: unique among the pods below [`root`](Self::root).
    pub name: String,
    /// Directory of all pods' runtime directories.
    pub root: PathBuf,
    /// vCPUs.
    pub vcpus: VcpuCount,
    /// Guest memory.
    pub memory: MemorySize,
    /// Most vCPUs that it can be resized to while it runs. The guest's kernel keeps data for each from the
    /// start.
    pub max_vcpus: VcpuCount,
    /// Most memory that it can be resized to.
    pub max_memory: MemorySize,
    /// The guest's host name; empty for the pod's name.
    pub hostname: String,
    /// Kernel parameters of the whole guest, such as `net.ipv4.ip_unprivileged_port_start`.
    pub sysctls: BTreeMap<String, String>,
    /// Bytes of the pod's shared memory, `/dev/shm`; half of the guest's memory if none is named.
    pub shm_size: Option<u64>,
    /// Whether there is a pid namespace that containers may share: those whose configuration has a path for
    /// theirs, and that name no container that they share it with.
    pub shared_pids: bool,
    /// Kernel and initramfs.
    pub assets: GuestAssets,
    /// Where the guest's console is copied to.
    pub console: Option<File>,
    /// Host directories and files that the guest sees.
    pub shares: Vec<Share>,
    /// How fast the guest may use all of them together, and each block volume.
    pub disk_limit: RateLimit,
    /// Most block volumes at a time, by [`Pod::add_block`](crate::Pod::add_block).
    pub block_slots: u8,
    /// The guest's network; without one it has `lo` alone.
    pub network: Option<Network>,
    /// How fast each of its interfaces may send, and receive.
    pub net_limit: RateLimit,
    /// How long the guest may take until its agent says hello.
    pub boot_timeout: Duration,
    /// Readable when the start is to be given up.
    pub cancel: Option<OwnedFd>,
    /// What the VMM process logs to this process's standard error.
    pub log: Option<log::LevelFilter>,
    /// Who is told of what happens in the pod.
    pub events: Option<EventSink>,
    /// How much of a jail the VMM process must have.
    pub jail: JailMode,
    /// What happens to a system call of the VMM process that it has no reason to make.
    pub seccomp: SeccompMode,
    /// Directory of the cgroup (v2) that the VMM process is started in; its own if none is named.
    pub cgroup: Option<PathBuf>,
}

impl PodConfig {
    /// A pod of 1 vCPU and 2 GiB that shares nothing.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        #[allow(clippy::expect_used, reason = "both constants are in range")]
        let (vcpus, memory) = (
            VcpuCount::new(1).expect("one vCPU is allowed"),
            MemorySize::from_mib(2048).expect("2 GiB is allowed"),
        );
        Self {
            name: name.into(),
            root: default_root(),
            vcpus,
            memory,
            max_vcpus: vcpus,
            max_memory: memory,
            hostname: String::new(),
            sysctls: BTreeMap::new(),
            shm_size: None,
            shared_pids: false,
            assets: GuestAssets::default(),
            console: None,
            shares: Vec::new(),
            disk_limit: RateLimit::default(),
            block_slots: 0,
            network: None,
            net_limit: RateLimit::default(),
            boot_timeout: Duration::from_secs(60),
            cancel: None,
            log: None,
            events: None,
            jail: JailMode::default(),
            seccomp: SeccompMode::default(),
            cgroup: None,
        }
    }

    /// Shares `dir` as the root file system; `writable` lets containers change it on the host.
    /// Where it is not writable, nobody else may change it either while the pod runs.
    ///
    /// # Errors
    /// [`ShareError`] when it is no directory that can be opened.
    pub fn rootfs(&mut self, dir: impl AsRef<Path>, writable: bool) -> Result<(), ShareError> {
        let share = Share::rootfs(ROOTFS, dir.as_ref(), writable)?;
        self.shares.push(share);
        Ok(())
    }

    /// Whether the guest may change anything on the host.
    #[must_use]
    pub fn has_writable_share(&self) -> bool {
        self.shares.iter().any(|share| !share.read_only)
    }
}

fn is_host_root(dir: &OwnedFd) -> bool {
    match (rustix::fs::fstat(dir), rustix::fs::stat("/")) {
        (Ok(dir), Ok(root)) => (dir.st_dev, dir.st_ino) == (root.st_dev, root.st_ino),
        _ => true,
    }
}

/// `/run/podvmm` for root, below `XDG_RUNTIME_DIR` (or `/tmp`) for others.
#[must_use]
pub fn default_root() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/run/podvmm".into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) => Path::new(&dir).join("podvmm"),
        None => format!("/tmp/podvmm-{}", rustix::process::getuid().as_raw()).into(),
    }
}

/// Reads a memory size, as [`parse_bytes`] does, that a machine can have.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse_memory(text: &str) -> Result<MemorySize, String> {
    let bytes = parse_bytes(text)?;
    let size = MemorySize::from_bytes(bytes).map_err(|error: ConfigError| error.to_string())?;
    match host_memory() {
        Some(host) if size.bytes() > host => Err(format!(
            "`{text}` is more than this host's {} MiB of memory; ask for less",
            host >> 20
        )),
        _ => Ok(size),
    }
}

/// Reads a size: bytes, or a number with K, M, G, T or Ki, Mi, Gi, Ti (all powers of 1024, as in docker;
/// an optional B at the end is ignored).
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("`{text}` is no size; write 512M, 2G, 512Mi or plain bytes");
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "ki" | "kib" => 10,
        "m" | "mb" | "mi" | "mib" => 20,
        "g" | "gb" | "gi" | "gib" => 30,
        "t" | "tb" | "ti" | "tib" => 40,
        _ => return Err(wrong()),
    };
    if number.is_empty() {
        return Err(wrong());
    }
    let bytes = number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift));
    bytes.ok_or_else(|| format!("`{text}` is more than any machine has"))
}

/// Bytes of memory that the host has, if it says so.
#[must_use]
pub fn host_memory() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, mib) in [
            ("256M", 256),
            ("1G", 1024),
            ("512Mi", 512),
            ("1Gi", 1024),
            ("134217728", 128),
            ("131072k", 128),
        ] {
            assert_eq!(parse_memory(text).unwrap().bytes(), mib << 20, "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_reason() {
        for (text, word) in [
            ("", "no size"),
            ("G", "no size"),
            ("-1", "no size"),
            ("1.5G", "no size"),
            ("12X", "no size"),
            ("512i", "no size"),
            ("512bbb", "no size"),
            ("0", "at least"),
            ("1", "at least"),
            ("99999999999999999999", "more than any"),
            ("999T", "at most"),
        ] {
            let error = parse_memory(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
