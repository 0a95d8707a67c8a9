//! What a client and a pod's monitor say to each other.
//!
//! Each connection to the socket `control` in the pod's directory carries one request and its answers,
//! as packets of JSON. A monitor answers its own user and root alone. Standard streams of a command
//! are passed as descriptors: they lead to the VMM, and the monitor copies nothing.
//!
//! ```text
//!   client                                     monitor
//!     │ Ask { version, Exec }                     │
//!     │──────────────────────────────────────────▶│ creates the process, connects its streams
//!     │              Started + stdin, stdout, … ◀─│ starts it
//!     │ Steer::Signal, Steer::Resize              │
//!     │──────────────────────────────────────────▶│
//!     │                                  Exited ◀─│
//! ```

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::record::ExitRecord;
use crate::container::StartFailure;
use crate::oci::User;
use crate::resize::PodSize;

/// Version of this protocol.
pub const VERSION: u32 = 1;
/// The socket in a pod's directory.
pub const SOCKET: &str = "control";

/// The first packet of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// [`VERSION`].
    pub version: u32,
    /// What is wanted.
    pub request: Request,
}

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Run one more command in a container. The connection stays for [`Steer`]; whoever closes it early
    /// leaves the command running.
    Exec(ExecRequest),
    /// Copy files into a container, or out of it. Goes on as [`Request::Exec`] does.
    Files(FilesRequest),
    /// Give the streams of a container's own command. The connection stays for [`Steer`]; whoever closes
    /// it changes nothing for the command.
    Attach {
        /// Of this container; of the first if none is named.
        container: Option<String>,
        /// Whether the client has an input for it.
        stdin: bool,
    },
    /// Send a signal to the first process of a container, or of all.
    Signal {
        /// Of this container alone.
        container: Option<String>,
        /// Its number.
        signal: u32,
    },
    /// Ask the containers to end, end those that do not, and the pod with them. Answered when it has
    /// ended.
    Stop {
        /// How long they are given; the plan's time if none is named.
        grace_ms: Option<u64>,
    },
    /// End the VM at once. Answered when the pod has ended.
    Destroy,
    /// Answered when the pod, or this container of it, has ended for good.
    Wait {
        /// The container.
        container: Option<String>,
    },
    /// What guest and containers use.
    Stats,
    /// Make the VM larger or smaller.
    Resize(ResizeRequest),
    /// How large the VM is.
    Size,
    /// Connect to whoever listens on a TCP port of the guest's localhost.
    Dial {
        /// The port.
        port: u16,
    },
}

/// A command to run beside a container's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// In which container; in the first if none is named.
    pub container: Option<String>,
    /// Command and arguments.
    pub args: Vec<String>,
    /// Variables as `NAME=value`, besides the container's.
    pub env: Vec<String>,
    /// Working directory, if another than the container's.
    pub workdir: Option<String>,
    /// Who it runs as, if not who the container does.
    pub user: Option<User>,
    /// Rows and columns of its terminal, if it is to have one.
    pub terminal: Option<(u16, u16)>,
    /// Whether it has an input.
    pub stdin: bool,
}

/// How large a pod is to be; what is not named stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResizeRequest {
    /// vCPUs.
    pub vcpus: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
}

/// Files to copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesRequest {
    /// Of which container; of the first if none is named.
    pub container: Option<String>,
    /// Which way.
    pub way: Way,
    /// Where in the container.
    pub path: String,
}

/// Which way files go, as a tar archive on the command's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Out of the container: the path's last name is the first of each name in the archive.
    Get,
    /// Into it, to where cp puts things. Only files, directories and symbolic links.
    Put,
    /// Into it, below the directory at the path, with names and owners as they are.
    PutAsIs,
}

/// Said by the client while its command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Steer {
    /// Send it a signal.
    Signal(u32),
    /// Its terminal has another size now.
    Resize {
        /// Height in characters.
        rows: u16,
        /// Width in characters.
        cols: u16,
    },
}

