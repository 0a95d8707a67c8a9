//! The transmit queue: frames of the guest to the host.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use super::config::NetConfig;
use super::counters::Counters;
use super::device::NetFault;
use super::frame::Rules;
use super::rx::Rest;
use super::vectors::{NoFrame, Outgoing};
use super::worker::Direction;
use crate::Memory;
use crate::queue::{ActiveQueue, Chain};
use crate::rate::Limiter;

/// Frames in one pass, so that the other direction gets its share.
const MAX_PASS: usize = 128;

pub(super) struct Tx {
    queue: ActiveQueue,
    limiter: Limiter,
    counters: Arc<Counters>,
    chain: Chain,
    frame: Outgoing,
    rules: Rules,
    is_notification_due: bool,
}

/// What became of one frame.
enum Sent {
    /// It is the host's now, or it was dropped.
    Done,
    /// The host has no room for it.
    Full,
}

impl Tx {
    pub fn new(
        parts: Direction,
        config: &NetConfig,
        features: u64,
        counters: Arc<Counters>,
    ) -> Self {
        let Direction { queue, limiter } = parts;
        Self {
            frame: Outgoing::new(Memory::clone(queue.memory())),
            queue,
            limiter,
            counters,
            chain: Chain::new(),
            rules: Rules::new(features, config.mtu),
            is_notification_due: false,
        }
    }

    /// The driver has been given back everything that was taken.
    pub fn into_parts(self) -> Direction {
        Direction {
            queue: self.queue,
            limiter: self.limiter,
        }
    }

    /// Sends frames until there is a reason to rest.
    pub fn serve(&mut self, to: BorrowedFd<'_>) -> Result<Rest, NetFault> {
        let rest = self.send_available(to)?;
        if std::mem::take(&mut self.is_notification_due) {
            self.queue.notify()?;
        }
        Ok(rest)
    }

    fn send_available(&mut self, to: BorrowedFd<'_>) -> Result<Rest, NetFault> {
        self.queue.disable_kicks()?;
        for _ in 0..MAX_PASS {
            if self.limiter.is_limited()
                && let Some(until) = self.limiter.blocked_until(Instant::now())
            {
                return Ok(Rest::Limit(until));
            }
            if !self.queue.pop(&mut self.chain)? {
                if self.queue.enable_kicks()? {
                    continue;
                }
                return Ok(Rest::Source);
            }
            match self.send(to)? {
                Sent::Done => {
                    self.queue.push_used(self.chain.head(), 0)?;
                    self.is_notification_due = true;
                }
                Sent::Full => {
                    self.queue.unpop(1);
                    return Ok(Rest::Sink);
                }
            }
        }
        Ok(Rest::No)
    }

    fn send(&mut self, to: BorrowedFd<'_>) -> Result<Sent, NetFault> {
        let header = match self.frame.load(&self.chain) {
            Ok(header) => header,
            Err(NoFrame::Header { len }) => return Err(NetFault::TxHeader { len }),
            Err(NoFrame::Parts) => {
                self.counters.tx.dropped();
                return Ok(Sent::Done);
            }
        };
        let len = self.frame.len();
        let sent = match self.rules.check(&header, len) {
            Ok(header) => self.frame.write(to, header),
            Err(malformed) => {
                log::debug!("network: a frame of {len} bytes is dropped: {malformed}");
                self.counters.tx.dropped();
                return Ok(Sent::Done);
            }
        };
        match sent {
            Ok(_) => {
                self.counters.tx.passed(len);
                self.limiter.take(len);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Sent::Full),
            // The host's kernel objects to it, or the tap is down or gone: as on a wire, it is lost.
            Err(error) => {
                log::debug!("network: a frame of {len} bytes is lost: {error}");
                self.counters.tx.dropped();
            }
        }
        Ok(Sent::Done)
    }
}
