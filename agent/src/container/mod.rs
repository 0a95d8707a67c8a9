//! Containers: what is asked of them, what state they are in, who waits for what.
//!
//! One thread owns all of this, so a process cannot be reaped while its entry is looked at.

mod capabilities;
mod cgroup;
mod event_file;
mod filesystem;
mod freezer;
mod handshake;
mod limits;
mod mount_options;
mod namespaces;
mod paths;
mod plan;
mod process;
mod registry;
mod seccomp;
mod signals;
mod spawn;
mod spec;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;

use agent_protocol::names::{ContainerId, ExecId};
use agent_protocol::proto::{ExecProcessRequest, ExitStatus, StartError, Stdio};

use rustix::process::Pid;

use crate::init::Inherited;
use crate::rpc::{Refusal, ReplyTo};
use crate::stdio::Streams;
use crate::sys::process::Child;
use freezer::Freezer;
use process::Role;

pub(crate) use cgroup::{Cgroup, HIERARCHY, prepare as prepare_cgroups};
pub(crate) use event_file::EventFile;
pub(crate) use filesystem::{DevicePlan, MountPlan, MountSource};
pub(crate) use handshake::{
    Message, pair as handshake_pair, receive as receive_message, send as send_message,
    wait_for_start as receive_start,
};
pub(crate) use limits::Update;
pub(crate) use mount_options::MountOptions;
pub(crate) use namespaces::Pids;
pub(crate) use paths::relative as relative_path;
pub(crate) use plan::{
    CapabilityPlan, ExecPlan, Inheritance, Plan, ProcessPlan, RootfsPlan, container_id, exec_id,
    sysctls, window_size,
};
pub(crate) use process::Process;
pub(crate) use registry::Registry;

/// An answer to a call that had to wait.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    /// With the process's number, as is the next.
    Created(u32),
    /// A further process.
    Added(u32),
    /// Runs, or why it does not.
    Started(Option<StartError>),
    /// A further process whose command runs, with its number.
    Ran(u32),
    /// One whose command does not, and of which nothing is left.
    NotRun(StartError),
    Exited(ExitStatus),
    Removed,
    Paused,
    Updated,
    CpusChanged,
    /// The disk at this address has its driver.
    Attached(u64),
    Detached,
}

/// Whom to tell what.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) to: ReplyTo,
    pub(crate) result: Result<Outcome, Refusal>,
}

/// Most further processes of a container, with those that have exited and were not removed.
const MAX_FURTHER: usize = 256;

/// One container.
#[derive(Debug)]
pub(crate) struct Container {
    cgroup: Cgroup,
    /// The first process, as the kernel knows it.
    child: Child,
    first: Process,
    further: BTreeMap<ExecId, Process>,
    /// What further processes have of it.
    inheritance: Inheritance,
    /// Its processes do not end with the first one by themselves.
    shares_pids: bool,
    freezer: Freezer,
    /// None without a memory controller.
    memory_events: Option<EventFile>,
    /// Kills for want of memory that the host knows of.
    told_oom_kills: u64,
}

/// What is left of a container after an event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Stays,
    Gone,
}

impl Container {
    /// Starts making a container: its cgroup, its streams and its first process. `pids_of` is in the pid
    /// namespace that it is to share.
    pub(crate) fn create(
        id: &ContainerId,
        plan: &Plan,
        pids_of: Option<&Child>,
        stdio: &Stdio,
        serial: u64,
        reply: ReplyTo,
    ) -> Result<Self, Refusal> {
        let failed = |what: &str, error: io::Error| Refusal::internal(format!("{what}: {error}"));
        let cgroup = Cgroup::create(id, &plan.limits).map_err(|error| failed("cgroup", error))?;
        let spawned = Streams::new(stdio).and_then(|(streams, ends)| {
            let (handshake, control) = handshake::pair()?;
            let child = spawn::first_process(
                plan,
                Inherited {
                    control,
                    stdio: ends,
                },
                &cgroup,
                pids_of,
            )?;
            let first = Process::new(Role::First, serial, child.pid, streams, handshake, reply);
            Ok((child, first))
        });
        let (child, mut first) = spawned.map_err(|error| {
            let _ = cgroup.remove();
            failed("first process", error)
        })?;
        first.is_protected = plan.namespaces.has_own_pids();
        Ok(Self {
            memory_events: cgroup.events("memory.events").ok(),
            cgroup,
            child,
            first,
            further: BTreeMap::new(),
            inheritance: Inheritance {
                oom_score_adj: plan.process.oom_score_adj,
                seccomp: plan.process.seccomp.clone(),
            },
            shares_pids: !plan.namespaces.has_own_pids(),
            freezer: Freezer::default(),
            told_oom_kills: 0,
        })
    }

