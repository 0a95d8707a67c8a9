//! The thread of one pair of queues: it sleeps in epoll and serves whichever direction can go on.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::backend::NetBackend;
use super::config::NetConfig;
use super::counters::Counters;
use super::device::NetFault;
use super::rx::{Rest, Rx};
use super::tx::Tx;
use crate::queue::ActiveQueue;
use crate::rate::Limiter;

const STOP: u64 = 0;
const RX_KICK: u64 = 1;
const TX_KICK: u64 = 2;
const BACKEND: u64 = 3;
const MAX_EVENTS: usize = 4;

/// What one direction goes on with after a pause.
pub(super) struct Direction {
    pub queue: ActiveQueue,
    pub limiter: Limiter,
}

/// Everything that a worker is given and gives back.
pub(super) struct Parts {
    pub rx: Direction,
    pub tx: Direction,
}

/// What a worker needs to know.
pub(super) struct Terms {
    pub backend: Arc<dyn NetBackend>,
    pub config: NetConfig,
    pub features: u64,
    pub counters: Arc<Counters>,
}

/// Watches what a worker will sleep on.
pub(super) struct Watch {
    epoll: Epoll,
    stop: EventFd,
    backend: RawFd,
    /// What is asked of the backend at present.
    interest: EventSet,
}

impl Watch {
    pub fn new(parts: &Parts, terms: &Terms, stop: EventFd) -> io::Result<Self> {
        let this = Self {
            epoll: Epoll::new()?,
            backend: terms.backend.as_fd().as_raw_fd(),
            stop,
            interest: EventSet::IN,
        };
        let backend = EventSet::IN | EventSet::EDGE_TRIGGERED;
        this.control(ControlOperation::Add, this.backend, backend, BACKEND)?;
        // Edge-triggered: a doorbell need not be read, and one that is rung during a pass is not
        // lost.
        for (fd, token) in [
            (this.stop.as_raw_fd(), STOP),
            (parts.rx.queue.kick().as_raw_fd(), RX_KICK),
            (parts.tx.queue.kick().as_raw_fd(), TX_KICK),
        ] {
            let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
            this.control(ControlOperation::Add, fd, events, token)?;
        }
        Ok(this)
    }

    /// Asks for events of the backend that somebody waits for. A direction that rests for another
    /// reason is not woken for each frame that arrives meanwhile.
    fn set_interest(&mut self, interest: EventSet) -> io::Result<()> {
        if interest != self.interest {
            let events = interest | EventSet::EDGE_TRIGGERED;
            self.control(ControlOperation::Modify, self.backend, events, BACKEND)?;
            self.interest = interest;
        }
        Ok(())
    }

    fn control(
        &self,
        operation: ControlOperation,
        fd: RawFd,
        events: EventSet,
        token: u64,
    ) -> io::Result<()> {
        self.epoll
            .ctl(operation, fd, EpollEvent::new(events, token))
    }
}

struct Worker {
    backend: Arc<dyn NetBackend>,
    rx: Rx,
    tx: Tx,
    watch: Watch,
    rx_rest: Rest,
    tx_rest: Rest,
    is_rx_forced: bool,
    is_stopping: bool,
}

/// Serves until it is told to stop, or until the driver breaks the rules.
pub(super) fn run(parts: Parts, watch: Watch, terms: Terms) -> Parts {
    let Terms {
        backend,
        config,
        features,
        counters,
    } = terms;
    let mut worker = Worker {
        backend,
        rx: Rx::new(parts.rx, &config, features, Arc::clone(&counters)),
        tx: Tx::new(parts.tx, &config, features, counters),
        watch,
        rx_rest: Rest::No,
        tx_rest: Rest::No,
        is_rx_forced: false,
        is_stopping: false,
    };
    while !worker.is_stopping {
        if let Err(fault) = worker.pass() {
            worker.rx.fail(&fault);
            break;
        }
    }
    Parts {
        rx: worker.rx.into_parts(),
        tx: worker.tx.into_parts(),
    }
}

impl Worker {
    fn pass(&mut self) -> Result<(), NetFault> {
        self.sleep()?;
        if self.rx_rest == Rest::No {
            let force = std::mem::take(&mut self.is_rx_forced);
            self.rx_rest = self.rx.serve(self.backend.as_fd(), force)?;
        }
        if self.tx_rest == Rest::No {
            self.tx_rest = self.tx.serve(self.backend.as_fd())?;
        }
        let mut interest = EventSet::empty();
        interest.set(
            EventSet::IN,
            matches!(self.rx_rest, Rest::No | Rest::Source),
        );
        interest.set(EventSet::OUT, self.tx_rest == Rest::Sink);
        self.watch.set_interest(interest).map_err(NetFault::Wait)
    }

    fn sleep(&mut self) -> Result<(), NetFault> {
        let mut ready = [EpollEvent::default(); MAX_EVENTS];
        let count = match self.watch.epoll.wait(self.timeout(), &mut ready) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            other => other.map_err(NetFault::Wait)?,
        };
        for event in &ready[..count] {
            match event.data() {
                STOP => self.is_stopping = true,
                RX_KICK => wake(&mut self.rx_rest, |rest| {
                    matches!(rest, Rest::Sink | Rest::Few(_))
                }),
                TX_KICK => wake(&mut self.tx_rest, |rest| rest == Rest::Source),
                BACKEND => {
                    let events = event.event_set();
                    if events.intersects(EventSet::IN | EventSet::ERROR | EventSet::HANG_UP) {
                        wake(&mut self.rx_rest, |rest| rest == Rest::Source);
                    }
                    if events.intersects(EventSet::OUT | EventSet::ERROR | EventSet::HANG_UP) {
                        wake(&mut self.tx_rest, |rest| rest == Rest::Sink);
                    }
                }
                _ => {}
            }
        }
        self.wake_by_time();
        Ok(())
    }

    /// Milliseconds until a direction goes on by itself, rounded up; -1 for never.
    fn timeout(&self) -> i32 {
        let mut until: Option<Instant> = None;
        for rest in [self.rx_rest, self.tx_rest] {
            match rest {
                Rest::No => return 0,
                Rest::Few(at) | Rest::Limit(at) => {
                    until = Some(until.map_or(at, |other| other.min(at)));
                }
                Rest::Source | Rest::Sink => {}
            }
        }
        until.map_or(-1, |at| {
            let left = at.saturating_duration_since(Instant::now());
            i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
        })
    }

    fn wake_by_time(&mut self) {
        let timed = |rest| matches!(rest, Rest::Few(_) | Rest::Limit(_));
        if !timed(self.rx_rest) && !timed(self.tx_rest) {
            return;
        }
        let now = Instant::now();
        self.is_rx_forced |= matches!(self.rx_rest, Rest::Few(at) if at <= now);
        for rest in [&mut self.rx_rest, &mut self.tx_rest] {
            wake(rest, |rest| match rest {
                Rest::Few(at) | Rest::Limit(at) => at <= now,
                _ => false,
            });
        }
    }
}

fn wake(rest: &mut Rest, is_it: impl Fn(Rest) -> bool) {
    if is_it(*rest) {
        *rest = Rest::No;
    }
}
