//! Signals and the time limit: passed on to the command, or the end of the pod.
//!
//! The first SIGINT, SIGTERM, SIGHUP or SIGQUIT goes to the command. A second within
//! [`AGAIN`] ends the VM. One that comes before the command has started ends the start.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sandbox::ProcessHandle;
use sandbox::monitor::MonitorHandle;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};

use crate::terminal;

/// Within this time a second signal ends the VM.
const AGAIN: Duration = Duration::from_secs(3);

/// What ended the pod before its command did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// A signal.
    Signal(i32),
    /// `--timeout`.
    Timeout,
}

#[derive(Default)]
struct State {
    pod: Option<MonitorHandle>,
    container: Option<ProcessHandle>,
    last: Option<Instant>,
    interruption: Option<Interruption>,
}

/// Watches for signals on a thread of its own.
pub struct Signals {
    state: Arc<Mutex<State>>,
}

impl Signals {
    /// Starts watching; after `timeout` the pod is ended.
    pub fn watch(timeout: Option<Duration>) -> std::io::Result<Self> {
        let this = Self {
            state: Arc::default(),
        };
        let watched = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH];
        let mut signals = signal_hook::iterator::Signals::new(watched)?;
        let state = Arc::clone(&this.state);
        let thread = || std::thread::Builder::new().stack_size(128 * 1024);
        thread().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                handle(&state, signal);
            }
        })?;
        if let Some(timeout) = timeout {
            let state = Arc::clone(&this.state);
            thread().name("timeout".into()).spawn(move || {
                std::thread::sleep(timeout);
                interrupt(&mut lock(&state), Interruption::Timeout);
            })?;
        }
        Ok(this)
    }

    /// From here on the pod can be ended, and so can its start.
    pub fn pod_created(&self, pod: MonitorHandle) {
        let mut state = lock(&self.state);
        // One that came just now found nothing to end.
        if state.interruption.is_some() {
            pod.destroy();
        }
        state.pod = Some(pod);
    }

    /// From here on signals go to the command.
    pub fn container_started(&self, container: ProcessHandle) {
        lock(&self.state).container = Some(container);
    }

    /// What ended the pod, if it was not its command.
    pub fn interruption(&self) -> Option<Interruption> {
        lock(&self.state).interruption
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn interrupt(state: &mut State, how: Interruption) {
    state.interruption.get_or_insert(how);
    if let Some(pod) = &state.pod {
        pod.destroy();
    }
}

fn handle(state: &Mutex<State>, signal: i32) {
    let container = lock(state).container.clone();
    if signal == SIGWINCH {
        if let Some(container) = container {
            let (rows, cols) = terminal::size();
            let _ = container.resize(rows, cols);
        }
        return;
    }
    if matches!(signal, SIGINT | SIGTERM | SIGHUP | SIGQUIT) {
        let mut state = lock(state);
        let again = state.last.is_some_and(|last| last.elapsed() < AGAIN);
        state.last = Some(Instant::now());
        if again || container.is_none() {
            interrupt(&mut state, Interruption::Signal(signal));
            return;
        }
    }
    if let Some(container) = container {
        // The lock is not held: a call may take long, and a second signal must get through.
        let _ = std::thread::Builder::new()
            .stack_size(128 * 1024)
            .spawn(move || {
                if let Err(error) = container.signal(signal.unsigned_abs(), false) {
                    log::warn!("signal {signal} did not reach the command: {error}");
                }
            });
    }
}
