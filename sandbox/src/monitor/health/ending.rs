//! A container's last moments: its hook, the signal that asks it to end, and the one that does not ask.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::question;
use crate::monitor::STACK;
use crate::monitor::plan::ContainerPlan;
use crate::monitor::record::ContainerPhase;
use crate::monitor::shared::{Shared, State};

/// What is left after a hook that has used up the grace (the kubelet's minimumGracePeriodInSeconds).
pub(in crate::monitor) const LEAST_GRACE: Duration = Duration::from_secs(2);
const SIGKILL: u32 = 9;

/// Ends this run of a container, as [`end`], on a thread of its own.
pub(in crate::monitor) fn end_later(shared: &Arc<Shared>, plan: &ContainerPlan, grace: Duration) {
    let run = {
        let state = shared.lock();
        let record = state.record.container(&plan.name);
        match record.filter(|record| record.phase == ContainerPhase::Running) {
            Some(record) => record.restarts,
            None => return,
        }
    };
    let (ours, plan) = (Arc::clone(shared), plan.clone());
    let thread = std::thread::Builder::new()
        .name("ending".into())
        .stack_size(STACK);
    if let Err(error) = thread.spawn(move || end(&ours, &plan, run, grace)) {
        // Whoever waits for the end ends the VM in place of it.
        log::error!("no thread to end a container: {error}");
    }
}

/// Runs the hook before the end, asks the container to end, and kills it when `grace` is over. Returns
/// when this `run` of it is over, or was killed.
pub(in crate::monitor) fn end(
    shared: &Arc<Shared>,
    plan: &ContainerPlan,
    run: u32,
    grace: Duration,
) {
    let is_over = |state: &State| state.is_done() || !state.is_running(&plan.name, run);
    // None for a grace that no clock reaches the end of.
    let mut until = Instant::now().checked_add(grace);
    let is_first = shared.change(|state| state.asked_to_end.insert((plan.name.clone(), run)));
    let hook = plan.health.pre_stop.as_ref().filter(|_| !grace.is_zero());
    // Asked again while the hook runs: it goes on, and may have less time.
    if let Some(hook) = hook.filter(|_| is_first) {
        let pod = shared.lock().pod.clone();
        let Some(pod) = pod else { return };
        if let Err(why) = question::run_hook(shared, &pod, plan, hook, Some(grace), is_over) {
            log::warn!("container {}: PreStopHook failed: {why}", plan.name);
            shared.change(|state| {
                if let Some(record) = state.container(&plan.name) {
                    record.complaint = Some(format!("PreStopHook failed: {why}"));
                }
            });
        }
        until = until.map(|until| until.max(Instant::now() + LEAST_GRACE));
    }
    if hook.is_none() || is_first {
        signal_later(shared, &plan.name, plan.stop_signal, false);
    }
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    if !shared.wait_until(left, is_over) {
        signal_later(shared, &plan.name, SIGKILL, true);
    }
}

/// Sends a signal to a running container and does not wait: a guest that hangs takes half a minute.
pub(in crate::monitor) fn signal_later(shared: &Arc<Shared>, name: &str, signal: u32, all: bool) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::plan::PodPlan;
    use crate::monitor::shared::tests::Place;
    use crate::oci::ContainerConfig;

    #[test]
    fn a_grace_may_be_longer_than_any_clock() {
        let mut plan = PodPlan::new("patient");
        plan.containers
            .push(ContainerPlan::new(&ContainerConfig::command(["sleep"])));
        let container = plan.containers[0].clone();
        let place = Place::new("patient", plan);
        let ending = {
            let (shared, container) = (Arc::clone(&place.shared), container.clone());
            shared.change(|state| {
                let record = state.container(&container.name);
                record.unwrap().phase = ContainerPhase::Running;
            });
            std::thread::spawn(move || end(&shared, &container, 0, Duration::MAX))
        };
        // It is waited for, until the pod has ended.
        let is_asked = |state: &State| !state.asked_to_end.is_empty();
        let limit = Some(Duration::from_secs(10));
        assert!(place.shared.wait_until(limit, is_asked));
        place.shared.destroy();
        ending.join().unwrap();
    }
}
