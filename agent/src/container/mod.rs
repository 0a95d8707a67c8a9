//! Containers: what is asked of them, what state they are in, who waits for what.
//!
//! ```text
//!   Creating ──Ready──► Created ──start──► Starting ──exec──► Running ──► Exited ──remove──► gone
//!      │                   │                   │ no such command ▲  exit ▲
//!      └─ gone, with the   └───── killed ──────┼─────────────────┼──────┘
//!         reason           │                   └─────────────────┘
//! ```
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
mod registry;
mod signals;
mod spawn;
mod spec;

use std::io;
use std::os::fd::OwnedFd;

use agent_protocol::names::ContainerId;
use agent_protocol::proto::{ExitStatus, StartError, start_error};
use rustix::process::Pid;

use crate::init::Inherited;
use crate::rpc::{Refusal, ReplyTo};
use crate::stdio::Streams;
use crate::sys::process;

pub(crate) use cgroup::{Cgroup, prepare as prepare_cgroups};
pub(crate) use filesystem::{DevicePlan, MountPlan, MountSource};
pub(crate) use handshake::{Message, send as send_message, wait_for_start as receive_start};
pub(crate) use plan::{
    CapabilityPlan, Plan, ProcessPlan, RootfsPlan, container_id, sysctls, window_size,
};
pub(crate) use registry::Registry;

/// Most calls that may wait for one container's end.
const MAX_WAITERS: usize = 64;

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

/// How far a container has come.
#[derive(Debug)]
enum State {
    Creating(ReplyTo),
    Created,
    Starting(ReplyTo),
    Running,
    Exited(ExitStatus),
}

