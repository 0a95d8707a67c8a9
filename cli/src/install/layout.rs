//! Which file comes from where and goes where.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use sandbox::assets::{self, GuestAssets};

/// Directories in which a service manager's programs are found by their names.
const FOUND_BY_NAME: [&str; 2] = ["/usr/local", "/usr"];
/// The shim's name, which containerd makes of the runtime's type.
pub const SHIM: &str = "containerd-shim-podvmm-v2";
/// The name of the program that is one pod's VM.
pub const VMM: &str = "podvmm-vmm";

const PROGRAM: u32 = 0o755;
const DATA: u32 = 0o644;

/// A file to be put in place.
#[derive(Clone, Debug)]
pub struct Asset {
    pub from: PathBuf,
    /// Where it goes, in its system.
    pub to: PathBuf,
    pub mode: u32,
}

/// Where a shim is, in its system.
pub fn shim(prefix: &Path) -> PathBuf {
    prefix.join("bin").join(SHIM)
}

/// Whether containerd finds a shim there by its name.
pub fn is_found_by_name(prefix: &Path) -> bool {
    FOUND_BY_NAME.iter().any(|dir| prefix == Path::new(dir))
}

/// Finds everything that is installed.
pub fn assets(prefix: &Path) -> anyhow::Result<Vec<Asset>> {
    let own = std::env::current_exe().context("the path of this program")?;
    let shim = own.with_file_name(SHIM);
    ensure!(
        shim.is_file(),
        "containerd's shim: `{SHIM}` is not beside {}; `make build` builds it",
        own.display()
    );
    let guest = GuestAssets::default();
    let (bin, lib) = (prefix.join("bin"), prefix.join("lib/podvmm"));
    Ok([
        (own, bin.join("podvmm"), PROGRAM),
        (assets::vmm_binary()?, bin.join(VMM), PROGRAM),
        (shim, bin.join(SHIM), PROGRAM),
        (guest.kernel()?, lib.join("vmlinux"), DATA),
        (guest.initrd()?, lib.join("initramfs"), DATA),
    ]
    .into_iter()
    .map(|(from, to, mode)| Asset { from, to, mode })
    .collect())
}
