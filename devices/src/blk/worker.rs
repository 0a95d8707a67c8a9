//! The thread behind the queue: doorbell, requests, statuses.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use super::disk::{BadChain, Disk, Scratch};
use crate::device::{DeviceKind, Threads};
use crate::queue::{ActiveQueue, Chain, QueueFault};
use crate::transfer::Write;

#[derive(Debug, Error)]
enum Fault {
    #[error(transparent)]
    Queue(#[from] QueueFault),
    #[error("queue 0: {0}")]
    Chain(#[from] BadChain),
}

/// The thread, from the outside.
pub(super) struct Worker {
    thread: JoinHandle<ActiveQueue>,
    stop: Arc<AtomicBool>,
    kick: EventFd,
}

impl Worker {
    /// Starts a thread that serves `queue`; `writes` are done so.
    pub fn start(
        queue: ActiveQueue,
        disk: Arc<Disk>,
        writes: Write,
        threads: &Threads,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let kick = queue.kick().try_clone()?;
        let seen = Arc::clone(&stop);
        let thread = threads.start(DeviceKind::Blk, "virtio-blk", move || {
            serve(queue, &disk, writes, &seen)
        })?;
        Ok(Self { thread, stop, kick })
    }

    /// Lets the request that is served end, and gives the queue back.
    pub fn stop(self) -> Option<ActiveQueue> {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.kick.write(1);
        self.thread.thread().unpark();
        self.thread.join().ok()
    }
}

fn serve(mut queue: ActiveQueue, disk: &Disk, writes: Write, stop: &AtomicBool) -> ActiveQueue {
    let mut chain = Chain::new();
    let mut scratch = Scratch::default();
    while !stop.load(Ordering::SeqCst) {
        if let Err(fault) =
            serve_available(&mut queue, disk, writes, &mut chain, &mut scratch, stop)
        {
            queue.fail(&fault);
            break;
        }
        if queue.kick().read().is_err() {
            break;
        }
    }
    queue
}

/// Serves what is there. The driver is interrupted once for all of it.
fn serve_available(
    queue: &mut ActiveQueue,
    disk: &Disk,
    writes: Write,
    chain: &mut Chain,
    scratch: &mut Scratch,
    stop: &AtomicBool,
) -> Result<(), Fault> {
    let memory = Arc::clone(queue.memory());
    loop {
        queue.disable_kicks()?;
        loop {
            // The driver need not wait for what is done.
            disk.limiter.wait(stop, || queue.notify())?;
            if stop.load(Ordering::SeqCst) || !queue.pop(chain)? {
                break;
            }
            let (reader, writer) = (chain.reader(&memory), chain.writer(&memory));
            let written = disk.serve(reader, writer, writes, scratch)?;
            queue.push_used(chain.head(), u32::try_from(written).unwrap_or(u32::MAX))?;
        }
        queue.notify()?;
        if !queue.enable_kicks()? || stop.load(Ordering::SeqCst) {
            return Ok(());
        }
    }
}
