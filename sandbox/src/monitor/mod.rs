//! Pods that other processes find, watch and steer.
//!
//! ```text
//!   PodPlan ──▶ Monitor ── owns ──▶ Pod ──▶ containers, started again by policy
//!                 │ state.json, plan.json, logs/, control
//!                 ▼
//!        <root>/<name>/  ◀── PodStore: list, find, remove
//!                        ◀── PodClient: exec, signal, stop, wait, stats
//! ```
//!
//! A [`Monitor`] runs a pod of any number of containers in the process that makes it. That is either a
//! program in the foreground, whose pod goes with it, or a process of its own that [`detach`](mod@detach)
//! starts, whose pod stays to be looked at until it is removed. Both write the same record and answer on
//! the same socket, so whatever is done with one can be done with the other.
//!
//! # Map
//! - [`plan`]: a pod as data.
//! - [`record`]: what is written down of it.
//! - [`store`]: all pods below a root, whoever runs them, and what is left of those that nobody runs.
//! - [`protocol`], [`client`]: what is asked of a monitor.
//! - [`outlet`]: where the output of containers goes.
//! - [`detach`](mod@detach): a monitor as a process of its own.
//! - [`health`]: probes, and hooks beside starts and ends.
//! - [`etc`]: `/etc/hosts` and its like.
//! - [`volumes`]: volumes and files that are the pod's own.
//! - [`AddressTokens`]: what stands for the pod's addresses in its plan.
//! - `blocks`: disks of containers.
//! - `usage`, `eviction`: what the guest has written to disk, and the end of a pod that has written too much.
//! - `shared`, `supervise`, `server`, `exec`, `attach`, `files`, `ports`, `network`: the monitor's parts.
//!
//! # When something dies
//! The monitor: the VMM ends with it, the warden removes what served the VMM, and the record stays, in a
//! state that nobody owns. The VMM, its warden or the guest: the monitor records it and ends. The whole
//! host: the record has another host's boot id. [`PodStore::remove`] removes all of them, and first
//! whatever may still be there.

mod addresses;
mod attach;
mod blocks;
pub mod client;
pub mod detach;
pub mod etc;
mod eviction;
mod exec;
mod files;
pub mod health;
mod host_process;
mod network;
pub mod outlet;
pub mod plan;
mod ports;
pub mod protocol;
pub mod record;
mod resize;
mod server;
mod shared;
pub mod store;
mod supervise;
mod usage;
pub mod volumes;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;

pub use addresses::{AddressTokens, known as known_addresses};
pub use client::{Attached, ClientError, ExecSession, PodClient};
pub use etc::{ETC_FILES, EtcPlan};
pub use host_process::HostProcess;
pub use outlet::{Attachment, LogOutlet, Outlet};
pub use plan::{
    BlockPlan, ContainerPlan, NetworkPlan, NetworkSource, PlanError, PodPlan, Restart, SharePlan,
};
pub use protocol::{ContainerUse, ExecRequest, FilesRequest, PodStats, RefusalKind, Way};
pub use record::{ContainerPhase, ContainerRecord, ExitRecord, Phase, PodRecord, PortRecord};
pub use store::{PodStore, PodView, Status, StoreError};
pub use volumes::{DirectoryPlan, SizeLimit, TerminationPlan, etc_path, termination_path};

use crate::container::{ContainerError, ContainerHandle, StartFailure};
use crate::datadir::{DataDir, DataDirError};
use crate::events::{EventSink, PodEvent};
use crate::forward::ListenError;
use crate::logging::one_line;
use crate::net::cni::CniError;
use crate::pod::{Pod, PodError};
use crate::rundir::{RunDir, RunDirError};
use host_process::HostProcess as Process;
use ports::Ports;
use server::Server;
use shared::Shared;

/// Stack of each of a monitor's threads.
const STACK: usize = 256 * 1024;

