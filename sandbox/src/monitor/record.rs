//! What is written down of a pod: `state.json` in its directory.
//!
//! ```text
//!   creating ──▶ running ──▶ stopping ──▶ stopped
//!       └────────────┴───────────────────────▲
//! ```
//!
//! The file is replaced as a whole at each transition, so whoever reads it finds one state or the next.
//! Who owns the pod shows by the lock of its directory: a state other than `stopped` that nobody owns
//! is of a pod whose owner died.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::host_process::{HostProcess, boot_id};
use super::plan::{NetworkSource, PodPlan};
use crate::container::Exit;
use crate::json_file;
use crate::timestamp::Timestamp;

/// Version of the record's form.
pub const VERSION: u32 = 1;
/// Longest file that is read.
const MAX_FILE: u64 = 16 << 20;
const STATE: &str = "state.json";
const PLAN: &str = "plan.json";

/// What a pod is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The VM is being started.
    Creating,
    /// There is a VM.
    Running,
    /// Its containers were asked to end.
    Stopping,
    /// It has ended.
    Stopped,
}

/// What a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerPhase {
    /// It has not started, or is about to be started again.
    Waiting,
    /// Its command runs.
    Running,
    /// It has ended, and will not be started again.
    Exited,
}

/// How a container's command has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitRecord {
    /// Exit status, or 128 plus the number of the signal that ended it.
    pub code: u8,
    /// The signal, if it was one.
    pub signal: Option<u32>,
    /// Whether the kernel ran out of the container's memory.
    pub oom_killed: bool,
    /// When.
    pub at: Timestamp,
}

impl From<Exit> for ExitRecord {
    fn from(exit: Exit) -> Self {
        Self {
            code: exit.code,
            signal: exit.signal,
            oom_killed: exit.oom_killed,
            // The guest's clock is the guest's word.
            at: Timestamp::now(),
        }
    }
}

/// What is known of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerRecord {
    /// Its name.
    pub name: String,
    /// Whether it runs to its end before the others start.
    pub init: bool,
    /// Command and arguments.
    pub command: Vec<String>,
    /// What it is doing.
    pub phase: ContainerPhase,
    /// Whether it can be used: it runs, and its probes think so.
    pub ready: bool,
    /// When its command was last started.
    pub started: Option<Timestamp>,
    /// How it has ended, the last time that it did.
    pub exit: Option<ExitRecord>,
    /// Why it could not be started or go on, where its command is not the reason.
    pub reason: Option<String>,
    /// What a probe or hook of it has complained of, the last time that one did.
    pub complaint: Option<String>,
    /// How often it was started again.
    pub restarts: u32,
    /// How often the kernel has ended its command for want of memory.
    #[serde(default)]
    pub oom_kills: u32,
    /// What it had to say the last time that it has ended.
    #[serde(default)]
    pub message: Option<String>,
}

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRecord {
    /// Where the host listens.
    pub host: SocketAddr,
    /// The pod's port.
    pub pod: u16,
}

/// What is known of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodRecord {
    /// [`VERSION`].
    pub version: u32,
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub phase: Phase,
    /// Why it has ended, where its containers are not the reason.
    pub reason: Option<String>,
    /// When it was asked for.
    pub created: Timestamp,
    /// When its VM and agent were there.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// During which run of the host.
    pub boot_id: String,
    /// Whether its monitor is a program in the foreground.
    pub foreground: bool,
    /// Its monitor.
    pub monitor: Option<HostProcess>,
    /// The warden of its VMM.
    pub warden: Option<HostProcess>,
    /// Network namespace that it has joined, or has for itself.
    pub netns: Option<std::path::PathBuf>,
    /// Its addresses there, where plugins gave it some.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Ports of the host that stand for its own.
    #[serde(default)]
    pub ports: Vec<PortRecord>,
    /// `uname -r` of its guest.
    pub kernel: Option<String>,
    /// What of its VMM's jail is missing.
    pub jail_gaps: Vec<String>,
    /// Its containers, in the order of the plan.
    pub containers: Vec<ContainerRecord>,
}

