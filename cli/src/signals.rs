//! Signals and the time limit: passed on to the command, or the end of the pod.
//!
//! The first SIGINT, SIGTERM, SIGHUP or SIGQUIT goes to the command. A second within
//! [`AGAIN`] ends the VM. One that comes before the command has started ends the start.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use sandbox::{PodKiller, ProcessHandle};
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
    killer: Option<PodKiller>,
    container: Option<ProcessHandle>,
    last: Option<Instant>,
    interruption: Option<Interruption>,
}

/// Watches for signals on a thread of its own.
pub struct Signals {
    state: Arc<Mutex<State>>,
    cancel: Arc<OwnedFd>,
}

impl Signals {
    /// Starts watching; after `timeout` the pod is ended.
    pub fn watch(timeout: Option<Duration>) -> std::io::Result<Self> {
        let cancel = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let this = Self {
            state: Arc::default(),
            cancel,
        };
        let watched = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH];
        let mut signals = signal_hook::iterator::Signals::new(watched)?;
        let (state, cancel) = (Arc::clone(&this.state), Arc::clone(&this.cancel));
        let thread = || std::thread::Builder::new().stack_size(128 * 1024);
        thread().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                handle(&state, &cancel, signal);
            }
        })?;
        if let Some(timeout) = timeout {
            let (state, cancel) = (Arc::clone(&this.state), Arc::clone(&this.cancel));
            thread().name("timeout".into()).spawn(move || {
                std::thread::sleep(timeout);
                interrupt(&mut lock(&state), &cancel, Interruption::Timeout);
            })?;
        }
        Ok(this)
    }

    /// Becomes readable when the start is to be given up.
    pub fn cancellation(&self) -> std::io::Result<OwnedFd> {
        self.cancel.try_clone()
    }

    /// From here on the VM can be ended.
    pub fn pod_started(&self, killer: PodKiller) {
        let mut state = lock(&self.state);
        // One that came just now found nothing to end.
        if state.interruption.is_some() {
            killer.kill();
        }
        state.killer = Some(killer);
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

fn interrupt(state: &mut State, cancel: &OwnedFd, how: Interruption) {
    state.interruption.get_or_insert(how);
    let _ = rustix::io::write(cancel, &1u64.to_ne_bytes());
    if let Some(killer) = &state.killer {
        killer.kill();
    }
}

fn handle(state: &Mutex<State>, cancel: &OwnedFd, signal: i32) {
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
            interrupt(&mut state, cancel, Interruption::Signal(signal));
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
