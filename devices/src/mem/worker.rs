//! What the thread behind the request queue does.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;
use vm_memory::GuestAddress;

use super::handle::MemHandle;
use super::region::Outcome;
use super::spec::{Request, Response};
use crate::Memory;
use crate::device::{DeviceKind, Threads};
use crate::discard::Discarder;
use crate::queue::{ActiveQueue, Chain, QueueFault, ShortChain};
use crate::worker::Worker;

/// What stops the device until its driver resets it.
#[derive(Debug, Error)]
enum MemFault {
    #[error(transparent)]
    Queue(#[from] QueueFault),
    #[error("a request that is too short, or has no room for its answer: {0}")]
    Length(#[from] ShortChain),
}

pub(super) fn start(
    queue: ActiveQueue,
    handle: MemHandle,
    threads: &Threads,
) -> io::Result<Worker> {
    Worker::start(queue, threads, (DeviceKind::Mem, "virtio-mem"), move || {
        let (mut chain, mut discarder) = (Chain::new(), Discarder::default());
        move |queue: &mut ActiveQueue, stop: &AtomicBool| {
            serve_available(queue, &mut chain, &handle, &mut discarder, stop)
        }
    })
}

fn serve_available(
    queue: &mut ActiveQueue,
    chain: &mut Chain,
    handle: &MemHandle,
    discarder: &mut Discarder,
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
            let outcome = carry_out(&request, handle, &memory, discarder);
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

fn carry_out(
    request: &Request,
    handle: &MemHandle,
    memory: &Memory,
    discarder: &mut Discarder,
) -> Outcome {
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
    // The host has the memory again before the driver has the answer.
    for (start, len) in &outcome.given_back {
        discarder.discard(memory, GuestAddress(*start), *len as usize);
    }
    if let Some(hook) = surplus {
        hook();
    }
    outcome
}