impl PodRecord {
    /// A pod that was just asked for.
    #[must_use]
    pub fn new(plan: &PodPlan, foreground: bool) -> Self {
        let containers = plan.containers.iter().map(|plan| ContainerRecord {
            name: plan.name.clone(),
            init: plan.init,
            command: plan.command(),
            phase: ContainerPhase::Waiting,
            ready: false,
            started: None,
            exit: None,
            reason: None,
            complaint: None,
            restarts: 0,
            oom_kills: 0,
            message: None,
        });
        Self {
            version: VERSION,
            name: plan.name.clone(),
            phase: Phase::Creating,
            reason: None,
            created: Timestamp::now(),
            started: None,
            ended: None,
            boot_id: boot_id(),
            foreground,
            monitor: HostProcess::this(),
            warden: None,
            netns: plan
                .network
                .as_ref()
                .and_then(|network| match &network.source {
                    NetworkSource::Netns(path) => Some(path.clone()),
                    NetworkSource::Cni(_) => None,
                }),
            addresses: Vec::new(),
            ports: Vec::new(),
            kernel: None,
            jail_gaps: Vec::new(),
            containers: containers.collect(),
        }
    }

    /// Reads the record in a pod's directory.
    ///
    /// # Errors
    /// When there is none, or one of another version, or it is malformed.
    pub fn read(dir: &Path) -> io::Result<Self> {
        #[derive(Deserialize)]
        struct Any {
            version: u32,
        }
        let bytes = read(&dir.join(STATE))?;
        let any: Any = serde_json::from_slice(&bytes)?;
        if any.version != VERSION {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "its record has version {}, and this podvmm reads version {VERSION}",
                    any.version
                ),
            ));
        }
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Replaces the record in a pod's directory.
    ///
    /// # Errors
    /// When the file system refuses; then the one before is still there.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        json_file::replace(&dir.join(STATE), self)
    }

    /// What the pod as a whole came to: the first failure of its containers, or 0.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let exits = self.containers.iter().filter_map(|c| c.exit);
        let failed = exits.map(|exit| exit.code).find(|code| *code != 0);
        // One that never ended on its own was ended with the VM; or the pod has failed otherwise.
        let unknown = self.containers.iter().any(|c| c.exit.is_none()) || self.reason.is_some();
        failed.unwrap_or(if unknown { 255 } else { 0 })
    }

    /// What is known of the container `name`.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|record| record.name == name)
    }
}

/// Writes a pod's plan beside its record, for whoever wants to know what it is made of, but not what its
/// files hold.
pub(super) fn write_plan(dir: &Path, plan: &PodPlan) -> io::Result<()> {
    json_file::replace(&dir.join(PLAN), &plan.without_contents())
}

/// Reads it.
pub(super) fn read_plan<T: DeserializeOwned>(dir: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&read(&dir.join(PLAN))?)?)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "it is too long to be a record",
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::monitor::plan::ContainerPlan;
    use crate::oci::ContainerConfig;

    fn record(names: &[&str]) -> PodRecord {
        let mut plan = PodPlan::new("web");
        for name in names {
            let mut config = ContainerConfig::command(["sh", "-c", "true"]);
            config.id = (*name).to_owned();
            plan.containers.push(ContainerPlan::new(&config));
        }
        PodRecord::new(&plan, false)
    }

    fn dir(test: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("podvmm-record-{}-{test}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_record_is_replaced_as_a_whole() {
        let dir = dir("replace");
        let mut record = record(&["a", "b"]);
        record.write(&dir).unwrap();
        record.phase = Phase::Stopped;
        record.reason = Some("the VMM process died".into());
        record.containers[1].exit = Some(ExitRecord {
            code: 137,
            signal: Some(9),
            oom_killed: true,
            at: Timestamp::from_nanos(5),
        });
        record.write(&dir).unwrap();
        assert_eq!(PodRecord::read(&dir).unwrap(), record);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_no_record_of_this_version_is_said_to_be_none() {
        let dir = dir("bad");
        let mut newer = record(&["a"]);
        newer.version = VERSION + 1;
        newer.write(&dir).unwrap();
        let error = PodRecord::read(&dir).unwrap_err().to_string();
        assert!(error.contains("version 2"), "{error}");
        for text in ["", "{", "{\"version\":1}", "[]"] {
            fs::write(dir.join(STATE), text).unwrap();
            PodRecord::read(&dir).unwrap_err();
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_first_failure_is_the_pods() {
        let exit = |code| {
            Some(ExitRecord {
                code,
                signal: None,
                oom_killed: false,
                at: Timestamp::default(),
            })
        };
        let mut pod = record(&["a", "b"]);
        assert_eq!(pod.exit_code(), 255);
        pod.containers[0].exit = exit(0);
        pod.containers[1].exit = exit(0);
        assert_eq!(pod.exit_code(), 0);
        pod.containers[1].exit = exit(3);
        assert_eq!(pod.exit_code(), 3);
    }
}
