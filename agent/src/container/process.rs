//! One process that the agent makes, from its fork to its reaping.
//!
//! ```text
//!   Creating ──Ready──► Created ──start──► Starting ──exec──► Running ──► Exited
//!      │                   │                   │ no such command ▲  exit ▲
//!      │                   └───── killed ──────┼─────────────────┼──────┘
//!      │                                       └─────────────────┘
//!      └─ gone, with the reason
//! ```
//!
//! One of RunProcess needs no call to start. It becomes `Awaiting` in place of `Created` until its streams
//! are attached, and is gone if it ends before its command runs.

use std::io;
use std::os::fd::OwnedFd;

use agent_protocol::proto::{ExitStatus, StartError, start_error};
use rustix::process::Pid;

use super::handshake::{self, Message};
use super::{Answer, Outcome, signals};
use crate::rpc::{Refusal, ReplyTo};
use crate::stdio::Streams;
use crate::sys::process;

/// Most calls that may wait for one process's end.
pub(super) const MAX_WAITERS: usize = 64;

/// How far a process has come.
#[derive(Debug)]
pub(super) enum State {
    Creating(ReplyTo),
    Created,
    /// Starts when its streams are attached.
    Awaiting(ReplyTo),
    Starting(ReplyTo),
    Running,
    Exited(ExitStatus),
}

/// What a process is to its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    First,
    Further,
    /// A further one that starts by itself; the call that made it is answered when its command runs.
    Run,
}

/// A process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(super) role: Role,
    /// Tells its events apart from those of an earlier process of the same name.
    pub(super) serial: u64,
    pub(super) streams: Streams,
    pub(super) state: State,
    /// Until it is reaped.
    pub(super) child: Option<Pid>,
    pub(super) handshake: Option<OwnedFd>,
    pub(super) setup_failure: Option<String>,
    /// Why the command could not be executed, if that is told at the end.
    start_failure: Option<StartError>,
    /// The first process of a pid namespace, which the kernel protects from signals.
    pub(super) is_protected: bool,
    /// Signal whose default action was carried out for a process that the kernel protects from it.
    pub(super) emulated: Option<i32>,
    pub(super) waiters: Vec<ReplyTo>,
    pub(super) removal: Option<ReplyTo>,
    /// Nobody asks for it any more once its waiters have heard of its end.
    pub(super) is_forgotten_at_end: bool,
}

impl Process {
    /// A process that has been forked; `reply` is answered when it is ready to start.
    pub(super) fn new(
        role: Role,
        serial: u64,
        child: Pid,
        streams: Streams,
        handshake: OwnedFd,
        reply: ReplyTo,
    ) -> Self {
        Self {
            role,
            serial,
            streams,
            state: State::Creating(reply),
            child: Some(child),
            handshake: Some(handshake),
            setup_failure: None,
            start_failure: None,
            is_protected: false,
            emulated: None,
            waiters: Vec::new(),
            removal: None,
            is_forgotten_at_end: false,
        }
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

    /// Its number; 0 once it has been reaped.
    pub(super) fn pid(&self) -> u32 {
        self.child
            .map_or(0, |child| child.as_raw_nonzero().get() as u32)
    }

    /// Whether its command runs.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running)
    }

    /// Whether it has not been reaped.
    pub(super) fn is_alive(&self) -> bool {
        self.child.is_some()
    }

    /// Names the streams that were opened for it before it was there.
    pub(crate) fn ticket(&self) -> u64 {
        self.streams.ticket()
    }

    /// Whether its streams can be attached.
    pub(crate) fn is_ready(&self) -> bool {
        !matches!(self.state, State::Creating(_))
    }

    /// Whether the host may name it: from its creation on, or at once if the call that made it is not
    /// answered before its command runs.
    pub(crate) fn is_visible(&self) -> bool {
        self.is_ready() || self.role == Role::Run
    }

    /// Whether the call that made it has been answered with success.
    pub(crate) fn is_made(&self) -> bool {
        match self.state {
            State::Creating(_) | State::Awaiting(_) => false,
            State::Starting(_) => self.role != Role::Run,
            State::Created | State::Running | State::Exited(_) => true,
        }
    }

    /// Whether it waits for its streams to start.
    pub(crate) fn is_awaiting(&self) -> bool {
        matches!(self.state, State::Awaiting(_))
    }

    /// Lets the command of one that waits for its streams begin when it has them all.
    pub(crate) fn start_if_complete(&mut self) {
        let State::Awaiting(reply) = self.state else {
            return;
        };
        if !self.streams.are_attached() {
            return;
        }
        match self
            .handshake
            .as_ref()
            .map_or(Ok(()), handshake::send_start)
        {
            Ok(()) => self.state = State::Starting(reply),
            Err(error) => self.fail(format!("start: {error}")),
        }
    }