    /// Its first process, whose pid namespace another container may share.
    pub(crate) fn pids_to_share(&self) -> Result<&Child, Refusal> {
        match self.first.is_running() {
            true => Ok(&self.child),
            false => Err(Refusal::precondition(
                "the container of pid_namespace_of does not run",
            )),
        }
    }

    /// Starts making a further process, which `runs` by itself or waits to be started.
    pub(crate) fn add(
        &mut self,
        id: ExecId,
        runs: bool,
        request: &ExecProcessRequest,
        serial: u64,
        reply: ReplyTo,
    ) -> Result<&mut Process, Refusal> {
        if !self.first.is_running() {
            return Err(Refusal::precondition("the container does not run"));
        }
        if self.is_paused() {
            return Err(Refusal::precondition("the container is paused"));
        }
        if self.further.len() >= MAX_FURTHER {
            return Err(Refusal::exhausted(format!(
                "the container has {MAX_FURTHER} further processes"
            )));
        }
        let plan = ExecPlan::new(request, &self.inheritance)?;
        let Entry::Vacant(entry) = self.further.entry(id) else {
            return Err(Refusal::exists("the container has a process of this name"));
        };
        let spawned = Streams::new(request.stdio.get_or_default()).and_then(|(streams, stdio)| {
            let (handshake, control) = handshake::pair()?;
            let inherited = Inherited { control, stdio };
            let child = spawn::further_process(&plan, inherited, &self.cgroup, &self.child)?;
            let role = if runs { Role::Run } else { Role::Further };
            Ok(Process::new(
                role, serial, child.pid, streams, handshake, reply,
            ))
        });
        let process = spawned.map_err(|error| Refusal::internal(format!("process: {error}")))?;
        Ok(entry.insert(process))
    }

    /// Tells it apart from an earlier container of the same name.
    pub(crate) fn serial(&self) -> u64 {
        self.first.serial()
    }

    /// Where it tells that memory was short.
    pub(crate) fn memory_events(&self) -> Option<&EventFile> {
        self.memory_events.as_ref()
    }

    /// How many of its processes the kernel has killed for want of memory.
    fn oom_kills(&self) -> u64 {
        let events = self.memory_events.as_ref();
        events.map_or(0, |events| events.counter("oom_kill").unwrap_or(0))
    }

    /// Likewise, if there are more than the host knows of.
    pub(crate) fn new_oom_kills(&self) -> Option<u64> {
        let kills = self.oom_kills();
        (self.is_visible() && kills > self.told_oom_kills).then_some(kills)
    }

    /// The host knows of this many.
    pub(crate) fn set_told_oom_kills(&mut self, count: u64) {
        self.told_oom_kills = count;
    }

    /// Its cgroup.
    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The process that the host knows by `exec_id`, or the first one if that is empty.
    pub(crate) fn process(&mut self, exec_id: &str) -> Result<&mut Process, Refusal> {
        if exec_id.is_empty() {
            return Ok(&mut self.first);
        }
        plan::exec_id(exec_id)
            .ok()
            .and_then(|id| self.further.get_mut(&id))
            .filter(|process| process.is_visible())
            .ok_or_else(|| Refusal::not_found("the container has no process of this exec_id"))
    }

    /// Likewise, by the name under which it was made, whether the host knows of it or not.
    pub(crate) fn made(&mut self, exec_id: Option<&ExecId>) -> Option<&mut Process> {
        match exec_id {
            Some(id) => self.further.get_mut(id),
            None => Some(&mut self.first),
        }
    }

    /// All processes that the agent made for it, with the names of further ones.
    fn processes(&self) -> impl Iterator<Item = (Option<&ExecId>, &Process)> {
        let further = self.further.iter().map(|(id, process)| (Some(id), process));
        [(None, &self.first)].into_iter().chain(further)
    }

    /// How many further processes it has, with those that have exited.
    pub(crate) fn further_len(&self) -> usize {
        self.further.len()
    }

    /// Further processes that have not been reaped.
    pub(crate) fn further_pids(&self) -> impl Iterator<Item = (Pid, &ExecId)> {
        self.further
            .iter()
            .filter_map(|(id, process)| Some((process.child?, id)))
    }

