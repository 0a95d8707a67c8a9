//! Which namespaces a container has for itself, and which it shares.

use agent_protocol::names::ContainerId;

use super::plan::container_id;
use super::spec::Namespace;
use crate::rpc::Refusal;

/// A container's namespaces.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Namespaces {
    /// `CLONE_NEW*` of those that are new when it is made, beside the mount namespace.
    pub(crate) new: u64,
    /// The pid namespace that it is in.
    pub(crate) pids: Pids,
}

/// Whose pid namespace a container is in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pids {
    /// Its own.
    Own,
    /// Another container's.
    Of(ContainerId),
    /// That of all containers.
    OfPod,
}

impl Namespaces {
    /// Checks `linux.namespaces` and the request's `pid_namespace_of`.
    pub(super) fn new(wanted: &[Namespace], pids_of: &str) -> Result<Self, Refusal> {
        let mut found = Self {
            new: 0,
            pids: Pids::Own,
        };
        let (mut has_mount, mut has_pid) = (false, false);
        for namespace in wanted {
            let path = namespace.path.as_deref().unwrap_or_default();
            match (namespace.kind.as_str(), !path.is_empty()) {
                ("mount", false) => has_mount = true,
                ("pid", false) => {
                    has_pid = true;
                    found.new |= libc::CLONE_NEWPID as u64;
                }
                // The path is the host's; whose it is in the guest, the request says.
                ("pid", true) => {
                    has_pid = true;
                    found.pids = owner(pids_of)?;
                }
                // Every container has its own.
                ("cgroup", false) => {}
                ("ipc", false) => found.new |= libc::CLONE_NEWIPC as u64,
                ("uts", false) => found.new |= libc::CLONE_NEWUTS as u64,
                ("network", false) => found.new |= libc::CLONE_NEWNET as u64,
                // Inside the guest, the pod's are the guest's own.
                ("ipc" | "uts" | "network", true) => {}
                (kind, joins) => {
                    let how = if joins { "joining" } else { "making" };
                    return Err(Refusal::unimplemented(format!(
                        "linux.namespaces: {how} a {kind:?} namespace is not supported"
                    )));
                }
            }
        }
        if !has_mount || !has_pid {
            return Err(Refusal::unimplemented(
                "linux.namespaces: a container needs its own mount, and its own or a container's pid",
            ));
        }
        if found.pids == Pids::Own && !pids_of.is_empty() {
            return Err(Refusal::invalid(
                "pid_namespace_of needs a pid namespace with a path in linux.namespaces",
            ));
        }
        Ok(found)
    }

    /// Whether it is the first of its pid namespace.
    pub(super) fn has_own_pids(&self) -> bool {
        self.pids == Pids::Own
    }

    /// Whether it has a host name of its own.
    pub(super) fn has_own_uts(&self) -> bool {
        self.new & libc::CLONE_NEWUTS as u64 != 0
    }
}

fn owner(name: &str) -> Result<Pids, Refusal> {
    match name {
        "" => Ok(Pids::OfPod),
        name => container_id(name).map(Pids::Of),
    }
}
