//! A task: a container of the pod, or the pod itself.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sandbox::ContainerHandle;

use crate::guest::Held;
use crate::process::Process;

/// How often containerd is told at most that a guest's kernel killed for want of memory in a container.
const OOM_INTERVAL: Duration = Duration::from_secs(1);

/// What a task is.
#[derive(Debug)]
pub enum Kind {
    /// The VM.
    Sandbox,
    /// A container in it.
    Container {
        /// In the guest.
        handle: ContainerHandle,
        /// What it has of the host.
        held: Mutex<Held>,
        /// Whether the pod was started for this container and ends with it.
        alone: bool,
    },
}

/// A task.
#[derive(Debug)]
pub struct Task {
    /// Its name.
    pub id: String,
    /// Its directory.
    pub bundle: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Its first process.
    pub init: Arc<Process>,
    paused: AtomicBool,
    /// When containerd was last told of a lack of memory.
    oom_told: Mutex<Option<Instant>>,
    execs: Mutex<HashMap<String, Arc<Process>>>,
}

impl Task {
    /// A task that was just created.
    pub fn new(id: &str, bundle: PathBuf, kind: Kind, init: Process) -> Self {
        Self {
            id: id.to_owned(),
            bundle,
            kind,
            init: Arc::new(init),
            paused: AtomicBool::new(false),
            oom_told: Mutex::new(None),
            execs: Mutex::new(HashMap::new()),
        }
    }

    /// The container in the guest; none for the sandbox.
    pub fn container(&self) -> Option<&ContainerHandle> {
        match &self.kind {
            Kind::Sandbox => None,
            Kind::Container { handle, .. } => Some(handle),
        }
    }

    /// Gives up what the container has of the host.
    pub fn give_up(&self) -> Held {
        match &self.kind {
            Kind::Sandbox => Held::default(),
            Kind::Container { held, .. } => {
                std::mem::take(&mut held.lock().unwrap_or_else(PoisonError::into_inner))
            }
        }
    }

    /// A process by its name; the first has none.
    pub fn process(&self, exec_id: &str) -> Option<Arc<Process>> {
        if exec_id.is_empty() {
            return Some(Arc::clone(&self.init));
        }
        self.execs().get(exec_id).cloned()
    }

    /// All processes and their names.
    pub fn processes(&self) -> Vec<(String, Arc<Process>)> {
        let execs = self.execs();
        let execs = execs
            .iter()
            .map(|(id, exec)| (id.clone(), Arc::clone(exec)));
        std::iter::once((String::new(), Arc::clone(&self.init)))
            .chain(execs)
            .collect()
    }

    /// Adds a process.
    pub fn add_exec(&self, exec_id: &str, process: Process) {
        self.execs().insert(exec_id.to_owned(), Arc::new(process));
    }

    /// Forgets a process.
    pub fn forget_exec(&self, exec_id: &str) {
        self.execs().remove(exec_id);
    }

    /// Whether its processes are frozen.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Remembers whether they are.
    pub fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// The guest tells that memory was lacking; `false` if containerd has just been told. A guest can say so as
    /// often as it likes.
    pub fn hear_of_oom(&self, now: Instant) -> bool {
        let mut told = self.oom_told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = told.is_none_or(|told| now.duration_since(told) >= OOM_INTERVAL);
        if is_due {
            *told = Some(now);
        }
        is_due
    }

    fn execs(&self) -> MutexGuard<'_, HashMap<String, Arc<Process>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
