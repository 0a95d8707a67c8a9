//! The lives of a pod's containers: started in order, waited for, started again by policy, stopped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::outlet::{Connected, Outlet};
use super::plan::{ContainerPlan, Restart};
use super::record::{ContainerPhase, ExitRecord, Phase};
use super::shared::{Shared, State};
use super::{MonitorError, STACK, one_line, volumes};
use crate::container::{Process, StartFailure};
use crate::pod::Pod;
use crate::timestamp::Timestamp;

/// The first time that a container ends it is started again at once. From then on, after pauses that
/// begin with this and double, as Kubernetes has it.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Who ran as long as this begins anew.
const GOOD_RUN: Duration = Duration::from_secs(600);
/// How long containers may take to be gone after SIGKILL, until the VM is ended.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
const SIGKILL: u32 = 9;

/// What supervising one container takes.
#[derive(Clone)]
struct Supervisor {
    shared: Arc<Shared>,
    outlet: Arc<dyn Outlet>,
    pod: Arc<Pod>,
}

/// A container whose command runs.
struct Running {
    process: Process,
    streams: Connected,
    began: Instant,
}

/// Starts the containers of a pod whose VM runs.
pub(super) fn start(shared: &Arc<Shared>, outlet: &Arc<dyn Outlet>) -> Result<(), MonitorError> {
    let pod = shared.lock().pod.clone().ok_or(MonitorError::Destroyed)?;
    let supervisor = Supervisor {
        shared: Arc::clone(shared),
        outlet: Arc::clone(outlet),
        pod,
    };
    let (inits, others): (Vec<_>, Vec<_>) =
        shared.plan.containers.iter().cloned().partition(|c| c.init);
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
        let connected = self.outlet.connect(plan, &mut process);
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
            record.started = Some(Timestamp::now());
            record.reason = None;
        });
        Ok(Running {
            process,
            streams,
            began: Instant::now(),
        })
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
            let Some((exit, reason)) = self.end_of(current) else {
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
                    record.reason = reason;
                    record.phase = if again {
                        ContainerPhase::Waiting
                    } else {
                        ContainerPhase::Exited
                    };
                }
                again
            });
            if began.is_some() && (again || self.shared.plan.containers.len() > 1) {
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
    for plan in &shared.plan.containers {
        signal_later(shared, &plan.name, plan.stop_signal, false);
    }
    let done = State::is_done;
    if !shared.wait_until(Some(grace.unwrap_or(shared.plan.grace)), done) {
        for plan in &shared.plan.containers {
            signal_later(shared, &plan.name, SIGKILL, true);
        }
        if !shared.wait_until(Some(KILL_PATIENCE), done) {
            shared.destroy();
        }
    }
    shared.wait_until(None, |state| state.is_over);
}

/// Sends a signal to a running container and does not wait: a guest that hangs takes half a minute.
fn signal_later(shared: &Arc<Shared>, name: &str, signal: u32, all: bool) {
    let container = {
        let state = shared.lock();
        let record = state.record.container(name);
        if record.is_none_or(|record| record.phase != ContainerPhase::Running) {
            return;
        }
        state.pod.as_ref().map(|pod| pod.container(name))
    };
    let Some(container) = container else { return };
    let thread = std::thread::Builder::new().stack_size(STACK);
    let _ = thread.spawn(move || {
        if let Err(error) = container.process("").signal(signal, all) {
            log::debug!("signal {signal}: {error}");
        }
    });
}
