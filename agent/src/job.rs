//! Work that can keep the kernel busy for long.
//!
//! Lowering a memory limit makes the kernel reclaim what is above it before the write returns; bringing a
//! CPU up or down waits for all the others; a disk that comes is read, and one that goes is written. The agent
//! has one thread that must not wait, so it forks for such work and answers the call when the fork has ended.

use std::io;
use std::os::fd::OwnedFd;

use agent_protocol::proto::ExitStatus;
use rustix::process::Pid;

use crate::container::{Answer, Message, Outcome, handshake_pair, receive_message};
use crate::init;
use crate::lifeline;
use crate::rpc::{Refusal, ReplyTo};
use crate::sys::process::{self, Child, Fork};

/// Most at a time.
const MAX_JOBS: usize = 32;

/// What is worked on, by one job at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Limits of the container with this serial number.
    Limits(u64),
    Cpus,
    /// A disk that comes to this address.
    Attach(u64),
    /// One that leaves it.
    Detach(u64),
}

impl Subject {
    /// Whether the two cannot be worked on at the same time.
    fn meets(self, other: Self) -> bool {
        match (self, other) {
            (Self::Attach(a) | Self::Detach(a), Self::Attach(b) | Self::Detach(b)) => a == b,
            _ => self == other,
        }
    }
}

#[derive(Debug)]
struct Job {
    subject: Subject,
    child: Child,
    messages: OwnedFd,
    reply: ReplyTo,
}

/// All jobs under way.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Vec<Job>);

impl Jobs {
    /// Forks a process that does `work` and tells its error, which becomes `reply`'s.
    pub(crate) fn start(
        &mut self,
        subject: Subject,
        reply: ReplyTo,
        work: impl FnOnce() -> Result<(), String>,
    ) -> Result<(), Refusal> {
        if self.0.iter().any(|job| job.subject.meets(subject)) {
            return Err(Refusal::precondition(
                "an earlier call for the same is under way",
            ));
        }
        if self.0.len() >= MAX_JOBS {
            return Err(Refusal::exhausted(format!(
                "{MAX_JOBS} such calls are under way"
            )));
        }
        let forked = fork(work).map_err(|error| Refusal::internal(format!("fork: {error}")))?;
        let (child, messages) = forked;
        self.0.push(Job {
            subject,
            child,
            messages,
            reply,
        });
        Ok(())
    }

    /// Ends a job whose subject is no more. Its call is answered all the same, when it has ended.
    pub(crate) fn cancel(&mut self, subject: Subject) {
        for job in self.0.iter().filter(|job| job.subject == subject) {
            // It is not reaped, so there is something to kill.
            let _ = process::kill(job.child.pid, libc::SIGKILL);
        }
    }

    /// The answer of the job whose process was `child`.
    pub(crate) fn on_exit(&mut self, child: Pid, status: &ExitStatus) -> Option<Answer> {
        let index = self.0.iter().position(|job| job.child.pid == child)?;
        let job = self.0.swap_remove(index);
        let result = if status.has_exit_code() && status.exit_code() == 0 {
            Ok(match job.subject {
                Subject::Limits(_) => Outcome::Updated,
                Subject::Cpus => Outcome::CpusChanged,
                Subject::Attach(address) => Outcome::Attached(address),
                Subject::Detach(_) => Outcome::Detached,
            })
        } else {
            let text = match receive_message(&job.messages) {
                Ok(Some(Message::SetupFailed(text))) => text,
                _ => "the work was ended early".to_owned(),
            };
            Err(Refusal::internal(text))
        };
        Some(Answer {
            to: job.reply,
            result,
        })
    }
}

#[allow(unsafe_code)] // forks
fn fork(work: impl FnOnce() -> Result<(), String>) -> io::Result<(Child, OwnedFd)> {
    let (messages, control) = handshake_pair()?;
    // SAFETY: the agent never starts a thread.
    match unsafe { process::fork_into(0, None) }? {
        Fork::Parent(child) => Ok((child, messages)),
        Fork::Child => {
            lifeline::forget();
            init::errand(&control, work)
        }
    }
}
