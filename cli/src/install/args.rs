//! The command lines of `podvmm install` and `podvmm uninstall`.

use std::path::PathBuf;

const INSTALL_EXAMPLES: &str = "\
Examples:
  podvmm install --dry-run              what would be put where
  podvmm install --restart-containerd   a node that is in use from now on
  podvmm install --root /host           from a pod that has the node's root there
  podvmm install --root IMAGE --force   into an image, on another machine than its node

What it needs lies beside podvmm, in ../lib/podvmm from there, or where PODVMM_GUEST_DIR says. \
A second time it puts in place what has changed.

Exit status: 0 installed, 1 refused: this machine cannot run pods, 2 everything else.";

const UNINSTALL_EXAMPLES: &str = "\
Files that have been changed since they were installed are left and named.

Exit status: 0 nothing of it is left, 1 refused: pods are running, 2 everything else.";

/// What both have.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// Directory that gets bin and lib/podvmm
    #[arg(long, value_name = "DIR", default_value = "/usr/local", value_parser = absolute)]
    pub prefix: PathBuf,
    /// The system that is meant: its root directory
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Restarts containerd if its configuration has changed; pods go on meanwhile
    #[arg(long)]
    pub restart_containerd: bool,
    /// Says what would be done, and does nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Prints what was done as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = INSTALL_EXAMPLES)]
pub struct Install {
    #[command(flatten)]
    pub common: Common,
    /// containerd's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/containerd/config.toml", value_parser = absolute)]
    pub containerd_config: PathBuf,
    /// Installs where the host checks fail: into an image, or before the machine is ready
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = UNINSTALL_EXAMPLES)]
pub struct Uninstall {
    #[command(flatten)]
    pub common: Common,
    /// Goes ahead while pods are running; they go on, and containerd cannot stop them in order
    #[arg(long)]
    pub force: bool,
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let parent = |part| part == std::path::Component::ParentDir;
    if !path.is_absolute() || path.components().any(parent) {
        return Err(format!(
            "`{text}` is no absolute path; it is a path in the system that is meant and starts with /"
        ));
    }
    Ok(path)
}
