//! When a container's probes ask, and what their answers come to: a pure state machine.
//!
//! ```text
//!   started ──▶ startup asks until it has succeeded ──▶ liveness and readiness ask, each at its times
//!                  │ too many failures                     │ liveness            │ readiness
//!                  ▼                                       ▼                     ▼
//!                restart                                 restart          ready or not ready
//! ```
//!
//! Time is what the caller says it is, as a duration since any moment. A question that is under way is
//! not asked again; the caller carries it out, ends it after its timeout, and tells the answer.

use std::time::Duration;

use super::{Health, Kind, Probe, Timing};

/// What an answer has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// It has started: the other probes begin.
    Started,
    /// Whether it can be used is another than before.
    Ready(bool),
    /// It has to be ended, and started again by the restart policy.
    Restart(Kind),
}

/// One probe.
#[derive(Clone, Copy, Debug)]
struct Line {
    timing: Timing,
    /// When it asks next; none while a question is under way.
    next: Option<Duration>,
    /// Answers of the same kind in a row.
    run: u32,
    last: Option<bool>,
}

impl Line {
    fn new(timing: Timing, started: Duration) -> Self {
        Self {
            timing,
            next: Some(started + timing.initial_delay),
            run: 0,
            last: None,
        }
    }

    /// Counts an answer. Gives what the probe thinks now, once there were enough answers of a kind.
    fn answered(&mut self, good: bool, now: Duration) -> Option<bool> {
        self.run = if self.last == Some(good) {
            self.run.saturating_add(1)
        } else {
            1
        };
        self.last = Some(good);
        self.next = Some(now + self.timing.period);
        let needed = if good {
            self.timing.successes
        } else {
            self.timing.failures
        };
        (self.run >= needed).then_some(good)
    }
}

/// A running container's probes.
#[derive(Clone, Debug)]
pub struct Probes {
    startup: Option<Line>,
    liveness: Option<Line>,
    readiness: Option<Line>,
    started: bool,
    ready: bool,
}

impl Probes {
    /// Probes of a container that has just been started.
    #[must_use]
    pub fn new(health: &Health, now: Duration) -> Self {
        let line = |probe: &Option<Probe>| {
            let probe = probe.as_ref();
            probe.map(|probe| Line::new(probe.timing, now))
        };
        Self {
            startup: line(&health.startup),
            liveness: line(&health.liveness),
            readiness: line(&health.readiness),
            started: health.startup.is_none(),
            ready: health.is_ready_at_once(),
        }
    }

    /// Whether the container can be used.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// The question that comes next, and when it is due.
    #[must_use]
    pub fn next(&self) -> Option<(Kind, Duration)> {
        let due = |kind, line: &Option<Line>| Some((kind, line.as_ref()?.next?));
        if !self.started {
            return due(Kind::Startup, &self.startup);
        }
        let liveness = due(Kind::Liveness, &self.liveness);
        let readiness = due(Kind::Readiness, &self.readiness);
        liveness
            .into_iter()
            .chain(readiness)
            .min_by_key(|(_, at)| *at)
    }

    /// The question is under way.
    pub fn asked(&mut self, kind: Kind) {
        if let Some(line) = self.line(kind) {
            line.next = None;
        }
    }

    /// It could not be asked, which says nothing about the container.
    pub fn unanswered(&mut self, kind: Kind, now: Duration) {
        if let Some(line) = self.line(kind) {
            line.next = Some(now + line.timing.period);
        }
    }

    /// It was answered; no answer in time is a bad one.
    pub fn answered(&mut self, kind: Kind, good: bool, now: Duration) -> Change {
        let Some(verdict) = self.line(kind).and_then(|line| line.answered(good, now)) else {
            return Change::None;
        };
        match (kind, verdict) {
            (Kind::Startup, true) if !self.started => {
                self.started = true;
                self.startup = None;
                self.ready = self.readiness.is_none();
                Change::Started
            }
            (Kind::Startup | Kind::Liveness, false) => Change::Restart(kind),
            (Kind::Startup | Kind::Liveness, true) => Change::None,
            (Kind::Readiness, ready) if ready != self.ready => {
                self.ready = ready;
                Change::Ready(ready)
            }
            (Kind::Readiness, _) => Change::None,
        }
    }

