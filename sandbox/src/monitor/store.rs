//! All pods below a root: those that run, and what is left of those that do not.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::client::{ClientError, PodClient};
use super::host_process::boot_id;
use super::record::{self, Phase, PodRecord};
use crate::net::cni::{self, CniError};
use crate::net::{self, NetError};
use crate::rundir::{self, Abandoned, RunDirError};

/// How long a process may take to be gone after SIGKILL.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long a monitor may take to end its pod.
const END_PATIENCE: Duration = Duration::from_secs(15);

/// What a pod is, seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Its VM is being started.
    Creating,
    /// It runs.
    Running,
    /// Its containers were asked to end.
    Stopping,
    /// It has ended, and its monitor has said how.
    Stopped,
    /// Its monitor ended before it.
    Dead,
    /// A program owns the directory that keeps no record there.
    Unmanaged,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Dead => "dead",
            Self::Unmanaged => "unmanaged",
        })
    }
}

/// A pod as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
    /// What it is.
    pub status: Status,
    /// Why it is so, where that is known.
    pub reason: Option<String>,
    /// What its monitor has written down.
    pub record: Option<PodRecord>,
}

impl PodView {
    /// Whether a monitor answers for it.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(
            self.status,
            Status::Creating | Status::Running | Status::Stopping
        )
    }

    /// Asks its monitor.
    #[must_use]
    pub fn client(&self) -> PodClient {
        PodClient::new(&self.dir)
    }

    /// What it is made of, as its plan has it.
    ///
    /// # Errors
    /// When that was not written down, or is malformed.
    pub fn plan(&self) -> io::Result<serde_json::Value> {
        record::read_plan(&self.dir)
    }
}

/// Why something could not be done with a pod.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Its directory.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// Nobody can be asked to end it.
    #[error("pod {0} is run by a program that cannot be asked; end that program")]
    Unmanaged(String),
    /// Its monitor.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A process that should be gone is not.
    #[error("pod {pod}: process {pid} ({what}) cannot be ended")]
    Process {
        /// The pod.
        pod: String,
        /// The process.
        pid: u32,
        /// What it is.
        what: &'static str,
        /// The system's reason, if it gave one.
        source: Option<io::Error>,
    },
    /// The network's redirection is still there.
    #[error("pod {pod}: its network cannot be cleaned")]
    Network {
        /// The pod.
        pod: String,
        /// Why.
        source: NetError,
    },
    /// What CNI plugins have done is still there.
    #[error("pod {pod}")]
    Cni {
        /// The pod.
        pod: String,
        /// Why.
        source: CniError,
    },
}

/// The pods below one root.
#[derive(Clone, Debug)]
pub struct PodStore {
    root: PathBuf,
}

impl PodStore {
    /// The pods below `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// All pods, by name.
    ///
    /// # Errors
    /// When the root cannot be read or is somebody else's.
    pub fn list(&self) -> Result<Vec<PodView>, StoreError> {
        let names = rundir::names(&self.root)?;
        let views = names.into_iter().map(|name| self.look(&name));
        // One may have been removed meanwhile.
        Ok(views.filter(|view| view.dir.is_dir()).collect())
    }

    /// The pod `name`.
    ///
    /// # Errors
    /// [`RunDirError::NotFound`], and as [`list`](Self::list).
    pub fn get(&self, name: &str) -> Result<PodView, StoreError> {
        if !rundir::names(&self.root)?.iter().any(|known| known == name) {
            return Err(RunDirError::NotFound(name.to_owned(), self.root.clone()).into());
        }
        Ok(self.look(name))
    }

    fn look(&self, name: &str) -> PodView {
        let dir = self.root.join(name);
        let (status, reason, record) = look(&dir);
        PodView {
            name: name.to_owned(),
            dir,
            status,
            reason,
            record,
        }
    }

    /// Removes what is left of a pod: processes, the network's redirection, the directory. With `force`
    /// a pod that lives is ended first.
    ///
    /// # Errors
    /// [`RunDirError::InUse`] while the pod lives, [`RunDirError::NotFound`]; otherwise what could not
    /// be removed, and then it can be tried again.
    pub fn remove(&self, name: &str, force: bool) -> Result<(), StoreError> {
        let view = self.get(name)?;
        if view.status == Status::Unmanaged {
            return Err(StoreError::Unmanaged(name.to_owned()));
        }
        if force && view.is_alive() {
            end(&view)?;
        } else if view.status == Status::Stopped {
            // A monitor answers before it ends.
            wait_for_lock(&view.dir, END_PATIENCE);
        }
        let dir = match Abandoned::take(&self.root, name) {
            // A foreground pod has gone with its monitor.
            Err(RunDirError::NotFound(..)) if force && view.is_alive() => return Ok(()),
            other => other?,
        };
        if let Ok(record) = PodRecord::read(&view.dir) {
            clean(&record)?;
        }
        cni::remove(&view.dir).map_err(|source| StoreError::Cni {
            pod: name.to_owned(),
            source,
        })?;
        Ok(dir.remove()?)
    }
}