/// One container.
#[derive(Debug)]
pub(crate) struct Container {
    /// Tells its events apart from those of an earlier container of the same name.
    serial: u64,
    cgroup: Cgroup,
    streams: Streams,
    state: State,
    /// Until it is reaped.
    child: Option<Pid>,
    handshake: Option<OwnedFd>,
    setup_failure: Option<String>,
    /// Signal whose default action was carried out for a process that the kernel protects from it.
    emulated: Option<i32>,
    waiters: Vec<ReplyTo>,
    removal: Option<ReplyTo>,
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
            Ok((streams, handshake, child))
        });
        let (streams, handshake, child) = spawned.map_err(|error| {
            let _ = cgroup.remove();
            failed("first process", error)
        })?;
        Ok(Self {
            serial,
            cgroup,
            streams,
            state: State::Creating(reply),
            child: Some(child),
            handshake: Some(handshake),
            setup_failure: None,
            emulated: None,
            waiters: Vec::new(),
            removal: None,
        })
    }

    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    pub(crate) fn handshake(&self) -> Option<&OwnedFd> {
        self.handshake.as_ref()
    }

    pub(crate) fn streams(&mut self) -> &mut Streams {
        &mut self.streams
    }

    /// How it ended, if it has.
    pub(crate) fn status(&self) -> Option<&ExitStatus> {
        match &self.state {
            State::Exited(status) => Some(status),
            _ => None,
        }
    }

    /// Whether its first process has not been reaped.
    pub(crate) fn is_alive(&self) -> bool {
        self.child.is_some()
    }

    /// Whether CreateContainer has been answered with success.
    pub(crate) fn is_visible(&self) -> bool {
        !matches!(self.state, State::Creating(_))
    }

    /// Lets the command begin. `reply` is answered when it has.
    pub(crate) fn start(&mut self, reply: ReplyTo) -> Result<(), Refusal> {
        if !matches!(self.state, State::Created) {
            return Err(Refusal::precondition("the container was started already"));
        }
        if !self.streams.are_attached() {
            return Err(Refusal::precondition(
                "not all of the container's streams are attached",
            ));
        }
        let handshake = self.handshake.as_ref();
        handshake
            .map_or(Ok(()), handshake::send_start)
            .map_err(Refusal::internal)?;
        self.state = State::Starting(reply);
        Ok(())
    }

    /// The exit status, or none yet, in which case `reply` will get it.
    pub(crate) fn wait(&mut self, reply: ReplyTo) -> Result<Option<ExitStatus>, Refusal> {
        match &self.state {
            State::Exited(status) => Ok(Some(status.clone())),
            _ if self.waiters.len() >= MAX_WAITERS => Err(Refusal::exhausted(format!(
                "{MAX_WAITERS} calls wait for the container"
            ))),
            _ => {
                self.waiters.push(reply);
                Ok(None)
            }
        }
    }

    /// Forgets calls that wait on a connection that is gone.
    pub(crate) fn forget_waiters(&mut self, connection: u64) {
        self.waiters
            .retain(|waiter| waiter.connection != connection);
    }

    /// Signals the first process or all. One that has exited needs nothing.
    pub(crate) fn signal(&mut self, signal: i32, all: bool) -> io::Result<()> {
        let Some(child) = self.child else {
            return Ok(());
        };
        if all {
            return if signal == libc::SIGKILL {
                self.cgroup.kill()
            } else {
                self.cgroup.signal(signal)
            };
        }
        if signals::needs_default_action(child, signal) {
            self.emulated.get_or_insert(signal);
            return process::kill(child, libc::SIGKILL);
        }
        process::kill(child, signal)
    }

    /// Kills everything in the container.
    pub(crate) fn kill(&mut self) {
        // Nothing is left to kill if either fails.
        let _ = self.cgroup.kill();
        let _ = self.signal(libc::SIGKILL, false);
    }

    /// Removes the container now, or when it has ended, and then answers `reply`.
    pub(crate) fn remove(&mut self, force: bool, reply: ReplyTo) -> Result<Fate, Refusal> {
        match self.state {
            State::Exited(_) => self.clean_up().map(|()| Fate::Gone),
            State::Running | State::Starting(_) if !force => Err(Refusal::precondition(
                "the container runs; end it first or use force",
            )),
            _ if self.removal.is_some() => {
                Err(Refusal::precondition("the container is being removed"))
            }
            _ => {
                self.removal = Some(reply);
                self.kill();
                Ok(Fate::Stays)
            }
        }
    }

    /// Takes the first process's messages; true if no more will come.
    pub(crate) fn take_messages(&mut self, answers: &mut Vec<Answer>) -> bool {
        while let Some(handshake) = &self.handshake {
            match handshake::receive(handshake) {
                Ok(None) => return false,
                Ok(Some(Message::Closed)) | Err(_) => {
                    self.on_message(Message::Closed, answers);
                    return true;
                }
                Ok(Some(message)) => self.on_message(message, answers),
            }
        }
        true
    }

    /// Closes the handshake, of which nothing more comes.
    pub(crate) fn end_handshake(&mut self) -> Option<OwnedFd> {
        self.handshake.take()
    }

    fn on_message(&mut self, message: Message, answers: &mut Vec<Answer>) {
        let (kind, text) = match (message, &self.state) {
            (Message::Ready(terminal), State::Creating(reply)) => {
                let set = terminal.map_or(Ok(()), |master| self.streams.set_terminal(master));
                if let Err(error) = set {
                    self.setup_failure = Some(format!("terminal: {error}"));
                    self.kill();
                    return;
                }
                answers.push(Answer {
                    to: *reply,
                    result: Ok(Outcome::Created),
                });
                self.state = State::Created;
                return;
            }
            (Message::SetupFailed(text), State::Creating(_)) => {
                self.setup_failure = Some(text);
                return;
            }
            (Message::Closed, State::Starting(reply)) => {
                answers.push(Answer {
                    to: *reply,
                    result: Ok(Outcome::Started(None)),
                });
                self.state = State::Running;
                return;
            }
            (Message::CommandNotFound(text), _) => (start_error::Kind::COMMAND_NOT_FOUND, text),
            (Message::CommandNotExecutable(text), _) => {
                (start_error::Kind::COMMAND_NOT_EXECUTABLE, text)
            }
            (Message::ExecFailed(text), _) => (start_error::Kind::OTHER, text),
            // Out of turn: the process's end will tell.
            _ => return,
        };
        if let State::Starting(reply) = self.state {
            let error = StartError {
                kind: kind.into(),
                message: text,
                ..Default::default()
            };
            answers.push(Answer {
                to: reply,
                result: Ok(Outcome::Started(Some(error))),
            });
            self.state = State::Running;
        }
    }

    /// Takes note of the first process's end, after all its messages.
    pub(crate) fn on_exit(&mut self, mut status: ExitStatus, answers: &mut Vec<Answer>) -> Fate {
        self.child = None;
        if let Some(signal) = self.emulated
            && status.signal() == libc::SIGKILL as u32
        {
            status.set_signal(signal as u32);
        }
        status.oom_killed = self.cgroup.had_oom_kill();
        let creating = match &self.state {
            State::Creating(reply) => Some(*reply),
            State::Starting(reply) => {
                let message = "the process ended before it became the command".to_owned();
                let error = StartError {
                    message,
                    ..Default::default()
                };
                answers.push(Answer {
                    to: *reply,
                    result: Ok(Outcome::Started(Some(error))),
                });
                None
            }
            _ => None,
        };
        for to in self.waiters.drain(..) {
            answers.push(Answer {
                to,
                result: Ok(Outcome::Exited(status.clone())),
            });
        }
        self.state = State::Exited(status);
        if creating.is_none() && self.removal.is_none() {
            return Fate::Stays;
        }
        let cleaned = self.clean_up();
        if let Some(to) = creating {
            let text = self.setup_failure.take();
            let text = text.unwrap_or_else(|| "the first process ended during set-up".to_owned());
            answers.push(Answer {
                to,
                result: Err(Refusal::internal(text)),
            });
        }
        if let Some(to) = self.removal.take() {
            answers.push(Answer {
                to,
                result: cleaned.map(|()| Outcome::Removed),
            });
        }
        Fate::Gone
    }

    fn clean_up(&mut self) -> Result<(), Refusal> {
        self.streams.close_unattached();
        self.cgroup
            .remove()
            .map_err(|error| Refusal::internal(format!("cgroup: {error}")))
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
