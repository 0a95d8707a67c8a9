//! The lives of a pod's containers: started in order, waited for, started again by policy, stopped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::health::watch::Watch;
use super::health::{ending, question};
use super::outlet::Connected;
use super::plan::{ContainerPlan, Restart};
use super::record::{ContainerPhase, ExitRecord, Phase};
use super::shared::{Shared, State};
use super::{MonitorError, STACK, volumes};
use crate::container::{Process, StartFailure};
use crate::logging::one_line;
use crate::pod::Pod;
use crate::timestamp::Timestamp;

/// The first time that a container ends it is started again at once. From then on, after pauses that
/// begin with this and double, as Kubernetes has it.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Who ran as long as this begins anew.
const GOOD_RUN: Duration = Duration::from_secs(600);
/// Why a pod has ended that ran as long as it may, in the kubelet's words.
const PAST_DEADLINE: &str =
    "DeadlineExceeded: Pod was active on the node longer than the specified deadline";
/// How long containers may take to be gone after SIGKILL, until the VM is ended.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// What supervising one container takes.
#[derive(Clone)]
struct Supervisor {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
}

/// A container whose command runs.
struct Running {
    process: Process,
    streams: Connected,
    began: Instant,
}

/// Starts the containers of a pod whose VM runs.
pub(super) fn start(shared: &Arc<Shared>) -> Result<(), MonitorError> {
    let pod = shared.lock().pod.clone().ok_or(MonitorError::Destroyed)?;
    watch_deadline(shared)?;
    let supervisor = Supervisor {
        shared: Arc::clone(shared),
        pod,
    };
    let (inits, others): (Vec<_>, Vec<_>) =
        shared.containers().iter().cloned().partition(|c| c.init);
    let mut inits = inits.into_iter();
    let Some(first) = inits.next() else {
        // All of them first: whoever fails takes all back.
        let mut started = Vec::new();
        for plan in others {
            let running = supervisor.start(&plan)?;
            started.push((plan, running));
        }
        for (plan, running) in started {
            supervisor.clone().spawn(plan, Ok(running))?;
        }
        return Ok(());
    };
    let running = supervisor.start(&first)?;
    let thread = std::thread::Builder::new()
        .name("init".into())
        .stack_size(STACK);
    let sequence = move || {
        if !supervisor.see_through(&first, Ok(running)) {
            return supervisor.skip_the_rest(&first);
        }
        for plan in inits {
            let running = supervisor.start(&plan);
            if !supervisor.see_through(&plan, running) {
                return supervisor.skip_the_rest(&plan);
            }
        }
        for plan in others {
            let running = supervisor.start(&plan);
            if let Err(error) = supervisor.clone().spawn(plan, running) {
                log::error!("{error}");
                supervisor.shared.destroy();
            }
        }
    };
    thread.spawn(sequence).map_err(MonitorError::Thread)?;
    Ok(())
}

impl Supervisor {
    /// Creates and starts a container once.
    fn start(&self, plan: &ContainerPlan) -> Result<Running, MonitorError> {
        if self.shared.lock().no_more_starts {
            return Err(MonitorError::Destroyed);
        }
        volumes::clear_last_words(&self.pod, plan)?;
        let mut process = self.pod.create(plan.request())?;
        let connected = self.shared.outlet.connect(plan, &mut process);
        let outcome = match connected {
            Ok(streams) => process.start().map(|()| streams).map_err(Into::into),
            Err(source) => Err(MonitorError::Outlet {
                container: plan.name.clone(),
                source,
            }),
        };
        let streams = outcome.inspect_err(|_| {
            let _ = process.handle().remove();
        })?;
        self.note(plan, |record| {
            record.phase = ContainerPhase::Running;
            record.ready = !plan.init && plan.health.is_ready_at_once();
            record.started = Some(Timestamp::now());
            record.reason = None;
        });
        let began = Instant::now();
        self.after_start(plan);
        Ok(Running {
            process,
            streams,
            began,
        })
    }

    /// Runs the hook after the start. The pod's other containers wait for it, as with the kubelet.
    fn after_start(&self, plan: &ContainerPlan) {
        let Some(hook) = &plan.health.post_start else {
            return;
        };
        let run = self.run_of(plan);
        let is_over = |state: &State| state.no_more_starts || !state.is_running(&plan.name, run);
        let ran = question::run_hook(&self.shared, &self.pod, plan, hook, None, is_over);
        if let Err(why) = ran {
            log::warn!("container {}: PostStartHook failed: {why}", plan.name);
            self.note(plan, |record| {
                record.complaint = Some(format!("PostStartHook failed: {why}"));
            });
            ending::end_later(&self.shared, plan, self.shared.plan.grace);
        }
    }

    fn run_of(&self, plan: &ContainerPlan) -> u32 {
        let state = self.shared.lock();
        let record = state.record.container(&plan.name);
        record.map_or(0, |record| record.restarts)
    }

    fn note(&self, plan: &ContainerPlan, change: impl FnOnce(&mut super::record::ContainerRecord)) {
        self.shared
            .change(|state| state.container(&plan.name).map(change));
    }

    /// Supervises on a thread of its own.
    fn spawn(
        self,
        plan: ContainerPlan,
        running: Result<Running, MonitorError>,
    ) -> Result<(), MonitorError> {
        let thread = std::thread::Builder::new()
            .name("container".into())
            .stack_size(STACK);
        let thread = thread.spawn(move || {
            self.see_through(&plan, running);
        });
        thread.map(drop).map_err(MonitorError::Thread)
    }