    /// Likewise all of them, to change them.
    fn processes_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        [&mut self.first]
            .into_iter()
            .chain(self.further.values_mut())
    }

    /// Whether any of these processes has not been reaped.
    pub(crate) fn is_alive(&self) -> bool {
        self.processes().any(|(_, process)| process.is_alive())
    }

    /// Whether CreateContainer has been answered with success.
    pub(crate) fn is_visible(&self) -> bool {
        self.first.is_visible()
    }

    /// Forgets calls that wait on a connection that is gone.
    pub(crate) fn forget_waiters(&mut self, connection: u64) {
        self.processes_mut()
            .for_each(|process| process.forget_waiters(connection));
    }

    /// Signals every process. A container that has exited needs nothing.
    pub(crate) fn signal_all(&mut self, signal: i32) -> io::Result<()> {
        match signal {
            _ if !self.is_alive() => Ok(()),
            libc::SIGKILL => self.cgroup.kill(),
            _ => self.cgroup.signal(signal),
        }
    }

    /// Kills everything in the container.
    pub(crate) fn kill(&mut self) {
        // Nothing is left to kill if this fails.
        let _ = self.cgroup.kill();
        self.first.kill();
    }

    /// Removes the container now, or when it has ended, and then answers `reply`.
    pub(crate) fn remove(&mut self, force: bool, reply: ReplyTo) -> Result<Fate, Refusal> {
        let has_exited = self.first.begin_removal(force, reply)?;
        if has_exited && !self.is_alive() {
            return self.clean_up().map(|()| Fate::Gone);
        }
        if has_exited {
            self.first.remove_later(reply);
        }
        self.kill();
        Ok(Fate::Stays)
    }

    /// Forgets a further process now, or when it has ended, and then answers `reply`; true if now.
    pub(crate) fn remove_further(
        &mut self,
        exec_id: &str,
        force: bool,
        reply: ReplyTo,
    ) -> Result<bool, Refusal> {
        let process = self.process(exec_id)?;
        let now = process.begin_removal(force, reply)?;
        if now {
            self.further.retain(|id, _| id.as_str() != exec_id);
        } else {
            process.kill();
        }
        Ok(now)
    }

    /// The exit status of a further process, which is then forgotten, or none yet, in which case `reply`
    /// will get it, and the process goes with its end.
    pub(crate) fn wait_and_forget(
        &mut self,
        exec_id: &str,
        reply: ReplyTo,
    ) -> Result<Option<ExitStatus>, Refusal> {
        let process = self.process(exec_id)?;
        let exited = process.wait(reply)?;
        process.is_forgotten_at_end = true;
        if exited.is_some() {
            self.further.retain(|id, _| id.as_str() != exec_id);
        }
        Ok(exited)
    }

    /// Takes note of a process's end, after all its messages, and corrects `status`.
    pub(crate) fn on_exit(
        &mut self,
        exec_id: Option<&ExecId>,
        status: &mut ExitStatus,
        answers: &mut Vec<Answer>,
    ) -> Fate {
        status.oom_killed = self.oom_kills() > 0;
        let failure = match exec_id {
            Some(id) => {
                self.on_further_exit(id, status, answers);
                None
            }
            None => {
                let failure = self.first.on_exit(status, answers);
                if self.shares_pids {
                    // What the kernel does in a pid namespace that has lost its first process.
                    let _ = self.cgroup.kill();
                }
                failure
            }
        };
        let ended = !self.is_alive() && (failure.is_some() || self.first.is_being_removed());
        if !ended {
            return Fate::Stays;
        }
        let cleaned = self.clean_up();
        answers.extend(failure);
        if let Some(to) = self.first.take_removal() {
            answers.push(Answer {
                to,
                result: cleaned.map(|()| Outcome::Removed),
            });
        }
        Fate::Gone
    }

    fn on_further_exit(&mut self, id: &ExecId, status: &mut ExitStatus, answers: &mut Vec<Answer>) {
        let Some(process) = self.further.get_mut(id) else {
            return;
        };
        let failure = process.on_exit(status, answers);
        let removal = process.take_removal();
        if failure.is_some() || removal.is_some() || process.is_forgotten_at_end {
            self.further.remove(id);
        }
        answers.extend(failure);
        answers.extend(removal.map(|to| Answer {
            to,
            result: Ok(Outcome::Removed),
        }));
    }

    fn clean_up(&mut self) -> Result<(), Refusal> {
        self.processes_mut()
            .for_each(|process| process.streams().close_unattached());
        self.cgroup
            .remove()
            .map_err(|error| Refusal::internal(format!("cgroup: {error}")))
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
