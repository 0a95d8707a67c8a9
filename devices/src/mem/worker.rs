//! The thread that serves the request queue.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

use super::handle::MemHandle;
use super::region::Outcome;
use super::spec::{Request, Response};
use crate::Memory;
use crate::balloon::discard;
use crate::device::{DeviceKind, Threads};
use crate::queue::{ActiveQueue, Chain, QueueFault, ShortChain};

pub(super) struct Worker {
    thread: JoinHandle<ActiveQueue>,
    stop: Arc<AtomicBool>,
    kick: EventFd,
}

/// What stops the device until its driver resets it.
#[derive(Debug, Error)]
enum MemFault {
    #[error(transparent)]
    Queue(#[from] QueueFault),
    #[error("a request that is too short, or has no room for its answer: {0}")]
    Length(#[from] ShortChain),
}

impl Worker {
    pub fn start(queue: ActiveQueue, handle: MemHandle, threads: &Threads) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let kick = queue.kick().try_clone()?;
        let seen = Arc::clone(&stop);
        let work = move || serve(queue, &handle, &seen);
        let thread = threads.start(DeviceKind::Mem, "virtio-mem", work)?;
        Ok(Self { thread, stop, kick })
    }

    /// Waits for the thread's end and gives the queue back.
    pub fn stop(self) -> Option<ActiveQueue> {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.kick.write(1);
        self.thread.join().ok()
    }
}

fn serve(mut queue: ActiveQueue, handle: &MemHandle, stop: &AtomicBool) -> ActiveQueue {
    let mut chain = Chain::new();
    while !stop.load(Ordering::SeqCst) {
        if let Err(fault) = serve_available(&mut queue, &mut chain, handle, stop) {
            queue.fail(&fault);
            break;
        }
        if queue.kick().read().is_err() {
            break;
        }
    }
    queue
}

fn serve_available(
    queue: &mut ActiveQueue,
    chain: &mut Chain,
    handle: &MemHandle,
    stop: &AtomicBool,
) -> Result<(), MemFault> {
    loop {
        while !stop.load(Ordering::SeqCst) && queue.pop(chain)? {
            let memory = Arc::clone(queue.memory());
            // Looked at as this copy alone.
            let request: Request = chain.reader(&memory).read_obj()?;
            let mut writer = chain.writer(&memory);
            if writer.available() < size_of::<Response>() {
                return Err(MemFault::Length(ShortChain {
                    needed: size_of::<Response>(),
                    available: writer.available(),
                }));
            }
            let outcome = carry_out(&request, handle, &memory);
            let response = Response {
                kind: outcome.response.into(),
                padding: Default::default(),
                state: outcome.state.into(),
            };
            writer.write_obj(&response)?;
            queue.push_used(chain.head(), size_of::<Response>() as u32)?;
        }
        queue.notify()?;
        if stop.load(Ordering::SeqCst) || !queue.enable_kicks()? {
            return Ok(());
        }
    }
}

fn carry_out(request: &Request, handle: &MemHandle, memory: &Memory) -> Outcome {
    let mut guarded = handle.lock();
    let outcome = guarded.region.serve(request);
    // The driver compares `plugged_size` with its own count when it has the answer.
    guarded.publish();
    let surplus = if outcome.given_back.is_empty() || guarded.region.surplus().next().is_none() {
        None
    } else {
        guarded.on_surplus.clone()
    };
    drop(guarded);
    for (start, len) in &outcome.given_back {
        give_back(memory, *start, *len);
    }
    if let Some(hook) = surplus {
        hook();
    }
    outcome
}

/// The host has the memory again before the driver has the answer.
fn give_back(memory: &Memory, start: u64, len: u64) {
    let pieces = memory.get_slices(GuestAddress(start), len as usize);
    for piece in pieces.flatten() {
        if let Err(error) = discard(&piece) {
            log::warn!("memory that the guest has unplugged stays with the pod: {error}");
        }
    }
}
