//! The thread that gives reported memory back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use vm_memory::GuestMemoryBackend;
use vmm_sys_util::eventfd::EventFd;

use super::MAX_RANGES;
use super::discard::discard;
use crate::device::{DeviceKind, Threads};
use crate::queue::{ActiveQueue, Chain, QueueFault};
use crate::rate::{Limiter, Rate, RateLimit};

/// The thread that serves the reporting queue.
pub(super) struct Worker {
    thread: JoinHandle<ActiveQueue>,
    stop: Arc<AtomicBool>,
    kick: EventFd,
}

impl Worker {
    pub fn start(queue: ActiveQueue, threads: &Threads) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let kick = queue.kick().try_clone()?;
        let seen = Arc::clone(&stop);
        let work = move || Reports::new(queue, seen).serve();
        let thread = threads.start(DeviceKind::Balloon, "virtio-balloon", work)?;
        Ok(Self { thread, stop, kick })
    }

    /// Waits for the thread's end and gives the queue back.
    pub fn stop(self) -> Option<ActiveQueue> {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.kick.write(1);
        self.thread.thread().unpark();
        self.thread.join().ok()
    }
}

struct Reports {
    queue: ActiveQueue,
    stop: Arc<AtomicBool>,
    limiter: Limiter,
    /// Whether the host's refusal to take memory back has been logged.
    refused: bool,
}

impl Reports {
    fn new(queue: ActiveQueue, stop: Arc<AtomicBool>) -> Self {
        // A range is a request, whatever its length: a host's page is given back once.
        let limiter = Limiter::new(RateLimit {
            bytes: None,
            requests: Some(Rate::per_second(MAX_RANGES)),
        });
        Self {
            queue,
            stop,
            limiter,
            refused: false,
        }
    }

    fn serve(mut self) -> ActiveQueue {
        let mut chain = Chain::new();
        while !self.is_to_end() {
            if let Err(fault) = self.serve_available(&mut chain) {
                self.queue.fail(&fault);
                break;
            }
            if self.queue.kick().read().is_err() {
                break;
            }
        }
        self.queue
    }

    /// Serves what is there. The driver is interrupted once for all of it.
    fn serve_available(&mut self, chain: &mut Chain) -> Result<(), QueueFault> {
        loop {
            loop {
                if let Some(until) = self.limiter.blocked_until(Instant::now()) {
                    // The driver need not wait for what is done.
                    self.queue.notify()?;
                    self.sleep(until);
                }
                if self.is_to_end() || !self.queue.pop(chain)? {
                    break;
                }
                self.give_back(chain);
                // §5.5.6.7: the device writes nothing into a report's buffers.
                self.queue.push_used(chain.head(), 0)?;
            }
            self.queue.notify()?;
            if self.is_to_end() || !self.queue.enable_kicks()? {
                return Ok(());
            }
        }
    }

    fn give_back(&mut self, chain: &Chain) {
        let memory = Arc::clone(self.queue.memory());
        // An empty report costs as much as one range.
        self.limiter.take(0);
        for range in chain.writable() {
            self.limiter.take(0);
            // It was checked to be guest memory when the chain was popped. At a border between regions
            // it comes in pieces.
            for piece in memory.get_slices(range.addr, range.len as usize).flatten() {
                if let Err(error) = discard(&piece)
                    && !std::mem::replace(&mut self.refused, true)
                {
                    log::warn!("memory that the guest has freed stays with the pod: {error}");
                }
            }
        }
    }

    fn is_to_end(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Sleeps until then, or until the thread is to end.
    fn sleep(&self, until: Instant) {
        while !self.is_to_end()
            && let Some(left) = until.checked_duration_since(Instant::now())
            && !left.is_zero()
        {
            thread::park_timeout(left);
        }
    }
}