/// What the monitor says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// It was done.
    Done,
    /// It was not.
    Refused {
        /// Why, as a program tells it apart.
        kind: RefusalKind,
        /// Why.
        message: String,
    },
    /// The command runs. Attached are its standard output, unless it has a terminal its standard error,
    /// and its standard input if it has one.
    Started,
    /// The streams of a container's command are attached: its standard output, unless it has a terminal its
    /// standard error, and its standard input if there is one.
    Attached {
        /// Whether it has a terminal.
        terminal: bool,
        /// Whether its input is among the streams.
        stdin: bool,
        /// Whether the end of this client's input is the end of the command's.
        stdin_once: bool,
    },
    /// The command has ended, or what was waited for.
    Exited(ExitRecord),
    /// Numbers.
    Stats(PodStats),
    /// So large is the VM.
    Size(PodSize),
    /// The connection is attached.
    Connected,
}

impl Reply {
    /// Why there is no other.
    pub(super) fn refused(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self::Refused {
            kind,
            message: message.into(),
        }
    }
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// The two are of different versions.
    Version,
    /// The request makes no sense.
    Invalid,
    /// There is no such container.
    NotFound,
    /// Not in the state that the pod is in.
    NotNow,
    /// The command cannot be executed.
    Start(StartFailure),
    /// It failed.
    Failed,
}

/// What a pod uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodStats {
    /// Microseconds of CPU time that all of the guest has used.
    pub cpu_usec: u64,
    /// Bytes of memory that the guest has.
    pub memory_total: u64,
    /// Bytes of it that are to be had.
    pub memory_available: u64,
    /// CPUs that are online.
    pub cpus: u32,
    /// Its containers.
    pub containers: Vec<ContainerUse>,
}

/// What a container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerUse {
    /// Its name.
    pub name: String,
    /// Microseconds of CPU time.
    pub cpu_usec: u64,
    /// Bytes of memory, without what the kernel would give back first.
    pub memory: u64,
    /// Bytes that it may have, if that is limited.
    pub memory_limit: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes read from devices of the guest.
    pub read_bytes: u64,
    /// Bytes written to them.
    pub written_bytes: u64,
    /// How often it was started again.
    pub restarts: u32,
    /// How often the kernel has ended its command for want of memory.
    pub oom_kills: u32,
}

/// The descriptors of [`Reply::Started`] and [`Reply::Attached`].
#[derive(Debug)]
pub(super) struct Streams {
    pub stdout: OwnedFd,
    pub stderr: Option<OwnedFd>,
    pub stdin: Option<OwnedFd>,
}

impl Streams {
    /// Takes them apart; `None` if they are not those of a command with or without terminal and input.
    pub fn of(has_terminal: bool, has_stdin: bool, fds: Vec<OwnedFd>) -> Option<Self> {
        let mut fds = fds.into_iter();
        let stdout = fds.next()?;
        let stderr = if has_terminal {
            None
        } else {
            Some(fds.next()?)
        };
        let stdin = if has_stdin { Some(fds.next()?) } else { None };
        fds.next().is_none().then_some(Self {
            stdout,
            stderr,
            stdin,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_another_form_is_refused() {
        let ask = Ask {
            version: VERSION,
            request: Request::Exec(ExecRequest {
                args: vec!["sh".into()],
                ..ExecRequest::default()
            }),
        };
        let text = serde_json::to_string(&ask).unwrap();
        assert_eq!(serde_json::from_str::<Ask>(&text).unwrap(), ask);
        for text in [
            "{\"version\":1}",
            "{\"version\":1,\"request\":\"dance\"}",
            "{\"version\":1,\"request\":\"stats\",\"more\":1}",
            "{\"version\":1,\"request\":{\"signal\":{\"signal\":-1}}}",
            "{\"version\":1,\"request\":{\"stop\":{\"grace_ms\":1e99}}}",
        ] {
            assert!(serde_json::from_str::<Ask>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn streams_are_counted() {
        let fds = |count| -> Vec<OwnedFd> {
            (0..count)
                .map(|_| std::fs::File::open("/dev/null").unwrap().into())
                .collect()
        };
        assert!(Streams::of(false, true, fds(3)).is_some());
        assert!(Streams::of(false, true, fds(2)).is_none());
        assert!(Streams::of(false, true, fds(4)).is_none());
        assert!(Streams::of(true, true, fds(2)).is_some());
        assert!(Streams::of(true, false, Vec::new()).is_none());
    }
}
