//! One thread per queue: doorbell, chains, replies.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use super::server::{NoRoom, Scratch, Server};
use super::sys::clear_thread_umask;
use crate::device::{DeviceKind, Threads};
use crate::queue::{ActiveQueue, Chain, QueueFault};

/// The queue that FORGET goes through (virtio-v1.2 §5.11.2).
const HIPRIO: u16 = 0;

#[derive(Debug, Error)]
enum Fault {
    #[error(transparent)]
    Queue(#[from] QueueFault),
    #[error("queue {queue}: {fault}")]
    Request { queue: u16, fault: NoRoom },
}

/// The thread that serves one queue.
pub(super) struct Worker {
    thread: JoinHandle<ActiveQueue>,
    stop: Arc<AtomicBool>,
    kick: EventFd,
}

impl Worker {
    pub fn start(queue: ActiveQueue, server: Arc<Server>, threads: &Threads) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let kick = queue.kick().try_clone()?;
        let seen = Arc::clone(&stop);
        let name = match queue.index() {
            HIPRIO => "virtio-fs-hp".to_owned(),
            index => format!("virtio-fs-{index}"),
        };
        let thread = threads.start(DeviceKind::Fs, name, move || serve(queue, &server, &seen))?;
        Ok(Self { thread, stop, kick })
    }

    /// Lets the thread end after the request that it serves.
    pub fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.kick.write(1);
        self.thread.thread().unpark();
    }

    /// Waits for the thread's end and gives the queue back.
    pub fn stop(self) -> Option<ActiveQueue> {
        self.ask_to_stop();
        self.thread.join().ok()
    }
}

fn serve(mut queue: ActiveQueue, server: &Server, stop: &AtomicBool) -> ActiveQueue {
    clear_thread_umask();
    let mut chain = Chain::new();
    let mut scratch = Scratch::default();
    while !stop.load(Ordering::SeqCst) {
        if let Err(fault) = serve_available(&mut queue, server, &mut chain, &mut scratch, stop) {
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
            let written = answered.map_err(|fault| Fault::Request {
                queue: queue.index(),
                fault,
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
