//! What the thread behind the queue does: requests, statuses.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;

use super::disk::{BadChain, Disk, Scratch};
use crate::device::{DeviceKind, Threads};
use crate::queue::{ActiveQueue, Chain, QueueFault};
use crate::transfer::Write;
use crate::worker::Worker;

#[derive(Debug, Error)]
enum Fault {
    #[error(transparent)]
    Queue(#[from] QueueFault),
    #[error("queue 0: {0}")]
    Chain(#[from] BadChain),
}

/// Starts a thread that serves `queue`; `writes` are done so.
pub(super) fn start(
    queue: ActiveQueue,
    disk: Arc<Disk>,
    writes: Write,
    threads: &Threads,
) -> io::Result<Worker> {
    Worker::start(queue, threads, (DeviceKind::Blk, "virtio-blk"), move || {
        let (mut chain, mut scratch) = (Chain::new(), Scratch::default());
        move |queue: &mut ActiveQueue, stop: &AtomicBool| {
            serve_available(queue, &disk, writes, &mut chain, &mut scratch, stop)
        }
    })
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
