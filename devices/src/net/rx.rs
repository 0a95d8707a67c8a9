//! The receive queue: frames of the host into buffers of the guest.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::config::NetConfig;
use super::counters::Counters;
use super::device::NetFault;
use super::spec::{
    ETHERNET_HEADER, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_USO4, F_GUEST_USO6, F_MRG_RXBUF,
    HEADER_SIZE, MAX_FRAME,
};
use super::vectors::{MAX_VECTORS, Received, Room};
use super::worker::Direction;
use crate::Memory;
use crate::queue::{ActiveQueue, Chain};
use crate::rate::Limiter;

/// Frames in one pass, so that the other direction gets its share.
const MAX_PASS: usize = 128;
/// How long buffers that could be too few for a large segment are held back for more of them.
const PATIENCE: Duration = Duration::from_millis(2);

/// Why a direction rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// It does not: there may be more to do at once.
    No,
    /// Nobody gives it frames: until the backend has one, or the driver rings.
    Source,
    /// Nobody takes its frames: until the driver rings, or the backend has room.
    Sink,
    /// The driver's buffers may be too few: until it rings, or until then.
    Few(Instant),
    /// Enough has passed for now: until then.
    Limit(Instant),
}

pub(super) struct Rx {
    queue: ActiveQueue,
    limiter: Limiter,
    counters: Arc<Counters>,
    chain: Chain,
    room: Room,
    used: Vec<(u16, u32)>,
    /// Bytes that the longest frame and its header take.
    wanted: usize,
    /// Buffers that a frame may span.
    max_buffers: usize,
    /// Whether doorbells are allowed: only while a buffer is waited for.
    is_doorbell_on: bool,
    /// Whether the next buffer will ring. With the event index one that was taken has used it up.
    is_doorbell_armed: bool,
    is_notification_due: bool,
}

impl Rx {
    pub fn new(
        parts: Direction,
        config: &NetConfig,
        features: u64,
        counters: Arc<Counters>,
    ) -> Self {
        let large = F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_USO4 | F_GUEST_USO6;
        let frame = if features & large != 0 {
            MAX_FRAME
        } else {
            config.mtu.frame()
        };
        let Direction { queue, limiter } = parts;
        Self {
            room: Room::new(Memory::clone(queue.memory())),
            queue,
            limiter,
            counters,
            chain: Chain::new(),
            used: Vec::with_capacity(MAX_VECTORS),
            wanted: HEADER_SIZE + frame,
            max_buffers: if features & F_MRG_RXBUF != 0 {
                usize::MAX
            } else {
                1
            },
            is_doorbell_on: true,
            is_doorbell_armed: false,
            is_notification_due: false,
        }
    }

    /// Gives back what the driver has not been given.
    pub fn into_parts(mut self) -> Direction {
        self.queue.unpop(self.room.count());
        Direction {
            queue: self.queue,
            limiter: self.limiter,
        }
    }

    /// Delivers frames until there is a reason to rest. `force`: into what buffers there are.
    pub fn serve(&mut self, from: BorrowedFd<'_>, force: bool) -> Result<Rest, NetFault> {
        let rest = self.deliver(from, force)?;
        if std::mem::take(&mut self.is_notification_due) {
            self.queue.notify()?;
        }
        Ok(rest)
    }

    /// Reports `fault` to the driver.
    pub fn fail(&self, fault: &NetFault) {
        self.queue.fail(fault);
    }

    fn deliver(&mut self, from: BorrowedFd<'_>, force: bool) -> Result<Rest, NetFault> {
        for _ in 0..MAX_PASS {
            if self.limiter.is_limited()
                && let Some(until) = self.limiter.blocked_until(Instant::now())
            {
                return Ok(Rest::Limit(until));
            }
            if !self.fill()? {
                if self.room.count() == 0 {
                    return Ok(Rest::Sink);
                }
                if !force {
                    return Ok(Rest::Few(Instant::now() + PATIENCE));
                }
            }
            match self.room.read(from, self.wanted, self.max_buffers) {
                Ok(Received::Frame(len)) if len >= HEADER_SIZE + ETHERNET_HEADER => {
                    self.push(len)?;
                }
                // The end of a stand-in for a tap.
                Ok(Received::Frame(0)) => return Ok(Rest::Source),
                Ok(Received::Frame(_) | Received::TooLong) => self.counters.rx.dropped(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Rest::Source);
                }
                // The tap is down or gone. Its next event, if there is one, leads here again.
                Err(error) => {
                    log::debug!("network: cannot receive: {error}");
                    return Ok(Rest::Source);
                }
            }
        }
        Ok(Rest::No)
    }

    fn push(&mut self, len: usize) -> Result<(), NetFault> {
        let frame = len - HEADER_SIZE;
        self.counters.rx.passed(frame);
        self.limiter.take(frame);
        self.room.take(len, &mut self.used);
        self.queue.push_used_together(&self.used)?;
        self.is_notification_due = true;
        Ok(())
    }

    /// Takes buffers until the longest frame fits; `false` if there are too few.
    fn fill(&mut self) -> Result<bool, NetFault> {
        while !self.is_enough() {
            if self.queue.pop(&mut self.chain)? {
                self.is_doorbell_armed = false;
                let is_writable = self.chain.readable().is_empty();
                if !is_writable || self.room.add(&self.chain).is_err() {
                    let len = self.chain.writer(self.queue.memory()).available();
                    return Err(NetFault::RxBuffer { len });
                }
            } else if self.is_doorbell_armed || !self.arm_doorbell()? {
                return Ok(false);
            }
        }
        if self.is_doorbell_on {
            self.is_doorbell_on = false;
            self.queue.disable_kicks()?;
        }
        Ok(true)
    }

    /// Asks for a doorbell on the next buffer; whether one came in the meantime.
    fn arm_doorbell(&mut self) -> Result<bool, NetFault> {
        self.is_doorbell_on = true;
        self.is_doorbell_armed = true;
        Ok(self.queue.enable_kicks()?)
    }

    fn is_enough(&self) -> bool {
        if self.max_buffers == 1 {
            return self.room.count() > 0;
        }
        // The driver cannot add to a ring that is all here.
        self.room.bytes() >= self.wanted
            || !self.room.has_place()
            || self.room.count() == self.queue.size()
    }
}
