//! The entropy device (virtio-v1.2 §5.4): one queue of writable buffers, filled from the host's
//! random number generator.
//!
//! A request is served up to [`MAX_REQUEST`] bytes: the driver may offer any amount of memory, and
//! filling it is work that the host does.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use thiserror::Error;

use crate::device::{
    ActivateError, Activation, ActiveDevice, DeviceKind, DeviceState, Stopped, Threads,
    VirtioDevice,
};
use crate::queue::{ActiveQueue, Chain, QueueFault, QueueSize};
use crate::worker::Worker;

/// Most bytes that one request is given.
pub const MAX_REQUEST: usize = 4096;

const QUEUE_SIZES: [QueueSize; 1] = match QueueSize::new(16) {
    Some(size) => [size],
    None => unreachable!(),
};

/// The entropy device.
#[derive(Debug, Default)]
pub struct Rng;

#[derive(Debug, Error)]
enum RngError {
    #[error("the driver set up no request queue")]
    NoQueue,
    #[error("cannot start the worker")]
    Worker(#[source] io::Error),
}

impl VirtioDevice for Rng {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }

    fn queue_sizes(&self) -> &[QueueSize] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> &[u8] {
        &[]
    }

    fn activate(
        self: Box<Self>,
        mut with: Activation,
    ) -> Result<Box<dyn ActiveDevice>, ActivateError> {
        let queue = with.queues.first_mut().and_then(Option::take);
        let started = queue
            .ok_or(RngError::NoQueue)
            .and_then(|queue| start(queue, &with.threads));
        match started {
            Ok(active) => Ok(Box::new(active)),
            Err(error) => Err(ActivateError {
                kind: DeviceKind::Rng,
                device: self,
                source: error.into(),
            }),
        }
    }
}

/// The device while its worker owns the queue.
struct Active(Worker);

fn start(queue: ActiveQueue, threads: &Threads) -> Result<Active, RngError> {
    let who = (DeviceKind::Rng, "virtio-rng");
    let started = Worker::start(queue, threads, who, || {
        let (mut chain, mut bytes) = (Chain::new(), [0u8; MAX_REQUEST]);
        move |queue: &mut ActiveQueue, _: &AtomicBool| {
            serve_available(queue, &mut chain, &mut bytes)
        }
    });
    started.map(Active).map_err(RngError::Worker)
}

impl ActiveDevice for Active {
    fn stop(self: Box<Self>) -> Stopped {
        Stopped {
            device: Box::new(Rng),
            queues: vec![self.0.stop().map(ActiveQueue::save)],
            state: DeviceState {
                kind: DeviceKind::Rng,
                version: 1,
                payload: Vec::new(),
            },
        }
    }
}

fn serve_available(
    queue: &mut ActiveQueue,
    chain: &mut Chain,
    bytes: &mut [u8; MAX_REQUEST],
) -> Result<(), QueueFault> {
    loop {
        while queue.pop(chain)? {
            let memory = Arc::clone(queue.memory());
            let mut writer = chain.writer(&memory);
            let len = writer.available().min(MAX_REQUEST);
            let filled = fill_random(&mut bytes[..len]);
            // It fits: `len` is at most what is available.
            let _ = writer.write_all(&bytes[..filled]);
            let written = u32::try_from(writer.written()).unwrap_or(0);
            queue.push_used(chain.head(), written)?;
        }
        queue.notify()?;
        if !queue.enable_kicks()? {
            return Ok(());
        }
    }
}

/// Fills as much of `bytes` as the host's generator gives; it is never short once it is seeded.
fn fill_random(bytes: &mut [u8]) -> usize {
    rustix::rand::getrandom(bytes, rustix::rand::GetRandomFlags::empty()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::Driver;

    #[test]
    fn a_buffer_is_filled_and_no_two_are_alike() {
        let mut driver = Driver::start(Box::new(Rng), !0);
        let first = driver.request(0, &[], &[64]);
        let second = driver.request(0, &[], &[32, 32]);
        assert_eq!((first.len(), second.len()), (64, 64));
        assert_ne!(first, second);
    }

    #[test]
    fn case_08_a_request_of_any_length_gets_a_bounded_answer() {
        let mut driver = Driver::start(Box::new(Rng), !0);
        let reply = driver.request(0, &[], &[1 << 20, 1 << 20]);
        assert_eq!(reply.len(), MAX_REQUEST);
    }

    #[test]
    fn a_buffer_that_cannot_be_written_comes_back_empty() {
        let mut driver = Driver::start(Box::new(Rng), !0);
        assert!(driver.request(0, &[b"readable"], &[]).is_empty());
        assert_eq!(driver.request(0, &[b"readable"], &[8]).len(), 8);
        assert!(!driver.needs_reset());
    }

    #[test]
    fn case_05_a_reset_while_requests_are_served_leaves_none_behind() {
        let mut driver = Driver::idle(Box::new(Rng));
        // And what holds the driver's ring.
        let idle = Arc::strong_count(driver.memory()) + 1;
        driver.bring_up(!0);
        for _ in 0..50 {
            for _ in 0..16 {
                driver.post_quietly(0, &[], &[MAX_REQUEST as u32]);
            }
            driver.kick(0);
            driver.write(0x70, 0);
            let held = Arc::strong_count(driver.memory());
            assert_eq!(held, idle, "nobody has the memory any more");
            driver.bring_up(!0);
            assert_eq!(driver.poll(0), None, "the new life has no old replies");
            assert_eq!(driver.request(0, &[], &[16]).len(), 16);
        }
    }
}