/// Ends a pod that lives, by its monitor or, if that does not answer, without it.
fn end(view: &PodView) -> Result<(), StoreError> {
    let client = view.client();
    let (tell, told) = std::sync::mpsc::channel();
    // A monitor that was stopped takes the request, and answers never.
    let asking = std::thread::spawn(move || {
        let _ = tell.send(client.destroy());
    });
    let answer = told.recv_timeout(END_PATIENCE);
    if answer.is_ok() {
        let _ = asking.join();
    }
    // The lock goes last, when the monitor itself ends.
    let patience = if matches!(answer, Ok(Ok(()) | Err(ClientError::Gone))) {
        KILL_PATIENCE
    } else {
        Duration::from_millis(100)
    };
    if wait_for_lock(&view.dir, patience) {
        return Ok(());
    }
    match view.record.as_ref().and_then(|record| record.monitor) {
        Some(monitor) => kill(&view.name, monitor, "the pod's monitor"),
        None => Err(RunDirError::InUse(view.name.clone()).into()),
    }
}

/// Waits until nobody owns a directory; tells whether that is so.
fn wait_for_lock(dir: &Path, limit: Duration) -> bool {
    let began = Instant::now();
    while rundir::is_owned(dir) {
        if began.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

fn kill(pod: &str, process: super::HostProcess, what: &'static str) -> Result<(), StoreError> {
    let failed = |source| StoreError::Process {
        pod: pod.to_owned(),
        pid: process.pid,
        what,
        source,
    };
    match process.kill(KILL_PATIENCE) {
        Ok(true) => Ok(()),
        Ok(false) => Err(failed(None)),
        Err(error) => Err(failed(Some(error))),
    }
}

/// Removes what a monitor that is gone may have left outside of its directory.
fn clean(record: &PodRecord) -> Result<(), StoreError> {
    if record.boot_id != boot_id() {
        // Nothing of it has outlived the host.
        return Ok(());
    }
    if let Some(warden) = record.warden {
        // The VMM goes with it.
        kill(&record.name, warden, "the warden of its VMM")?;
    }
    match &record.netns {
        Some(netns) if record.phase != Phase::Stopped && netns.exists() => net::clean(netns)
            .map_err(|source| StoreError::Network {
                pod: record.name.clone(),
                source,
            }),
        _ => Ok(()),
    }
}

/// What a directory tells of its pod.
fn look(dir: &Path) -> (Status, Option<String>, Option<PodRecord>) {
    // An owner may come between a look at the lock and one at the record; it is not looked for ever.
    for _ in 0..3 {
        let is_owned = rundir::is_owned(dir);
        let record = PodRecord::read(dir);
        if !is_owned && rundir::is_owned(dir) {
            continue;
        }
        return judge(is_owned, record);
    }
    (Status::Creating, None, None)
}

fn judge(
    is_owned: bool,
    record: io::Result<PodRecord>,
) -> (Status, Option<String>, Option<PodRecord>) {
    let record = match record {
        Ok(record) => record,
        Err(error) => {
            let (status, reason) = match (is_owned, error.kind()) {
                (true, io::ErrorKind::NotFound) => {
                    (Status::Unmanaged, "its program keeps no record".to_owned())
                }
                (true, _) => (Status::Unmanaged, error.to_string()),
                (false, io::ErrorKind::NotFound) => {
                    (Status::Dead, "its owner died without a record".to_owned())
                }
                (false, _) => (Status::Dead, format!("its record cannot be read: {error}")),
            };
            return (status, Some(reason), None);
        }
    };
    let status = match record.phase {
        Phase::Stopped => Status::Stopped,
        _ if !is_owned => Status::Dead,
        Phase::Creating => Status::Creating,
        Phase::Running => Status::Running,
        Phase::Stopping => Status::Stopping,
    };
    let reason = match status {
        Status::Dead => Some(cause_of_death(&record)),
        _ => record.reason.clone(),
    };
    (status, reason, Some(record))
}

fn cause_of_death(record: &PodRecord) -> String {
    if record.boot_id != boot_id() {
        return "the host has restarted since".to_owned();
    }
    let doing = match record.phase {
        Phase::Creating => "while the pod started",
        Phase::Running | Phase::Stopped => "while the pod ran",
        Phase::Stopping => "while the pod stopped",
    };
    match record.monitor {
        Some(monitor) => format!("its monitor (process {}) was killed {doing}", monitor.pid),
        None => format!("its monitor was killed {doing}"),
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
