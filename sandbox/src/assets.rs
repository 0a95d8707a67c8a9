//! Where guest kernel, initramfs and VMM binary are found.
//!
//! In this order: what the caller names, `PODVMM_GUEST_DIR`, beside the running binary,
//! `../lib/podvmm` from it, and `/usr/lib/podvmm`.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// Environment variable that names the directory of the guest's files.
pub const GUEST_DIR: &str = "PODVMM_GUEST_DIR";
/// Environment variable that names the VMM binary.
pub const VMM_BINARY: &str = "PODVMM_VMM";
const SYSTEM_DIR: &str = "/usr/lib/podvmm";

/// A file that a pod needs and that is nowhere.
#[derive(Debug, Error)]
#[error("{what}: `{file}` was found in none of: {}; {remedy}", .searched.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
pub struct AssetError {
    /// What the file is for.
    pub what: &'static str,
    /// Its name.
    pub file: &'static str,
    /// Directories that were looked into.
    pub searched: Vec<PathBuf>,
    /// What to do.
    pub remedy: &'static str,
}

/// The files that make a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestAssets {
    /// The guest kernel, if it was named.
    pub kernel: Option<PathBuf>,
    /// The initramfs, if it was named.
    pub initrd: Option<PathBuf>,
}

impl GuestAssets {
    /// The guest kernel's path.
    ///
    /// # Errors
    /// [`AssetError`] says where it was looked for and which command makes it.
    pub fn kernel(&self) -> Result<PathBuf, AssetError> {
        const REMEDY: &str = "`make guest` builds it, --kernel or PODVMM_GUEST_DIR names it";
        self.kernel
            .clone()
            .map_or_else(|| find("guest kernel", "vmlinux", REMEDY), Ok)
    }

    /// The initramfs' path.
    ///
    /// # Errors
    /// As [`kernel`](Self::kernel).
    pub fn initrd(&self) -> Result<PathBuf, AssetError> {
        const REMEDY: &str = "`make guest` builds it, --initrd or PODVMM_GUEST_DIR names it";
        self.initrd
            .clone()
            .map_or_else(|| find("guest initramfs", "initramfs", REMEDY), Ok)
    }
}

/// The binary that runs a pod's VM.
///
/// # Errors
/// [`AssetError`] when it is nowhere.
pub fn vmm_binary() -> Result<PathBuf, AssetError> {
    if let Some(named) = std::env::var_os(VMM_BINARY) {
        return Ok(named.into());
    }
    const REMEDY: &str = "`make build` builds it, PODVMM_VMM names it";
    search("VMM binary", "podvmm-vmm", REMEDY, beside_binary())
}

fn find(
    what: &'static str,
    file: &'static str,
    remedy: &'static str,
) -> Result<PathBuf, AssetError> {
    let dirs = match std::env::var_os(GUEST_DIR) {
        Some(named) => vec![named.into()],
        None => beside_binary(),
    };
    search(what, file, remedy, dirs)
}

fn search(
    what: &'static str,
    file: &'static str,
    remedy: &'static str,
    searched: Vec<PathBuf>,
) -> Result<PathBuf, AssetError> {
    let found = searched
        .iter()
        .map(|dir| dir.join(file))
        .find(|path| path.exists());
    found.ok_or(AssetError {
        what,
        file,
        searched,
        remedy,
    })
}

fn beside_binary() -> Vec<PathBuf> {
    let exe = std::env::current_exe().ok();
    let dir = exe.as_deref().and_then(Path::parent);
    let mut dirs: Vec<_> = dir
        .into_iter()
        .flat_map(|dir| [dir.to_owned(), dir.join("../lib/podvmm")])
        .collect();
    dirs.push(SYSTEM_DIR.into());
    dirs
}
