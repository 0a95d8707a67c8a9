//! What a runtime has to do for a pod: a pure translation.
//!
//! ```text
//!   Manifest ─┐
//!   images   ─┼─ plan ──▶ Plan { volumes, files, init containers, containers, sysctls, times }
//!   Surroundings ─┘                                  │
//!                                                    └─ oci: process, linux, mounts as JSON
//! ```
//!
//! The caller makes `volumes` ([`host_path`](crate::host_path) does what concerns the host), runs
//! `init_containers` one after the other, then starts `containers`.

mod container;
mod environment;
mod hosts;
pub mod oci;
mod seccomp;
mod user;
mod volume;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;

pub use container::{ContainerPlan, Mount, MountSource};
pub use hosts::{hosts, names};
pub use user::{Ids, ImageUser, Name, User, UserError};
pub use volume::{Content, PlannedFile, VolumePlan};

use crate::expand::TooLong;
use crate::parse::Manifest;
use crate::pod::{Dns, ObjectKind, RestartPolicy, Sandbox};

/// Longest host name (Linux).
const MAX_HOSTNAME: usize = 63;

/// What an image says about its containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments.
    pub cmd: Vec<String>,
    /// Variables as `NAME=value`.
    pub env: Vec<String>,
    /// `USER[:GROUP]`, by number or name; empty is root.
    pub user: String,
    /// Working directory; empty is the root.
    pub working_dir: String,
    /// Signal that ends a container, such as `SIGQUIT`.
    pub stop_signal: Option<String>,
}

/// What only the runtime knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// metadata.uid.
    pub uid: String,
    /// Name of this machine.
    pub node_name: String,
    /// The pod's first address, or what is put in its place once that is known.
    pub pod_ip: String,
    /// All of its addresses with commas between, likewise.
    pub pod_ips: String,
    /// Addresses of this machine, the first before all.
    pub host_ips: Vec<IpAddr>,
    /// vCPUs of the VM: what a limit is that is not there.
    pub vcpus: u64,
    /// Bytes of the VM's memory, likewise.
    pub memory: u64,
}

/// What a runtime has to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// metadata.name.
    pub name: String,
    /// metadata.namespace.
    pub namespace: String,
    /// Whether a VM of its own is asked for.
    pub sandbox: Sandbox,
    /// The pod's host name.
    pub hostname: String,
    /// Lines of /etc/hosts that the pod has aliases for.
    pub hosts: String,
    /// What the lines of its own addresses call it, the full name before all.
    pub names: String,
    /// Whom it asks for names.
    pub dns: Dns,
    /// Kernel parameters of the guest.
    pub sysctls: BTreeMap<String, String>,
    /// Whether containers share one pid namespace.
    pub share_processes: bool,
    /// Volumes to prepare.
    pub volumes: Vec<VolumePlan>,
    /// Run to their ends in this order.
    pub init_containers: Vec<ContainerPlan>,
    /// Run side by side then.
    pub containers: Vec<ContainerPlan>,
    /// When a container is started again.
    pub restart: RestartPolicy,
    /// How long containers may take to end.
    pub grace: Duration,
    /// How long the pod may run.
    pub deadline: Option<Duration>,
}

/// Why a checked manifest cannot be carried out with these images and surroundings.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// The image's configuration was not given.
    #[error(
        "container {container}: there is no image {image}; pull it, or import it under this name"
    )]
    NoImage {
        /// Container.
        container: String,
        /// Image.
        image: String,
    },
    /// Neither the manifest nor the image names a command.
    #[error(
        "container {container}: neither it nor its image names a command; write spec.containers[].command"
    )]
    NoCommand {
        /// Container.
        container: String,
    },
    /// A text that is too long when expanded.
    #[error("container {container}: {what}")]
    TooLong {
        /// Container.
        container: String,
        /// Which text.
        what: String,
        /// How long.
        source: TooLong,
    },
    /// All arguments and variables together are too long.
    #[error(
        "container {container}: arguments and variables have more than {limit} bytes together, which the kernel does not take"
    )]
    TooMuch {
        /// Container.
        container: String,
        /// How much it takes.
        limit: usize,
    },
    /// Data that cannot be a variable.
    #[error("container {container}: key {key} of {} {object} is not text and cannot be the variable {variable}; mount it as a file", .kind.name())]
    NotText {
        /// Container.
        container: String,
        /// Variable.
        variable: String,
        /// Kind of the object.
        kind: ObjectKind,
        /// Name of the object.
        object: String,
        /// Key.
        key: String,
    },
    /// A sub-path that does not come out as one.
    #[error("container {container}: subPathExpr {expression}: {reason}")]
    SubPath {
        /// Container.
        container: String,
        /// As it was written.
        expression: String,
        /// What is wrong.
        reason: String,
    },
    /// The image's user is not of the right form.
    #[error("container {container}: user of the image")]
    User {
        /// Container.
        container: String,
        /// Why.
        source: UserError,
    },
}

/// Translates a manifest. `image` gives the configuration of an image by its name in the manifest.
///
/// # Errors
/// [`PlanError`].
pub fn plan<'i>(
    manifest: &Manifest,
    image: impl Fn(&str) -> Option<&'i ImageConfig>,
    surroundings: &Surroundings,
) -> Result<Plan, PlanError> {
    let pod = &manifest.pod;
    let hostname = pod
        .hostname
        .clone()
        .unwrap_or_else(|| hostname_of(&pod.name));
    let context = Context {
        manifest,
        surroundings,
        hostname: &hostname,
    };
    let containers = |all: &[crate::pod::Container]| -> Result<Vec<_>, PlanError> {
        let planned = all.iter().map(|container| {
            let config = image(&container.image).ok_or_else(|| PlanError::NoImage {
                container: container.name.clone(),
                image: container.image.clone(),
            })?;
            container::plan(container, config, &context)
        });
        planned.collect()
    };
    Ok(Plan {
        name: pod.name.clone(),
        namespace: pod.namespace.clone(),
        sandbox: pod.sandbox.clone(),
        hosts: hosts(pod),
        names: names(pod, &hostname),
        dns: pod.dns.clone(),
        sysctls: pod.sysctls.clone(),
        share_processes: pod.share_processes,
        volumes: volume::plan_all(&context),
        init_containers: containers(&pod.init_containers)?,
        containers: containers(&pod.containers)?,
        restart: pod.restart,
        grace: pod.grace,
        deadline: pod.deadline,
        hostname,
    })
}

/// What all parts of a plan look at.
struct Context<'a> {
    manifest: &'a Manifest,
    surroundings: &'a Surroundings,
    hostname: &'a str,
}

/// A pod's name as a host name: as long as one can be.
fn hostname_of(name: &str) -> String {
    let end = name.len().min(MAX_HOSTNAME);
    name[..end].trim_end_matches(['-', '.']).to_owned()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