/// Why a pod could not be started.
#[derive(Debug, Error)]
pub enum MonitorError {
    /// The plan cannot be carried out.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Its directory could not be had.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// Nor its directory on disk.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// What the guest writes there could not be watched.
    #[error("a volume's usage cannot be watched")]
    Watch(#[source] io::Error),
    /// Its record could not be written.
    #[error("the pod's record cannot be written")]
    Record(#[source] io::Error),
    /// A port of the host is not to be had.
    #[error(transparent)]
    Port(#[from] ListenError),
    /// It has no network of its own.
    #[error(transparent)]
    Cni(#[from] CniError),
    /// Nobody could reach it.
    #[error("the pod's socket cannot be made")]
    Socket(#[source] io::Error),
    /// Pod or container failed.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// A container's streams lead nowhere.
    #[error("container {container}: its output cannot be taken")]
    Outlet {
        /// The container.
        container: String,
        /// The system's reason.
        source: io::Error,
    },
    /// There are no threads left.
    #[error("no thread for the pod")]
    Thread(#[source] io::Error),
    /// It was to end before it had begun.
    #[error("the pod was ended while it started")]
    Destroyed,
}

impl MonitorError {
    /// Whether it was the command that could not be executed, and in which way.
    #[must_use]
    pub fn start_failure(&self) -> Option<StartFailure> {
        match self {
            Self::Pod(PodError::Container(ContainerError::Start { kind, .. })) => Some(*kind),
            _ => None,
        }
    }
}

impl From<ContainerError> for MonitorError {
    fn from(error: ContainerError) -> Self {
        Self::Pod(error.into())
    }
}

/// Whose the monitor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A program's that runs the pod for itself: when it ends, nothing is left of the pod.
    Foreground,
    /// Nobody's: the pod's record outlives it.
    Detached,
}

/// Runs a pod in this process.
pub struct Monitor {
    shared: Arc<Shared>,
    server: Server,
    /// Locked as long as the pod lives.
    data: Mutex<Option<DataDir>>,
    ports: Ports,
    log: Option<log::LevelFilter>,
}

/// What a pod came to.
#[derive(Debug)]
pub struct Ended {
    /// The last record.
    pub record: PodRecord,
    /// Why its VM has ended before its containers, if it has.
    pub failure: Option<PodError>,
}

impl Monitor {
    /// Takes the pod's directory and makes itself known there. Nothing runs yet.
    ///
    /// # Errors
    /// [`MonitorError`]; nothing is left behind.
    pub fn new(plan: PodPlan, outlet: Arc<dyn Outlet>, mode: Mode) -> Result<Self, MonitorError> {
        plan.check()?;
        let dir = Arc::new(RunDir::create(&plan.root, &plan.name)?);
        let record = PodRecord::new(&plan, mode == Mode::Foreground);
        record.write(dir.path()).map_err(MonitorError::Record)?;
        record::write_plan(dir.path(), &plan).map_err(MonitorError::Record)?;
        let shared = Shared::new(plan, dir, record, outlet).map_err(MonitorError::Socket)?;
        let shared = Arc::new(shared);
        let server = Server::start(&shared).map_err(MonitorError::Socket)?;
        if mode == Mode::Detached {
            shared.dir.keep(true)?;
        }
        Ok(Self {
            shared,
            server,
            data: Mutex::default(),
            ports: Ports::default(),
            log: None,
        })
    }

    /// Lets the VMM process log at `level` to this process's standard error.
    pub fn log(&mut self, level: Option<log::LevelFilter>) {
        self.log = level;
    }

    /// Steers the pod from any thread, from now on.
    #[must_use]
    pub fn handle(&self) -> MonitorHandle {
        MonitorHandle(Arc::clone(&self.shared))
    }

    /// Starts VM and containers. With init containers it is done when the first of them runs.
    ///
    /// # Errors
    /// [`MonitorError`]; nothing is left behind.
    pub fn start(&self) -> Result<(), MonitorError> {
        self.ports
            .take(&self.shared)
            .and_then(|()| self.start_vm())
            .and_then(|()| supervise::start(&self.shared))
            .and_then(|()| self.ports.open(&self.shared))
            .map_err(|error| self.give_up(error))
    }

    fn start_vm(&self) -> Result<(), MonitorError> {
        let mut config = self.shared.plan.open()?;
        let blocks = blocks::Blocks::open(&self.shared.plan)?;
        config.log = self.log;
        let data = volumes::share_directories(&self.shared.plan, &self.shared.dir, &mut config)?;
        let (data, watched) =
            data.map_or((None, Vec::new()), |(data, watched)| (Some(data), watched));
        *self.data.lock().unwrap_or_else(PoisonError::into_inner) = data;
        let attached = network::attach(&self.shared)?;
        let (network, resolvers) = attached.unzip();
        config.network = network.or(config.network);
        config.cancel = Some(self.shared.cancellation().map_err(PodError::Connect)?);
        let shared = Arc::clone(&self.shared);
        config.events = Some(EventSink::new(move |event| {
            if event == PodEvent::AgentGone {
                shared.change(|state| state.is_agent_gone = true);
            }
        }));
        let pod = match Pod::start_in(config, Arc::clone(&self.shared.dir)) {
            Err(PodError::Cancelled) => return Err(MonitorError::Destroyed),
            other => Arc::new(other?),
        };
        volumes::make(&self.shared.plan, &pod, resolvers.flatten())?;
        let nodes = blocks.give(&pod)?;
        let addresses = addresses::known(&pod.addresses());
        self.shared.fill_in(&addresses, &nodes)?;
        self.shared.change(|state| {
            state.record.phase = Phase::Running;
            state.record.started = Some(crate::timestamp::Timestamp::now());
            state.record.warden = Process::of(pod.vmm_pid());
            state.record.kernel = Some(pod.kernel_release().to_owned());
            state.record.jail_gaps = pod.jail_gaps();
            state.pod = Some(pod);
        });
        if self.shared.lock().is_destroyed {
            return Err(MonitorError::Destroyed);
        }
        eviction::watch(&self.shared, watched)
    }

    /// Takes back what was begun, and tells why.
    fn give_up(&self, error: MonitorError) -> MonitorError {
        let (pod, is_destroyed) = {
            let mut state = self.shared.lock();
            state.no_more_starts = true;
            (state.pod.take(), state.is_destroyed)
        };
        let cause = pod.and_then(|pod| {
            let cause = is_broken(&error).then(|| pod.failure()).flatten();
            pod.killer().iter().for_each(crate::PodKiller::kill);
            let _ = pod.stop();
            cause
        });
        let error = if is_destroyed {
            MonitorError::Destroyed
        } else {
            cause.map_or(error, MonitorError::Pod)
        };
        let remains = network::detach(&self.shared);
        self.finish(Some(error.to_string()));
        if remains.is_none() {
            let _ = self.shared.dir.keep(false);
        }
        self.shared.dir.leave();
        error
    }

    /// Waits until all containers have ended for good, or the VM has, and ends what is left.
    #[must_use]
    pub fn wait(self) -> Ended {
        self.shared.wait_until(None, shared::State::is_done);
        let (pod, early, is_destroyed, by_plan) = {
            let mut state = self.shared.lock();
            state.no_more_starts = true;
            let early = !state.have_all_exited();
            let (is_destroyed, by_plan) = (state.is_destroyed, state.ended_because.take());
            (state.pod.take(), early, is_destroyed, by_plan)
        };
        let mut failure = None;
        if let Some(pod) = pod {
            if early && !is_destroyed {
                failure = pod.failure();
            }
            if early {
                pod.killer().iter().for_each(crate::PodKiller::kill);
            }
            let _ = pod.stop();
        }
        let reason = match &failure {
            Some(error) => Some(one_line(error)),
            None if by_plan.is_some() => by_plan,
            None if is_destroyed => Some("it was ended from outside".to_owned()),
            None => early.then(|| "the guest's agent is gone".to_owned()),
        };
        let remains = network::detach(&self.shared);
        let is_clean = remains.is_none();
        let record = self.finish(reason.or(remains));
        if self.shared.plan.remove && is_clean {
            let _ = self.shared.dir.keep(false);
        }
        // Not all threads are through with the pod, and the process may end before they are.
        self.shared.dir.leave();
        Ended { record, failure }
    }

    /// Writes the last record down and answers whoever waits for it.
    fn finish(&self, reason: Option<String>) -> PodRecord {
        self.ports.close();
        self.shared.change(|state| {
            state.record.phase = Phase::Stopped;
            state.record.ended = Some(crate::timestamp::Timestamp::now());
            state.record.reason = reason;
            for container in &mut state.record.containers {
                container.phase = ContainerPhase::Exited;
                container.ready = false;
            }
            state.is_over = true;
        });
        self.server.stop();
        self.shared.lock().record.clone()
    }
}

/// Steers a monitor's pod from any thread.
#[derive(Clone)]
pub struct MonitorHandle(Arc<Shared>);

impl MonitorHandle {
    /// Ends the VM, or its start, at once.
    pub fn destroy(&self) {
        self.0.destroy();
    }

    /// Asks the containers to end, and ends those that have not after `grace`, or after the plan's time.
    /// Returns when the monitor has ended the pod.
    pub fn stop(&self, grace: Option<Duration>) {
        supervise::stop(&self.0, grace);
    }

    /// The container `name`, once there is a VM.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<ContainerHandle> {
        self.0.lock().pod.as_ref().map(|pod| pod.container(name))
    }

    /// What is known of the pod.
    #[must_use]
    pub fn record(&self) -> PodRecord {
        self.0.lock().record.clone()
    }
}

/// Whether the connection to the agent broke, so that there may be a better reason.
fn is_broken(error: &MonitorError) -> bool {
    matches!(error, MonitorError::Pod(error) if error.is_of_connection())
}
