//! This machine.

mod attempts;
mod kvm;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

pub use self::kvm::processor_virtualizes;
use crate::errno::Errno;
use crate::host::{Attempt, FileSystem, Host, Kvm, Node, Probe, Registers};

/// As much of a file as is read: more than any that is asked for needs.
const MAX_FILE: u64 = 16 << 10;

/// Kinds of file systems by the magic number of statfs(2).
const KINDS: &[(u64, &str)] = &[
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xca45_1a4e, "bcachefs"),
    (0xf2f5_2010, "f2fs"),
    (0x0102_1994, "tmpfs"),
    (0x794c_7630, "overlay"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0x4d44, "vfat"),
    (0x2011_bab0, "exfat"),
    (0x6367_7270, "cgroup2"),
    (0x0027_e0eb, "cgroup"),
    (0x6265_6572, "sysfs"),
];

/// This machine, asked as the user that this process runs as.
#[derive(Debug)]
pub struct Live {
    store: PathBuf,
}

impl Live {
    /// With the store where it is unless configured otherwise.
    #[must_use]
    pub fn new() -> Self {
        Self {
            store: default_store(),
        }
    }

    /// With a store of the caller's.
    #[must_use]
    pub fn with_store(store: impl Into<PathBuf>) -> Self {
        Self {
            store: store.into(),
        }
    }
}

impl Default for Live {
    fn default() -> Self {
        Self::new()
    }
}

fn default_store() -> PathBuf {
    let home = || std::env::var_os("HOME").filter(|home| !home.is_empty());
    if rustix::process::geteuid().is_root() {
        return "/var/lib/podvmm".into();
    }
    std::env::var_os("XDG_DATA_HOME")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(|| home().map(|home| Path::new(&home).join(".local/share")))
        .map_or_else(|| "/var/tmp/podvmm".into(), |dir| dir.join("podvmm"))
}

impl Host for Live {
    fn read(&self, path: &str) -> Result<String, Errno> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn names(&self, path: &str) -> Result<Vec<String>, Errno> {
        let mut names = fs::read_dir(path)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<Vec<_>, Errno>>()?;
        names.sort();
        Ok(names)
    }

    fn exists(&self, path: &str) -> bool {
        Path::new(path).exists()
    }

    fn node(&self, path: &str) -> Result<Node, Errno> {
        let metadata = fs::metadata(path)?;
        let device = metadata.rdev();
        Ok(Node {
            mode: format!("{:04o}", metadata.mode() & 0o7777),
            uid: metadata.uid(),
            gid: metadata.gid(),
            device: metadata
                .file_type()
                .is_char_device()
                .then(|| (rustix::fs::major(device), rustix::fs::minor(device))),
        })
    }

    fn file_system(&self, path: &str) -> Result<FileSystem, Errno> {
        let path = Path::new(path);
        let there = path.ancestors().find(|path| path.exists());
        let stat = rustix::fs::statfs(there.unwrap_or(path))?;
        // The magic number is 32 bits wide, whatever the field is.
        let magic = stat.f_type as u64 & 0xffff_ffff;
        let kind = KINDS.iter().find(|(number, _)| *number == magic);
        Ok(FileSystem {
            kind: kind.map_or_else(|| format!("{magic:#x}"), |(_, name)| (*name).to_owned()),
            available: stat.f_bavail * stat.f_bsize.unsigned_abs(),
            free_files: stat.f_ffree,
            files: stat.f_files,
        })
    }

    fn cpuid(&self, leaf: u32) -> Registers {
        kvm::cpuid(leaf)
    }

    fn msr(&self, index: u32) -> Result<u64, Errno> {
        let mut bytes = [0; 8];
        File::open("/dev/cpu/0/msr")?.read_exact_at(&mut bytes, index.into())?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn kvm(&self) -> Kvm {
        kvm::device()
    }

    fn probe(&self) -> Probe {
        kvm::probe()
    }

    fn attempt(&self, attempt: Attempt) -> Result<u64, Errno> {
        attempts::attempt(attempt)
    }

    fn group_name(&self, id: u32) -> Option<String> {
        let list = fs::read_to_string("/etc/group").ok()?;
        list.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
        })
    }

    fn store(&self) -> String {
        self.store.display().to_string()
    }
}
