//! The thread behind one queue: woken by the doorbell, stopped from outside.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use vmm_sys_util::eventfd::EventFd;

use crate::device::{DeviceKind, Threads};
use crate::queue::ActiveQueue;

/// The thread, from the outside.
pub(crate) struct Worker {
    thread: JoinHandle<ActiveQueue>,
    stop: Arc<AtomicBool>,
    kick: EventFd,
}

impl Worker {
    /// Starts a thread for `queue`. `prepare` is called in it, and what that gives is called whenever
    /// something may be available: it serves all that is there, and ends early when the flag is set. A
    /// fault is the driver's to hear of, and the thread's end.
    ///
    /// # Errors
    /// When the system makes no thread, or no other end of the doorbell.
    pub fn start<F, E>(
        queue: ActiveQueue,
        threads: &Threads,
        (kind, name): (DeviceKind, &str),
        prepare: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<Self>
    where
        F: FnMut(&mut ActiveQueue, &AtomicBool) -> Result<(), E>,
        E: Error,
    {
        let stop = Arc::new(AtomicBool::new(false));
        let kick = queue.kick().try_clone()?;
        let seen = Arc::clone(&stop);
        let thread = threads.start(kind, name, move || serve(queue, &seen, prepare()))?;
        Ok(Self { thread, stop, kick })
    }

    /// Lets the thread end after the request that it serves.
    pub fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.kick.write(1);
        // It may sleep on account of a limit.
        self.thread.thread().unpark();
    }

    /// Waits for the thread's end and gives the queue back.
    pub fn stop(self) -> Option<ActiveQueue> {
        self.ask_to_stop();
        self.thread.join().ok()
    }
}

fn serve<E: Error>(
    mut queue: ActiveQueue,
    stop: &AtomicBool,
    mut serve_available: impl FnMut(&mut ActiveQueue, &AtomicBool) -> Result<(), E>,
) -> ActiveQueue {
    while !stop.load(Ordering::SeqCst) {
        if let Err(fault) = serve_available(&mut queue, stop) {
            queue.fail(&fault);
            break;
        }
        if queue.kick().read().is_err() {
            break;
        }
    }
    queue
}
