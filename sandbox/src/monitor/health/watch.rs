//! The thread that asks a container's probes, from its start to its end.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Instant;

use super::question::{self, Answer};
use super::state::{Change, Probes};
use super::{Kind, ending};
use crate::monitor::STACK;
use crate::monitor::plan::ContainerPlan;
use crate::monitor::shared::Shared;
use crate::pod::Pod;

/// What a watcher waits for.
enum Event {
    Answer(Kind, Answer),
    /// The container has ended.
    Over,
}

/// Asks until it is dropped.
pub(in crate::monitor) struct Watch(Sender<Event>);

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.send(Event::Over);
    }
}

/// One run of a container.
struct Watcher {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    plan: ContainerPlan,
    run: u32,
    events: Receiver<Event>,
    answers: Sender<Event>,
}

impl Watch {
    /// Watches the container `plan`, in its `run`; `None` if it has no probes.
    pub fn start(
        shared: &Arc<Shared>,
        pod: &Arc<Pod>,
        plan: &ContainerPlan,
        run: u32,
    ) -> Option<Self> {
        let health = &plan.health;
        let kinds = [Kind::Startup, Kind::Liveness, Kind::Readiness];
        if kinds.iter().all(|kind| health.probe(*kind).is_none()) {
            return None;
        }
        let (answers, events) = mpsc::channel();
        let watch = Self(answers.clone());
        let watcher = Watcher {
            shared: Arc::clone(shared),
            pod: Arc::clone(pod),
            plan: plan.clone(),
            run,
            events,
            answers,
        };
        let thread = std::thread::Builder::new()
            .name("probes".into())
            .stack_size(STACK);
        match thread.spawn(move || watcher.watch()) {
            Ok(_) => Some(watch),
            Err(error) => {
                log::error!("container {}: no thread for its probes: {error}", plan.name);
                None
            }
        }
    }
}

impl Watcher {
    fn watch(&self) {
        let began = Instant::now();
        let mut probes = Probes::new(&self.plan.health, began.elapsed());
        loop {
            let Some((kind, answer)) = self.next_answer(&mut probes, began) else {
                return;
            };
            let now = began.elapsed();
            let change = match &answer {
                Answer::Good => probes.answered(kind, true, now),
                Answer::Bad(_) => probes.answered(kind, false, now),
                Answer::None(_) => {
                    probes.unanswered(kind, now);
                    Change::None
                }
            };
            self.note(kind, &answer, probes.is_ready());
            if let Change::Restart(kind) = change {
                let name = &self.plan.name;
                log::warn!("container {name} failed its {kind} probe and is ended");
                let grace = self.plan.health.probe(kind).and_then(|probe| probe.grace);
                let grace = grace.unwrap_or(self.shared.plan.grace);
                ending::end(&self.shared, &self.plan, self.run, grace);
                return;
            }
        }
    }

    /// Asks what is due until there is an answer; `None` when the container has ended.
    fn next_answer(&self, probes: &mut Probes, began: Instant) -> Option<(Kind, Answer)> {
        loop {
            let event = match probes.next() {
                None => self.events.recv().ok(),
                Some((kind, at)) => {
                    let left = at.saturating_sub(began.elapsed());
                    match self.events.recv_timeout(left) {
                        Ok(event) => Some(event),
                        Err(RecvTimeoutError::Disconnected) => None,
                        Err(RecvTimeoutError::Timeout) => {
                            probes.asked(kind);
                            self.ask(kind);
                            continue;
                        }
                    }
                }
            };
            match event {
                Some(Event::Answer(kind, answer)) => return Some((kind, answer)),
                Some(Event::Over) | None => return None,
            }
        }
    }

    /// Asks on a thread of its own: a probe that is slow does not hold up the other.
    fn ask(&self, kind: Kind) {
        let Some(probe) = self.plan.health.probe(kind).cloned() else {
            return;
        };
        let (pod, plan, answers) = (
            Arc::clone(&self.pod),
            self.plan.clone(),
            self.answers.clone(),
        );
        let thread = std::thread::Builder::new()
            .name("probe".into())
            .stack_size(STACK);
        let asking = thread.spawn(move || {
            let answer = question::ask(&pod, &plan, &probe);
            let _ = answers.send(Event::Answer(kind, answer));
        });
        if let Err(error) = asking {
            let answer = Answer::None(format!("no thread: {error}"));
            let _ = self.answers.send(Event::Answer(kind, answer));
        }
    }

    fn note(&self, kind: Kind, answer: &Answer, is_ready: bool) {
        let complaint = match answer {
            Answer::Good => None,
            Answer::Bad(why) => Some(format!("{kind} probe failed: {why}")),
            Answer::None(why) => Some(format!("{kind} probe errored: {why}")),
        };
        self.shared.change(|state| {
            if !state.is_running(&self.plan.name, self.run) {
                return;
            }
            if let Some(record) = state.container(&self.plan.name) {
                record.ready = is_ready;
                if complaint.is_some() {
                    record.complaint = complaint;
                }
            }
        });
    }
}