    /// Waits for a container, starts it again as its policy says, and returns when it has ended for
    /// good. Tells whether it was successful.
    fn see_through(&self, plan: &ContainerPlan, first: Result<Running, MonitorError>) -> bool {
        let mut current = first;
        let mut pause = Duration::ZERO;
        loop {
            let began = current.as_ref().map(|running| running.began).ok();
            let watch = current
                .as_ref()
                .ok()
                .and_then(|_| Watch::start(&self.shared, &self.pod, plan, self.run_of(plan)));
            let ended = self.end_of(current);
            drop(watch);
            let Some((exit, reason)) = ended else {
                // The VM is gone, and whoever waits for it says so.
                return false;
            };
            let code = exit.code;
            let message = began.and_then(|_| self.last_words(plan, code));
            let again = self.shared.change(|state| {
                let again = !state.no_more_starts && is_wanted_again(plan, code);
                if let Some(record) = state.container(&plan.name) {
                    record.exit = Some(exit);
                    record.oom_kills += u32::from(exit.oom_killed);
                    record.message = message;
                    record.ready = false;
                    record.reason = reason;
                    record.phase = if again {
                        ContainerPhase::Waiting
                    } else {
                        ContainerPhase::Exited
                    };
                }
                again
            });
            if began.is_some() && (again || self.shared.containers().len() > 1) {
                // Its name is wanted again, or at least the memory that it took.
                let _ = self.pod.container(&plan.name).process("").remove();
            }
            if !again {
                return code == 0;
            }
            if began.is_some_and(|began| began.elapsed() >= GOOD_RUN) {
                pause = Duration::ZERO;
            }
            let is_ending = |state: &State| state.no_more_starts;
            if self.shared.wait_until(Some(pause), is_ending) {
                self.note(plan, |record| record.phase = ContainerPhase::Exited);
                return false;
            }
            pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            self.note(plan, |record| record.restarts += 1);
            current = self.start(plan);
        }
    }

    fn last_words(&self, plan: &ContainerPlan, code: u8) -> Option<String> {
        volumes::last_words(&self.pod, self.shared.dir.path(), plan, code)
    }

    /// How a container ended, or why it did not start; `None` when the guest is gone.
    fn end_of(
        &self,
        running: Result<Running, MonitorError>,
    ) -> Option<(ExitRecord, Option<String>)> {
        let error = match running {
            Ok(running) => match running.process.wait() {
                Ok(exit) => {
                    running.streams.finish();
                    return Some((exit.into(), None));
                }
                Err(error) => error.into(),
            },
            Err(error) => error,
        };
        if super::is_broken(&error) {
            return None;
        }
        let exit = ExitRecord {
            code: code_of(&error),
            signal: None,
            oom_killed: false,
            at: Timestamp::now(),
        };
        Some((exit, Some(one_line(&error))))
    }

    /// After a failed init container nothing else starts.
    fn skip_the_rest(&self, failed: &ContainerPlan) {
        self.shared.change(|state| {
            state.no_more_starts = true;
            for record in &mut state.record.containers {
                if record.phase == ContainerPhase::Waiting {
                    record.phase = ContainerPhase::Exited;
                    record.reason = Some(format!(
                        "it was not started: init container {} did not succeed",
                        failed.name
                    ));
                }
            }
        });
    }
}

/// Whether a container that has ended with this status is started again.
fn is_wanted_again(plan: &ContainerPlan, code: u8) -> bool {
    match plan.restart {
        Restart::Never => false,
        // An init container that was successful has done its work.
        Restart::Always => !plan.init || code != 0,
        Restart::OnFailure => code != 0,
    }
}

/// The status that a shell gives for a command that did not start.
fn code_of(error: &MonitorError) -> u8 {
    match error.start_failure() {
        Some(StartFailure::NotFound) => 127,
        Some(StartFailure::NotExecutable) => 126,
        Some(StartFailure::Other) | None => 125,
    }
}

/// Asks the containers to end, kills those that do not, and returns when the pod has ended.
pub(super) fn stop(shared: &Arc<Shared>, grace: Option<Duration>) {
    let is_starting = shared.change(|state| {
        state.no_more_starts = true;
        let is_starting = state.record.phase == Phase::Creating;
        if state.record.phase == Phase::Running {
            state.record.phase = Phase::Stopping;
        }
        is_starting
    });
    if is_starting {
        shared.destroy();
    }
    let grace = grace.unwrap_or(shared.plan.grace);
    for plan in shared.containers() {
        ending::end_later(shared, plan, grace);
    }
    let longest = grace.saturating_add(ending::LEAST_GRACE + KILL_PATIENCE);
    if !shared.wait_until(Some(longest), State::is_done) {
        shared.destroy();
    }
    shared.wait_until(None, |state| state.is_over);
}

/// Stops the pod when it has run as long as it may.
fn watch_deadline(shared: &Arc<Shared>) -> Result<(), MonitorError> {
    let Some(deadline) = shared.plan.deadline else {
        return Ok(());
    };
    let shared = Arc::clone(shared);
    let thread = std::thread::Builder::new()
        .name("deadline".into())
        .stack_size(STACK);
    let watch = move || {
        let is_ending = |state: &State| state.no_more_starts || state.is_done();
        if !shared.wait_until(Some(deadline), is_ending) {
            shared.end_because(PAST_DEADLINE.to_owned());
            stop(&shared, None);
        }
    };
    thread.spawn(watch).map(drop).map_err(MonitorError::Thread)
}