    /// Lets the command begin. `reply` is answered when it has.
    pub(crate) fn start(&mut self, reply: ReplyTo) -> Result<(), Refusal> {
        if !matches!(self.state, State::Created) {
            return Err(Refusal::precondition("it was started already"));
        }
        if !self.streams.are_attached() {
            return Err(Refusal::precondition("not all of its streams are attached"));
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
                "{MAX_WAITERS} calls wait for its end"
            ))),
            _ => {
                self.waiters.push(reply);
                Ok(None)
            }
        }
    }

    /// Forgets calls that wait on a connection that is gone.
    pub(super) fn forget_waiters(&mut self, connection: u64) {
        self.waiters
            .retain(|waiter| waiter.connection != connection);
    }

    /// Signals it. One that has exited needs nothing.
    pub(crate) fn signal(&mut self, signal: i32) -> io::Result<()> {
        let Some(child) = self.child else {
            return Ok(());
        };
        if self.is_protected && signals::needs_default_action(child, signal) {
            self.emulated.get_or_insert(signal);
            return process::kill(child, libc::SIGKILL);
        }
        process::kill(child, signal)
    }

    /// Kills it.
    pub(super) fn kill(&mut self) {
        // It is not reaped, so there is something to kill or nothing is left to do.
        let _ = self.signal(libc::SIGKILL);
    }

    /// Takes `reply` as to be answered after the end, which the caller brings about; true if that has
    /// come already.
    pub(super) fn begin_removal(&mut self, force: bool, reply: ReplyTo) -> Result<bool, Refusal> {
        match self.state {
            _ if self.removal.is_some() => Err(Refusal::precondition("it is being removed")),
            State::Exited(_) => Ok(true),
            State::Running | State::Starting(_) if !force => {
                Err(Refusal::precondition("it runs; end it first or use force"))
            }
            _ => {
                self.removal = Some(reply);
                Ok(false)
            }
        }
    }

    /// Takes its messages; true if no more will come.
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

    /// Gives it up while it is being made; its end will answer the call that made it.
    pub(crate) fn fail(&mut self, problem: String) {
        self.setup_failure = Some(problem);
        self.kill();
    }

    /// Closes the handshake, of which nothing more comes.
    pub(crate) fn end_handshake(&mut self) -> Option<OwnedFd> {
        self.handshake.take()
    }

    fn on_message(&mut self, message: Message, answers: &mut Vec<Answer>) {
        let (kind, text) = match (message, &self.state) {
            (Message::Ready(terminal), State::Creating(reply)) => {
                let set = terminal.map_or(Ok(()), |master| self.streams.set_terminal(master));
                let (to, pid) = (*reply, self.pid());
                if let Err(error) = set {
                    return self.fail(format!("terminal: {error}"));
                }
                let result = Ok(match self.role {
                    Role::First => Outcome::Created(pid),
                    Role::Further => Outcome::Added(pid),
                    Role::Run => {
                        self.state = State::Awaiting(to);
                        return self.start_if_complete();
                    }
                });
                answers.push(Answer { to, result });
                self.state = State::Created;
                return;
            }
            (Message::SetupFailed(text), State::Creating(_)) => {
                self.setup_failure = Some(text);
                return;
            }
            (Message::Closed, State::Starting(reply)) if self.start_failure.is_none() => {
                let outcome = match self.role {
                    Role::First | Role::Further => Outcome::Started(None),
                    Role::Run => Outcome::Ran(self.pid()),
                };
                answers.push(Answer {
                    to: *reply,
                    result: Ok(outcome),
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
            if self.role == Role::Run {
                // Nothing of it should be left when that is told.
                self.start_failure = Some(error);
                return;
            }
            answers.push(Answer {
                to: reply,
                result: Ok(Outcome::Started(Some(error))),
            });
            self.state = State::Running;
        }
    }

    /// Takes note of its end, after all its messages, and corrects `status`. Gives the answer of the call
    /// that made it if that has none yet: nothing of the process should be left when it is sent.
    pub(super) fn on_exit(
        &mut self,
        status: &mut ExitStatus,
        answers: &mut Vec<Answer>,
    ) -> Option<Answer> {
        self.child = None;
        if let Some(signal) = self.emulated
            && status.signal() == libc::SIGKILL as u32
        {
            status.set_signal(signal as u32);
        }
        for to in self.waiters.drain(..) {
            answers.push(Answer {
                to,
                result: Ok(Outcome::Exited(status.clone())),
            });
        }
        match std::mem::replace(&mut self.state, State::Exited(status.clone())) {
            State::Creating(to) | State::Awaiting(to) => {
                let text = self.setup_failure.take();
                let text = text.unwrap_or_else(|| "the process ended during set-up".to_owned());
                let result = Err(Refusal::internal(text));
                return Some(Answer { to, result });
            }
            State::Starting(to) => {
                let message = "the process ended before it became the command".to_owned();
                let error = self.start_failure.take().unwrap_or_else(|| StartError {
                    message,
                    ..Default::default()
                });
                if self.role == Role::Run {
                    let result = Ok(Outcome::NotRun(error));
                    return Some(Answer { to, result });
                }
                let result = Ok(Outcome::Started(Some(error)));
                answers.push(Answer { to, result });
            }
            _ => {}
        }
        None
    }

    /// Takes `reply` as to be answered when something else has ended too.
    pub(super) fn remove_later(&mut self, reply: ReplyTo) {
        self.removal = Some(reply);
    }

    /// Whether somebody waits to hear that it was removed.
    pub(super) fn is_being_removed(&self) -> bool {
        self.removal.is_some()
    }

    /// Whom to tell that it was removed.
    pub(super) fn take_removal(&mut self) -> Option<ReplyTo> {
        self.removal.take()
    }
}
