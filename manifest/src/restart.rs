//! Whether and when a container is started again: Kubernetes' back-off, as a pure state machine.
//!
//! ```text
//!   Waiting ──started──▶ Running ──ended──▶ Waiting { until } ─▶ ...
//!                           └──────────────▶ Done { succeeded }
//! ```
//!
//! The first restart comes at once. From the second one on, a container that ends soon again waits
//! 10 s, 20 s, 40 s and so on up to 300 s, counted from its end. One that ran for 10 minutes begins anew.
//! Time is what the caller says it is, as a duration since any moment.

use std::time::Duration;

use crate::pod::RestartPolicy;

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);
/// Twice the longest, as the kubelet has it.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// Delays between the end of a container and its next start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    next: Option<Duration>,
}

impl Backoff {
    /// A container has ended after it `ran`: how long is it waited until the next start?
    pub fn delay(&mut self, ran: Duration) -> Duration {
        if ran >= FORGOTTEN {
            self.next = None;
        }
        let delay = self.next.unwrap_or(Duration::ZERO);
        self.next = Some(self.next.map_or(FIRST, |next| (next * 2).min(LONGEST)));
        delay
    }
}

/// What a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is to be started at this time.
    Waiting {
        /// When.
        until: Duration,
    },
    /// It runs.
    Running {
        /// Since when.
        since: Duration,
    },
    /// It will not be started again.
    Done {
        /// Whether its last status was 0.
        succeeded: bool,
    },
}

/// A container's starts and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restarts {
    policy: RestartPolicy,
    is_init: bool,
    backoff: Backoff,
    state: State,
    count: u32,
}

impl Restarts {
    /// One that is to be started at once.
    #[must_use]
    pub fn new(policy: RestartPolicy, is_init: bool, now: Duration) -> Self {
        Self {
            policy,
            is_init,
            backoff: Backoff::default(),
            state: State::Waiting { until: now },
            count: 0,
        }
    }

    /// What it is doing.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// How often it was started again.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// It has been started.
    pub fn started(&mut self, now: Duration) {
        self.state = State::Running { since: now };
    }

    /// It has ended, or could not be started, which counts as a failure.
    pub fn ended(&mut self, status: i32, now: Duration) -> State {
        let ran = match self.state {
            State::Running { since } => now.saturating_sub(since),
            State::Waiting { .. } => Duration::ZERO,
            State::Done { .. } => return self.state,
        };
        let succeeded = status == 0;
        let again = match (self.policy, self.is_init) {
            (RestartPolicy::Never, _) => false,
            // What comes after an init container waits for its success, and for nothing else.
            (RestartPolicy::OnFailure, _) | (RestartPolicy::Always, true) => !succeeded,
            (RestartPolicy::Always, false) => true,
        };
        self.state = match again {
            false => State::Done { succeeded },
            true => {
                self.count = self.count.saturating_add(1);
                State::Waiting {
                    until: now + self.backoff.delay(ran),
                }
            }
        };
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Delays of a container that runs for `ran` each time.
    fn delays(ran: &[u64]) -> Vec<u64> {
        let mut restarts = Restarts::new(RestartPolicy::Always, false, seconds(5));
        let mut now = seconds(5);
        let delay = |ran: &u64| {
            restarts.started(now);
            now += seconds(*ran);
            let State::Waiting { until } = restarts.ended(1, now) else {
                panic!("it is always started again");
            };
            let delay = until - now;
            now = until;
            delay.as_secs()
        };
        ran.iter().map(delay).collect()
    }

    #[test]
    fn delays_double_up_to_five_minutes() {
        assert_eq!(delays(&[1; 9]), [0, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn ten_minutes_are_forgotten_and_less_is_not() {
        assert_eq!(delays(&[1, 1, 1, 600, 1, 1]), [0, 10, 20, 0, 10, 20]);
        assert_eq!(delays(&[1, 1, 1, 599, 1]), [0, 10, 20, 40, 80]);
    }

    #[test]
    fn policies() {
        use RestartPolicy::{Always, Never, OnFailure};
        for (policy, is_init, status, again) in [
            (Always, false, 0, true),
            (Always, false, 1, true),
            (Always, true, 0, false),
            (Always, true, 1, true),
            (OnFailure, false, 0, false),
            (OnFailure, false, 137, true),
            (OnFailure, true, 0, false),
            (OnFailure, true, 1, true),
            (Never, false, 0, false),
            (Never, false, 1, false),
            (Never, true, 1, false),
        ] {
            let mut restarts = Restarts::new(policy, is_init, seconds(0));
            restarts.started(seconds(0));
            let state = restarts.ended(status, seconds(1));
            let waits = matches!(state, State::Waiting { .. });
            assert_eq!(waits, again, "{policy:?} {is_init} {status}");
            assert_eq!(restarts.count(), u32::from(again));
            if !again {
                let succeeded = status == 0;
                assert_eq!(state, State::Done { succeeded });
                assert_eq!(restarts.ended(1, seconds(2)), state, "done is done");
            }
        }
    }

    #[test]
    fn a_container_that_cannot_be_started_backs_off_too() {
        let mut restarts = Restarts::new(RestartPolicy::OnFailure, false, seconds(0));
        for until in [0, 0, 10, 30] {
            let State::Waiting { until: now } = restarts.state() else {
                panic!("it waits");
            };
            assert_eq!(now, seconds(until));
            restarts.ended(127, now);
        }
    }
}
