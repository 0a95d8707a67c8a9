//! Containers: what is asked of them, what state they are in, who waits for what.
//!
//! One thread owns all of this, so a process cannot be reaped while its entry is looked at.

mod capabilities;
mod cgroup;
mod filesystem;
mod handshake;
mod limits;
mod mount_options;
mod paths;
mod plan;
mod process;
mod registry;
mod signals;
mod spawn;
mod spec;

use std::io;

use agent_protocol::names::ContainerId;
use agent_protocol::proto::{ExitStatus, StartError};

use crate::init::Inherited;
use crate::rpc::{Refusal, ReplyTo};
use crate::stdio::Streams;

pub(crate) use cgroup::{Cgroup, prepare as prepare_cgroups};
pub(crate) use filesystem::{DevicePlan, MountPlan, MountSource};
pub(crate) use handshake::{Message, send as send_message, wait_for_start as receive_start};
pub(crate) use plan::{
    CapabilityPlan, Plan, ProcessPlan, RootfsPlan, container_id, sysctls, window_size,
};
pub(crate) use process::Process;
pub(crate) use registry::Registry;

/// An answer to a call that had to wait.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    Created,
    /// Runs, or why it does not.
    Started(Option<StartError>),
    Exited(ExitStatus),
    Removed,
}

/// Whom to tell what.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) to: ReplyTo,
    pub(crate) result: Result<Outcome, Refusal>,
}

/// One container.
#[derive(Debug)]
pub(crate) struct Container {
    cgroup: Cgroup,
    first: Process,
}

/// What is left of a container after an event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Stays,
    Gone,
}

impl Container {
    /// Starts making a container: its cgroup, its streams and its first process.
    pub(crate) fn create(
        id: &ContainerId,
        plan: &Plan,
        stdio: &agent_protocol::proto::Stdio,
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
            )?;
            Ok(Process::new(serial, child, streams, handshake, reply))
        });
        let mut first = spawned.map_err(|error| {
            let _ = cgroup.remove();
            failed("first process", error)
        })?;
        first.is_protected = true;
        Ok(Self { cgroup, first })
    }

    /// Its first process.
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.first
    }

    /// Whether its first process has not been reaped.
    pub(crate) fn is_alive(&self) -> bool {
        self.first.is_alive()
    }

    /// Whether CreateContainer has been answered with success.
    pub(crate) fn is_visible(&self) -> bool {
        self.first.is_visible()
    }

    /// Forgets calls that wait on a connection that is gone.
    pub(crate) fn forget_waiters(&mut self, connection: u64) {
        self.first.forget_waiters(connection);
    }

    /// Signals the first process or all. One that has exited needs nothing.
    pub(crate) fn signal(&mut self, signal: i32, all: bool) -> io::Result<()> {
        match (all, signal) {
            _ if !self.is_alive() => Ok(()),
            (false, _) => self.first.signal(signal),
            (true, libc::SIGKILL) => self.cgroup.kill(),
            (true, _) => self.cgroup.signal(signal),
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
        if self.first.begin_removal(force, reply)? {
            return self.clean_up().map(|()| Fate::Gone);
        }
        self.kill();
        Ok(Fate::Stays)
    }

    /// Takes note of the first process's end, after all its messages.
    pub(crate) fn on_exit(&mut self, mut status: ExitStatus, answers: &mut Vec<Answer>) -> Fate {
        status.oom_killed = self.cgroup.had_oom_kill();
        let failure = self.first.on_exit(status, answers);
        let removal = self.first.take_removal();
        if failure.is_none() && removal.is_none() {
            return Fate::Stays;
        }
        let cleaned = self.clean_up();
        answers.extend(failure);
        if let Some(to) = removal {
            answers.push(Answer {
                to,
                result: cleaned.map(|()| Outcome::Removed),
            });
        }
        Fate::Gone
    }

    fn clean_up(&mut self) -> Result<(), Refusal> {
        self.first.streams().close_unattached();
        self.cgroup
            .remove()
            .map_err(|error| Refusal::internal(format!("cgroup: {error}")))
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