    fn line(&mut self, kind: Kind) -> Option<&mut Line> {
        match kind {
            Kind::Startup => self.startup.as_mut(),
            Kind::Liveness => self.liveness.as_mut(),
            Kind::Readiness => self.readiness.as_mut(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::health::Question;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn probe(delay: u64, period: u64, successes: u32, failures: u32) -> Probe {
        Probe {
            question: Question::Exec(vec!["true".into()]),
            timing: Timing {
                initial_delay: seconds(delay),
                period: seconds(period),
                timeout: seconds(1),
                successes,
                failures,
            },
            grace: None,
        }
    }

    fn probes(
        startup: Option<Probe>,
        liveness: Option<Probe>,
        readiness: Option<Probe>,
        now: u64,
    ) -> Probes {
        let health = Health {
            startup,
            liveness,
            readiness,
            ..Health::default()
        };
        Probes::new(&health, seconds(now))
    }

    /// Asks what comes next, answers at once, and writes down what happened.
    fn play(probes: &mut Probes, answers: &[bool]) -> Vec<(u64, Kind, Change)> {
        let step = |good: &bool| {
            let (kind, at) = probes.next().expect("a question");
            probes.asked(kind);
            (at.as_secs(), kind, probes.answered(kind, *good, at))
        };
        answers.iter().map(step).collect()
    }

    #[test]
    fn without_probes_a_container_is_ready_at_once() {
        let probes = probes(None, None, None, 7);
        assert!(probes.is_ready());
        assert_eq!(probes.next(), None);
    }

    #[test]
    fn readiness_changes_after_enough_answers_of_a_kind() {
        let readiness = probe(3, 10, 2, 3);
        let mut probes = probes(None, None, Some(readiness), 100);
        assert!(!probes.is_ready());
        let (kind, none) = (Kind::Readiness, Change::None);
        assert_eq!(
            play(
                &mut probes,
                &[
                    true, true, true, false, false, true, false, false, false, false
                ]
            ),
            [
                (103, kind, none),
                (113, kind, Change::Ready(true)),
                (123, kind, none),
                (133, kind, none),
                (143, kind, none),
                // A good answer in between: the bad ones are counted anew.
                (153, kind, none),
                (163, kind, none),
                (173, kind, none),
                (183, kind, Change::Ready(false)),
                (193, kind, none),
            ]
        );
    }

    #[test]
    fn liveness_restarts_after_failures_in_a_row() {
        let liveness = probe(0, 5, 1, 2);
        let mut probes = probes(None, Some(liveness), None, 0);
        let kind = Kind::Liveness;
        assert!(probes.is_ready());
        assert_eq!(
            play(&mut probes, &[false, true, false, false]),
            [
                (0, kind, Change::None),
                (5, kind, Change::None),
                (10, kind, Change::None),
                (15, kind, Change::Restart(kind)),
            ]
        );
    }

    #[test]
    fn the_others_wait_for_startup() {
        let (startup, liveness, readiness) =
            (probe(0, 1, 1, 3), probe(2, 10, 1, 3), probe(0, 4, 1, 3));
        let mut all = probes(
            Some(startup.clone()),
            Some(liveness.clone()),
            Some(readiness),
            0,
        );
        assert_eq!(
            play(&mut all, &[false, false, true, true, true, true]),
            [
                (0, Kind::Startup, Change::None),
                (1, Kind::Startup, Change::None),
                (2, Kind::Startup, Change::Started),
                // Due since 0; asked as soon as it may be.
                (0, Kind::Readiness, Change::Ready(true)),
                (2, Kind::Liveness, Change::None),
                (4, Kind::Readiness, Change::None),
            ]
        );
        let mut probes = probes(Some(startup), Some(liveness), None, 0);
        let last = play(&mut probes, &[false, false, false]).pop();
        assert_eq!(
            last,
            Some((2, Kind::Startup, Change::Restart(Kind::Startup)))
        );
        assert!(!probes.is_ready());
    }

    #[test]
    fn a_question_under_way_is_not_asked_again() {
        let liveness = probe(0, 5, 1, 1);
        let mut probes = probes(None, Some(liveness), None, 0);
        probes.asked(Kind::Liveness);
        assert_eq!(probes.next(), None);
        assert_eq!(
            probes.answered(Kind::Liveness, false, seconds(1)),
            Change::Restart(Kind::Liveness)
        );
        // One that could not be asked is asked again, and counts for nothing.
        probes.unanswered(Kind::Liveness, seconds(1));
        assert_eq!(probes.next(), Some((Kind::Liveness, seconds(6))));
        // A late answer of a probe that there is not changes nothing.
        assert_eq!(
            probes.answered(Kind::Startup, false, seconds(2)),
            Change::None
        );
    }
}
