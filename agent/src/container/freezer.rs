//! Pausing a container.
//!
//! ```text
//!   Thawed ──pause──► Freezing ──cgroup.events: frozen 1──► Frozen
//!     ▲                  │                                    │
//!     └──────────────────┴──────────── resume ────────────────┘
//! ```
//!
//! The kernel freezes each task when it next leaves the kernel, which takes as long as what it does there:
//! the agent waits for the event instead of asking again.

use super::{Answer, Container, EventFile, Outcome};
use crate::rpc::{Refusal, ReplyTo};

/// How far pausing has come.
#[derive(Debug, Default)]
pub(super) enum Freezer {
    #[default]
    Thawed,
    Freezing {
        reply: ReplyTo,
        events: EventFile,
    },
    Frozen,
}

impl Container {
    /// Begins to pause it. None if it is paused already, otherwise what to watch until
    /// [`on_freezer_event`](Self::on_freezer_event) answers `reply`.
    pub(crate) fn pause(&mut self, reply: ReplyTo) -> Result<Option<&EventFile>, Refusal> {
        match self.freezer {
            _ if !self.first.is_running() => {
                return Err(Refusal::precondition("the container does not run"));
            }
            Freezer::Frozen => return Ok(None),
            Freezer::Freezing { .. } => {
                return Err(Refusal::precondition("the container is being paused"));
            }
            Freezer::Thawed => {}
        }
        let events = self.cgroup.events("cgroup.events");
        let events = events
            .and_then(|events| self.cgroup.set_frozen(true).map(|()| events))
            .map_err(|error| Refusal::internal(format!("freeze: {error}")))?;
        self.freezer = Freezer::Freezing { reply, events };
        Ok(self.freezer_events())
    }

    /// Lets it go on. What it gives need not be watched any more, as with all of these.
    pub(crate) fn resume(
        &mut self,
        answers: &mut Vec<Answer>,
    ) -> Result<Option<EventFile>, Refusal> {
        self.cgroup
            .set_frozen(false)
            .map_err(|error| Refusal::internal(format!("thaw: {error}")))?;
        Ok(self.give_up_pause("the container was resumed", answers))
    }

    /// What is watched while it is being paused.
    pub(crate) fn freezer_events(&self) -> Option<&EventFile> {
        match &self.freezer {
            Freezer::Freezing { events, .. } => Some(events),
            Freezer::Thawed | Freezer::Frozen => None,
        }
    }

    /// Looks whether it is paused by now.
    pub(crate) fn on_freezer_event(&mut self, answers: &mut Vec<Answer>) -> Option<EventFile> {
        let result = match self.freezer_events()?.counter("frozen") {
            Ok(0) => return None,
            Ok(_) => Ok(Outcome::Paused),
            Err(error) => Err(Refusal::internal(format!("cgroup.events: {error}"))),
        };
        self.end_pause(Freezer::Frozen, result, answers)
    }

    /// Ends a pause that may not have come about.
    pub(crate) fn give_up_pause(
        &mut self,
        why: &str,
        answers: &mut Vec<Answer>,
    ) -> Option<EventFile> {
        self.end_pause(Freezer::Thawed, Err(Refusal::precondition(why)), answers)
    }

    fn end_pause(
        &mut self,
        now: Freezer,
        result: Result<Outcome, Refusal>,
        answers: &mut Vec<Answer>,
    ) -> Option<EventFile> {
        match std::mem::replace(&mut self.freezer, now) {
            Freezer::Freezing { reply, events } => {
                answers.push(Answer { to: reply, result });
                Some(events)
            }
            Freezer::Thawed | Freezer::Frozen => None,
        }
    }

    /// Whether its processes are to stand still.
    pub(super) fn is_paused(&self) -> bool {
        !matches!(self.freezer, Freezer::Thawed)
    }
}
