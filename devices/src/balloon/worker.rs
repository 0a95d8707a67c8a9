//! What the thread behind the reporting queue does: it gives reported memory back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::MAX_RANGES;
use crate::device::{DeviceKind, Threads};
use crate::discard::Discarder;
use crate::queue::{ActiveQueue, Chain, QueueFault};
use crate::rate::{Limiter, Rate, RateLimit, sleep};
use crate::worker::Worker;

/// Starts the thread that serves the reporting queue.
pub(super) fn start(queue: ActiveQueue, threads: &Threads) -> io::Result<Worker> {
    let who = (DeviceKind::Balloon, "virtio-balloon");
    Worker::start(queue, threads, who, || {
        let (mut chain, mut reports) = (Chain::new(), Reports::new());
        move |queue: &mut ActiveQueue, stop: &AtomicBool| {
            reports.serve_available(queue, &mut chain, stop)
        }
    })
}

struct Reports {
    limiter: Limiter,
    discarder: Discarder,
}

impl Reports {
    fn new() -> Self {
        // A range is a request, whatever its length: a host's page is given back once.
        let limiter = Limiter::new(RateLimit {
            bytes: None,
            requests: Some(Rate::per_second(MAX_RANGES)),
        });
        Self {
            limiter,
            discarder: Discarder::default(),
        }
    }

    /// Serves what is there. The driver is interrupted once for all of it.
    fn serve_available(
        &mut self,
        queue: &mut ActiveQueue,
        chain: &mut Chain,
        stop: &AtomicBool,
    ) -> Result<(), QueueFault> {
        let is_to_end = || stop.load(Ordering::SeqCst);
        loop {
            loop {
                if let Some(until) = self.limiter.blocked_until(Instant::now()) {
                    // The driver need not wait for what is done.
                    queue.notify()?;
                    sleep(until, stop);
                }
                if is_to_end() || !queue.pop(chain)? {
                    break;
                }
                self.give_back(queue, chain);
                // §5.5.6.7: the device writes nothing into a report's buffers.
                queue.push_used(chain.head(), 0)?;
            }
            queue.notify()?;
            if is_to_end() || !queue.enable_kicks()? {
                return Ok(());
            }
        }
    }

    fn give_back(&mut self, queue: &ActiveQueue, chain: &Chain) {
        let memory = Arc::clone(queue.memory());
        // An empty report costs as much as one range.
        self.limiter.take(0);
        for range in chain.writable() {
            self.limiter.take(0);
            // It was checked to be guest memory when the chain was popped.
            self.discarder
                .discard(&memory, range.addr, range.len as usize);
        }
    }
}
