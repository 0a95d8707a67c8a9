//! What the threads of a monitor share: the pod's record, and the pod while there is one.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use super::outlet::Outlet;
use super::plan::PodPlan;
use super::record::{ContainerPhase, ContainerRecord, Phase, PodRecord};
use crate::pod::Pod;
use crate::rundir::RunDir;

pub(super) struct Shared {
    pub plan: PodPlan,
    pub dir: Arc<RunDir>,
    pub outlet: Arc<dyn Outlet>,
    /// Readable when the start is to be given up.
    cancel: OwnedFd,
    state: Mutex<State>,
    changed: Condvar,
}

pub(super) struct State {
    pub record: PodRecord,
    /// From the agent's hello to the end.
    pub pod: Option<Arc<Pod>>,
    /// Whatever ends from now on is not started again.
    pub no_more_starts: bool,
    /// The VM was to end at once.
    pub is_destroyed: bool,
    /// Nothing more is heard of the guest.
    pub is_agent_gone: bool,
    /// The record is the last one.
    pub is_over: bool,
    /// It ran as long as it may.
    pub is_past_deadline: bool,
    /// Containers that were asked to end, by name and run.
    pub asked_to_end: HashSet<(String, u32)>,
}

impl State {
    pub fn container(&mut self, name: &str) -> Option<&mut ContainerRecord> {
        let mut containers = self.record.containers.iter_mut();
        containers.find(|record| record.name == name)
    }

    /// Whether this run of a container goes on: it is told by the number of restarts before it.
    pub fn is_running(&self, name: &str, run: u32) -> bool {
        let record = self.record.container(name);
        record
            .is_some_and(|record| record.phase == ContainerPhase::Running && record.restarts == run)
    }

    pub fn have_all_exited(&self) -> bool {
        let mut containers = self.record.containers.iter();
        containers.all(|record| record.phase == ContainerPhase::Exited)
    }

    /// Whether the VM has nothing more to do, or is gone.
    pub fn is_done(&self) -> bool {
        self.is_agent_gone || self.is_destroyed || self.is_over || self.have_all_exited()
    }
}

impl Shared {
    pub fn new(
        plan: PodPlan,
        dir: Arc<RunDir>,
        record: PodRecord,
        outlet: Arc<dyn Outlet>,
    ) -> io::Result<Self> {
        Ok(Self {
            plan,
            dir,
            outlet,
            cancel: eventfd(0, EventfdFlags::CLOEXEC)?,
            state: Mutex::new(State {
                record,
                pod: None,
                no_more_starts: false,
                is_destroyed: false,
                is_agent_gone: false,
                is_over: false,
                is_past_deadline: false,
                asked_to_end: HashSet::new(),
            }),
            changed: Condvar::new(),
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, writes it down if the record is another now, and tells whoever waits.
    pub fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let before = state.record.clone();
        let result = change(&mut state);
        if state.record != before
            && let Err(error) = state.record.write(self.dir.path())
        {
            // The pod goes on: what is on disk is old, and the lock still tells that it lives.
            log::warn!(
                "the record of pod {} cannot be written: {error}",
                self.plan.name
            );
        }
        self.changed.notify_all();
        result
    }

    /// Waits until `is_so`, at most `limit`, and tells whether it is.
    pub fn wait_until(&self, limit: Option<Duration>, is_so: impl Fn(&State) -> bool) -> bool {
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut state = self.lock();
        while !is_so(&state) {
            state = match deadline {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        true
    }

    pub fn cancellation(&self) -> io::Result<OwnedFd> {
        self.cancel.try_clone()
    }

    /// Ends the VM, or its start, at once.
    pub fn destroy(&self) {
        let pod = self.change(|state| {
            state.is_destroyed = true;
            state.no_more_starts = true;
            if state.record.phase != Phase::Stopped {
                state.record.phase = Phase::Stopping;
            }
            state.pod.clone()
        });
        let _ = rustix::io::write(&self.cancel, &1u64.to_ne_bytes());
        if let Some(pod) = pod
            && let Ok(killer) = pod.killer()
        {
            killer.kill();
        }
    }
}
