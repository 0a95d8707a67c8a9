//! Why a pod cannot have its network, in words for whoever asked for it.

use std::io;
use std::path::PathBuf;

use devices::net::InvalidNetConfig;
use thiserror::Error;

use super::netlink::NetlinkError;

/// Why a pod cannot have its network.
#[derive(Debug, Error)]
pub enum NetError {
    /// The path cannot be opened.
    #[error("--net netns:{path}: {cause}", path = .path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// The system's reason, which is part of the message.
        cause: io::Error,
    },
    /// It is some other file.
    #[error(
        "--net netns:{path}: is no network namespace; name one that `ip netns add` or a CNI runtime has made, such as /run/netns/NAME",
        path = .path.display()
    )]
    NotANamespace {
        /// The path.
        path: PathBuf,
    },
    /// It is the host's, or that of this process.
    #[error(
        "--net netns:{path}: is the network namespace of podvmm or of the host, which would lose its network to the pod; make one for the pod",
        path = .path.display()
    )]
    Host {
        /// The path.
        path: PathBuf,
    },
    /// It may not be entered.
    #[error("--net netns:{path}: cannot be entered: {cause}; run as root", path = .path.display())]
    Enter {
        /// The path.
        path: PathBuf,
        /// The system's reason, which is part of the message.
        cause: io::Error,
    },
    /// There is nothing to join.
    #[error(
        "--net netns:{path}: has no Ethernet interface that is up; set one up in there before the pod starts",
        path = .path.display()
    )]
    NoInterface {
        /// The path.
        path: PathBuf,
    },
    /// Another pod is in there.
    #[error("--net netns:{path}: another pod uses it ({tap}); each pod needs a namespace of its own", path = .path.display())]
    InUse {
        /// The path.
        path: PathBuf,
        /// The other pod's tap.
        tap: String,
    },
    /// Somebody else redirects what comes in.
    #[error(
        "--net: interface {interface} has an ingress qdisc of somebody else; take it away (tc qdisc del dev {interface} ingress)"
    )]
    Foreign {
        /// The interface.
        interface: String,
    },
    /// A guest cannot have such an interface.
    #[error("--net: interface {interface}")]
    Unusable {
        /// The interface.
        interface: String,
        /// What is wrong with it.
        source: InvalidNetConfig,
    },
    /// No tap could be made.
    #[error("--net: cannot make a tap: {}", explain_tap(.cause))]
    Tap {
        /// The system's reason, which is part of the message.
        cause: io::Error,
    },
    /// The namespace's localhost is not to be had.
    #[error("cannot take over the localhost of a network namespace: {}", explain_localhost(.cause))]
    Localhost {
        /// The system's reason, which is part of the message.
        cause: io::Error,
    },
    /// The kernel refused a change, or to tell.
    #[error("--net: cannot {operation}")]
    Netlink {
        /// What was to be done.
        operation: String,
        /// What the kernel said.
        source: NetlinkError,
    },
    /// No thread could be started in the namespace, or it failed.
    #[error("--net: cannot work in the network namespace")]
    Thread(#[source] io::Error),
}

fn explain_localhost(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EINVAL) => {
            format!("{error}; that takes Linux 5.9 with CONFIG_BPF_SYSCALL")
        }
        Some(libc::EPERM | libc::EACCES) => "permission denied; run as root".into(),
        _ => error.to_string(),
    }
}

fn explain_tap(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            "/dev/net/tun is missing; load the module tun".into()
        }
        Some(libc::EPERM | libc::EACCES) => "permission denied; run as root".into(),
        _ => error.to_string(),
    }
}
