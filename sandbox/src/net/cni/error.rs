//! Why a pod cannot have its network, or why something of it remains.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// Why a pod cannot have its network, or why something of it remains.
#[derive(Debug, Error)]
pub enum CniError {
    /// Configurations cannot be read.
    #[error("--net cni: {path} cannot be read: {cause}{}", rights(.cause), path = .path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason, which is part of the message.
        cause: io::Error,
    },
    /// One of them is none.
    #[error("--net cni: {path}: {problem}; mend it, or name another network with --net cni=NAME", path = .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// There is no such network.
    #[error(
        "--net cni={name}: no configuration in {dir} has that name; there is {}", those(.known), dir = .dir.display()
    )]
    NoNetwork {
        /// What was asked for.
        name: String,
        /// Where it was looked for.
        dir: PathBuf,
        /// What is there.
        known: Vec<String>,
    },
    /// A plugin is not there.
    #[error(
        "--net cni: the plugin {plugin} is in none of {}; install it (apt-get install containernetworking-plugins), or say where it is with --cni-bin-dir", places(.dirs)
    )]
    NoPlugin {
        /// Its name.
        plugin: String,
        /// Where it was looked for.
        dirs: Vec<PathBuf>,
    },
    /// A plugin cannot be executed.
    #[error("--net cni: the plugin {plugin} cannot be executed")]
    Spawn {
        /// Its path.
        plugin: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A plugin said no.
    #[error("--net cni: the plugin {plugin} failed at {operation}: {message}{}", remedy(.message))]
    Plugin {
        /// Its name.
        plugin: String,
        /// What it was to do.
        operation: &'static str,
        /// What it said.
        message: String,
    },
    /// A plugin does not end.
    #[error(
        "--net cni: the plugin {plugin} was ended at {operation}: it took longer than {limit:?}"
    )]
    Slow {
        /// Its name.
        plugin: String,
        /// What it was to do.
        operation: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// The namespace cannot be made or removed.
    #[error("--net cni: network namespace {path}: {cause}{}", rights(.cause), path = .path.display())]
    Namespace {
        /// Its path.
        path: PathBuf,
        /// The system's reason, which is part of the message.
        cause: io::Error,
    },
    /// What is to be known later cannot be written down, or read.
    #[error("{path}", path = .0.display())]
    State(PathBuf, #[source] io::Error),
    /// Something remains.
    #[error(
        "the pod's network is not wholly taken back; try again when the cause is mended, or remove {path} to leave the rest as it is", path = .path.display()
    )]
    Remains {
        /// What is known of it.
        path: PathBuf,
        /// Why.
        source: Box<CniError>,
    },
}

fn those(known: &[String]) -> String {
    match known {
        [] => "none".into(),
        known => known.join(", "),
    }
}

fn places(dirs: &[PathBuf]) -> String {
    let dirs = dirs.iter().map(|dir| dir.display().to_string());
    dirs.collect::<Vec<_>>().join(", ")
}

/// What helps, where the plugins' own words are known not to say.
fn remedy(message: &str) -> &'static str {
    if message.contains("iptables") && message.contains("executable file not found") {
        "; install it: apt-get install iptables"
    } else if message.contains("unsupported CNI") || message.contains("incompatible CNI") {
        "; write a cniVersion into the configuration that all its plugins have"
    } else if message.contains("no IP addresses available") {
        "; end other pods, or give the network a larger subnet"
    } else {
        ""
    }
}

fn rights(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => "; run as root",
        _ => "",
    }
}
