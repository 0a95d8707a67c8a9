//! The messages between sandbox and VMM process.
//!
//! They travel as JSON over sequenced-packet Unix sockets. One is the VMM's standard input: the
//! first packet is [`Launch`], with the descriptors that it counts attached; packets of the VMM are
//! [`Report`]s. When either end closes, the other one stops. The second comes with [`Launch`] and
//! carries a [`Request`] and its [`Answer`] at a time, so that whoever waits for a report never
//! gets somebody's answer. The VMM is not trusted by its sandbox: its packets are bounded and
//! parsed strictly.

use devices::blk::Geometry;
use devices::net::NetConfig;
use devices::rate::RateLimit;
use serde::{Deserialize, Serialize};

use crate::jail::SeccompMode;
pub use crate::packet::{MAX_FDS, MAX_PACKET, receive, send};

/// A share as the VMM is told of it; its descriptor is attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchShare {
    /// Name in the guest's share.
    pub name: String,
    /// Whether all changes are refused.
    pub read_only: bool,
    /// Whether it stays as it is while the pod runs.
    pub unchanging: bool,
}

/// What a VMM process is to run. Descriptors are attached in this order: `/dev/kvm`, kernel,
/// initramfs, vsock listener, socket for [`Request`]s, root directory if `root`, console if
/// `console`, one for each share, then a tap for each of `nets`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// vCPUs.
    pub vcpus: u64,
    /// Bytes of guest memory.
    pub memory: u64,
    /// Most vCPUs that it can be resized to.
    pub max_vcpus: u64,
    /// Most bytes of guest memory that it can be resized to.
    pub max_memory: u64,
    /// Kernel command line, without what the VMM adds for its devices.
    pub cmdline: String,
    /// What happens to a system call that is on no list.
    pub seccomp: SeccompMode,
    /// Whether a directory is attached that becomes the VMM's root.
    pub root: bool,
    /// Whether a console file is attached.
    pub console: bool,
    /// Unix socket path, as it is without such a root, to which `_<port>` is added when the guest dials a port of the host.
    pub vsock_path: String,
    /// virtio-fs tag.
    pub share_tag: String,
    /// What the guest sees of the host.
    pub shares: Vec<LaunchShare>,
    /// How fast it may use that.
    pub disk_limit: RateLimit,
    /// Its network interfaces.
    pub nets: Vec<NetConfig>,
    /// Disks that may come while it runs.
    pub block_slots: u8,
}

/// A disk as the VMM is told of it; its descriptor is attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchBlock {
    /// What the disk says that it is called.
    pub id: String,
    /// What the descriptor is as a disk.
    pub geometry: Geometry,
    /// Whether all changes are refused.
    pub read_only: bool,
}

/// What the VMM process says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Report {
    /// The VM was made and runs.
    Running {
        /// What of the VMM's jail is missing, a sentence each.
        gaps: Vec<String>,
    },
    /// The VM could not be made.
    Failed {
        /// Which of the given files is at fault, if one is.
        file: Option<GuestFile>,
        /// Error and causes in one line.
        message: String,
    },
    /// The VM has stopped.
    Stopped {
        /// Why.
        end: End,
        /// The newest console output.
        console: String,
    },
}

/// What the sandbox asks of a VMM process while the VM runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Show the guest one more file or directory. Its descriptor is attached.
    AddShare(LaunchShare),
    /// Take a share away. What the guest still holds of it answers `ESTALE`.
    RemoveShare {
        /// Its name.
        name: String,
    },
    /// Put a disk into a slot. Its descriptor is attached; the guest's agent has to be told.
    AddBlock(LaunchBlock),
    /// Take a disk away, whatever the guest is at with it.
    RemoveBlock {
        /// Where it was put.
        address: u64,
    },
    /// Grant the guest so much, and want back what it has beyond that.
    Resize {
        /// vCPUs.
        vcpus: u64,
        /// Bytes of memory.
        memory: u64,
    },
    /// Say how large the machine is.
    Size,
}

/// What became of a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// It was carried out.
    Done,
    /// So was [`Request::AddBlock`].
    Plugged {
        /// Where the disk's registers are in the guest.
        address: u64,
    },
    /// So large is the machine now.
    Size(MachineSize),
    /// It was not.
    Refused {
        /// Error and causes in one line.
        message: String,
    },
}

/// How large a machine is, and is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineSize {
    /// vCPUs that the guest has been granted; how many it has online, its agent knows.
    pub vcpus: u64,
    /// Most that it can be granted.
    pub max_vcpus: u64,
    /// Bytes of memory that it has.
    pub memory: u64,
    /// Bytes that it is to have.
    pub wanted_memory: u64,
    /// Most bytes that it can be granted.
    pub max_memory: u64,
}

/// A file that a VM is booted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestFile {
    /// The guest kernel.
    Kernel,
    /// The initramfs.
    Initrd,
}

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum End {
    /// The guest powered off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest's kernel panicked.
    Panic {
        /// What it said.
        message: String,
    },
    /// The guest crashed without a word.
    TripleFault,
    /// The host stopped it.
    Stopped,
    /// KVM could not go on.
    Failed {
        /// Error and causes in one line.
        message: String,
    },
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PowerOff => write!(f, "the guest powered off"),
            Self::Reset => write!(f, "the guest asked for a reset"),
            Self::Panic { message } => write!(f, "the guest's kernel panicked: {message}"),
            Self::TripleFault => write!(f, "the guest crashed (triple fault)"),
            Self::Stopped => write!(f, "the VM was stopped"),
            Self::Failed { message } => write!(f, "the VM cannot run: {message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};

    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap()
    }

    #[test]
    fn messages_carry_descriptors() {
        let (a, b) = pair();
        let report = Report::Failed {
            file: Some(GuestFile::Kernel),
            message: "no".into(),
        };
        send(&a, &report, &[a.as_fd(), b.as_fd()]).unwrap();
        let (got, fds): (Report, _) = receive(&b).unwrap().unwrap();
        assert_eq!(got, report);
        assert_eq!(fds.len(), 2);
    }

    #[test]
    fn a_closed_end_is_no_error() {
        let (a, b) = pair();
        drop(a);
        assert!(receive::<Report>(&b).unwrap().is_none());
    }

    #[test]
    fn a_packet_that_is_too_long_is_refused() {
        let (a, b) = pair();
        // Cut where a packet ends it would be a message.
        let mut packet = serde_json::to_vec(&Report::Running { gaps: vec![] }).unwrap();
        packet.resize(MAX_PACKET + 1, b' ');
        rustix::io::write(&a, &packet).unwrap();
        let refused = receive::<Report>(&b).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        packet.pop();
        rustix::io::write(&a, &packet).unwrap();
        assert!(receive::<Report>(&b).is_ok());
    }

    #[test]
    fn nonsense_and_unknown_fields_are_refused() {
        for text in [
            "{",
            "\"Sideways\"",
            "{\"failed\":{\"file\":null,\"message\":\"x\",\"more\":1}}",
        ] {
            let (a, b) = pair();
            rustix::io::write(&a, text.as_bytes()).unwrap();
            assert!(receive::<Report>(&b).is_err(), "{text}");
        }
    }
}
