//! A task: a container of the pod, or the pod itself.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sandbox::ContainerHandle;

use crate::guest::Held;
use crate::process::Process;

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

    fn execs(&self) -> MutexGuard<'_, HashMap<String, Arc<Process>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
