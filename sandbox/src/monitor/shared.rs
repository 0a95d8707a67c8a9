//! What the threads of a monitor share: the pod's record, and the pod while there is one.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use serde_json::Value;

use super::MonitorError;
use super::outlet::Outlet;
use super::plan::{ContainerPlan, PodPlan};
use super::record::{self, ContainerPhase, ContainerRecord, Phase, PodRecord};
use crate::pod::Pod;
use crate::rundir::RunDir;

pub(super) struct Shared {
    pub plan: PodPlan,
    pub dir: Arc<RunDir>,
    pub outlet: Arc<dyn Outlet>,
    /// The plan's containers with the pod's addresses and disks, once they are known.
    filled: OnceLock<Vec<ContainerPlan>>,
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
    /// Why its own plan has ended it, if it has: the first reason.
    pub ended_because: Option<String>,
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
            filled: OnceLock::new(),
            cancel: eventfd(0, EventfdFlags::CLOEXEC)?,
            state: Mutex::new(State {
                record,
                pod: None,
                no_more_starts: false,
                is_destroyed: false,
                is_agent_gone: false,
                is_over: false,
                ended_because: None,
                asked_to_end: HashSet::new(),
            }),
            changed: Condvar::new(),
        })
    }

    /// The containers, as they are started.
    pub fn containers(&self) -> &[ContainerPlan] {
        self.filled.get().unwrap_or(&self.plan.containers)
    }

    pub fn container(&self, name: &str) -> Option<&ContainerPlan> {
        self.containers().iter().find(|plan| plan.name == name)
    }

    /// The container that is meant when none is named.
    pub fn main(&self) -> Option<&ContainerPlan> {
        self.containers().iter().find(|plan| !plan.init)
    }

    /// Tells the containers what the pod's addresses are, and the nodes of their disks, before the first is
    /// started.
    pub fn fill_in(&self, addresses: &[IpAddr], nodes: &[Vec<Value>]) -> Result<(), MonitorError> {
        let mut plan = self.plan.clone();
        for container in &mut plan.containers {
            if let Some(tokens) = &self.plan.address_tokens {
                tokens.fill_in(container, addresses);
            }
        }
        for (container, nodes) in plan.containers.iter_mut().zip(nodes) {
            container.add_devices(nodes);
        }
        if plan == self.plan {
            return Ok(());
        }
        record::write_plan(self.dir.path(), &plan).map_err(MonitorError::Record)?;
        self.change(|state| {
            for container in &plan.containers {
                if let Some(record) = state.container(&container.name) {
                    record.command = container.command();
                }
            }
        });
        let _ = self.filled.set(plan.containers);
        Ok(())
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

    /// Notes why the pod is about to be stopped.
    pub fn end_because(&self, reason: String) {
        self.change(|state| state.ended_because.get_or_insert(reason).len());
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

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::container::Process;
    use crate::monitor::AddressTokens;
    use crate::monitor::outlet::Connected;
    use crate::oci::ContainerConfig;

    struct Nowhere;

    impl Outlet for Nowhere {
        fn connect(&self, _: &ContainerPlan, _: &mut Process) -> io::Result<Connected> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    /// What the threads of a pod without a VM share, and a root directory that goes with it.
    pub(in crate::monitor) struct Place {
        pub shared: Arc<Shared>,
        root: PathBuf,
    }

    impl Place {
        pub fn new(test: &str, plan: PodPlan) -> Self {
            let name = format!("podvmm-shared-{}-{test}", std::process::id());
            let root = std::env::temp_dir().join(name);
            let dir = Arc::new(RunDir::create(&root, &plan.name).unwrap());
            let record = PodRecord::new(&plan, false);
            let shared = Shared::new(plan, dir, record, Arc::new(Nowhere)).unwrap();
            Self {
                shared: Arc::new(shared),
                root,
            }
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }

    #[test]
    fn whoever_looks_sees_the_addresses() {
        let tokens = AddressTokens::random().unwrap();
        let mut plan = PodPlan::new("web");
        let config = ContainerConfig::command(["serve", &tokens.first]);
        plan.containers.push(ContainerPlan::new(&config));
        plan.address_tokens = Some(tokens);
        let place = Place::new("addresses", plan);
        let shared = &place.shared;
        let node = serde_json::json!({ "path": "/dev/xvda" });
        let nodes = [vec![node.clone()]];
        shared
            .fill_in(&[IpAddr::from([10, 0, 0, 5])], &nodes)
            .unwrap();
        assert_eq!(shared.main().unwrap().spec["linux"]["devices"][0], node);
        let told = ["serve", "10.0.0.5"];
        assert_eq!(shared.main().unwrap().command(), told);
        let name = &config.id;
        assert_eq!(shared.lock().record.container(name).unwrap().command, told);
        let written: PodPlan = record::read_plan(shared.dir.path()).unwrap();
        assert_eq!(written.containers[0].command(), told);
    }
}
