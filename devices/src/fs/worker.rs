//! One thread per queue: chains, replies.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;

use super::server::{NoRoom, Scratch, Server};
use super::sys::clear_thread_umask;
use crate::device::{DeviceKind, Threads};
use crate::queue::{ActiveQueue, Chain, QueueFault};
use crate::worker::Worker;

/// The queue that FORGET goes through (virtio-v1.2 §5.11.2).
const HIPRIO: u16 = 0;

#[derive(Debug, Error)]
enum Fault {
    #[error(transparent)]
    Queue(#[from] QueueFault),
    #[error("queue {queue}")]
    Request { queue: u16, source: NoRoom },
}

/// Starts a thread that serves one queue.
pub(super) fn start(
    queue: ActiveQueue,
    server: Arc<Server>,
    threads: &Threads,
) -> io::Result<Worker> {
    let name = match queue.index() {
        HIPRIO => "virtio-fs-hp".to_owned(),
        index => format!("virtio-fs-{index}"),
    };
    Worker::start(queue, threads, (DeviceKind::Fs, &name), move || {
        clear_thread_umask();
        let (mut chain, mut scratch) = (Chain::new(), Scratch::default());
        move |queue: &mut ActiveQueue, stop: &AtomicBool| {
            serve_available(queue, &server, &mut chain, &mut scratch, stop)
        }
    })
}

/// Serves what is there. The driver is interrupted once for all of it.
fn serve_available(
    queue: &mut ActiveQueue,
    server: &Server,
    chain: &mut Chain,
    scratch: &mut Scratch,
    stop: &AtomicBool,
) -> Result<(), Fault> {
    let memory = Arc::clone(queue.memory());
    loop {
        queue.disable_kicks()?;
        loop {
            // The driver need not wait for what is done.
            server.limiter.wait(stop, || queue.notify())?;
            if stop.load(Ordering::SeqCst) || !queue.pop(chain)? {
                break;
            }
            let reader = chain.reader(&memory);
            let asked = reader.available();
            let answered = server.answer(reader, chain.writer(&memory), scratch);
            let written = answered.map_err(|source| Fault::Request {
                queue: queue.index(),
                source,
            })?;
            server.limiter.take(asked + written);
            queue.push_used(chain.head(), u32::try_from(written).unwrap_or(u32::MAX))?;
        }
        queue.notify()?;
        if !queue.enable_kicks()? || stop.load(Ordering::SeqCst) {
            return Ok(());
        }
    }
}
