//! The one thread of the device: it sleeps in epoll and serves whatever woke it.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{SocketFlags, accept_with};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::connection::{Next, Readiness};
use super::device::VsockFault;
use super::events::Events;
use super::host::UnixBackend;
use super::lobby::{Heard, Lobby};
use super::muxer::{Muxer, Turn, connection_token};
use super::rx::{Delivery, Rx};
use super::stream::HostStream;
use super::tx::Tx;

/// Kinds of tokens, in their upper half.
const KIND: u64 = 0xffff_ffff << 32;
const DEVICE: u64 = 0;
const CALLER: u64 = 1 << 32;
/// A connection; the lower half is its slot.
pub const CONNECTION: u64 = 2 << 32;

const STOP: u64 = DEVICE;
const RX_KICK: u64 = DEVICE + 1;
const TX_KICK: u64 = DEVICE + 2;
const EVENT_KICK: u64 = DEVICE + 3;
const LISTENER: u64 = DEVICE + 4;

/// How exactly time-outs are kept.
const TICK: Duration = Duration::from_millis(500);
/// Packets that are delivered in one pass.
const MAX_DELIVERIES: usize = 256;
/// Events that are taken in one call.
const MAX_EVENTS: usize = 64;

/// What goes on when the driver's side stops and starts: connections, callers, their epoll.
pub struct Hub {
    pub muxer: Muxer<UnixBackend>,
    pub lobby: Lobby,
    pub listener: Arc<UnixListener>,
    pub epoll: Arc<Epoll>,
}

pub struct Worker {
    pub hub: Hub,
    pub rx: Rx,
    pub tx: Tx,
    pub events: Events,
    stop: EventFd,
    is_stopping: bool,
    is_tx_ready: bool,
    is_rx_starved: bool,
    is_listener_ready: bool,
    next_tick: Option<Instant>,
}

impl Worker {
    /// Watches everything.
    pub fn new(hub: Hub, rx: Rx, tx: Tx, events: Events, stop: EventFd) -> io::Result<Self> {
        let worker = Self {
            hub,
            rx,
            tx,
            events,
            stop,
            is_stopping: false,
            is_tx_ready: true,
            is_rx_starved: false,
            is_listener_ready: true,
            next_tick: None,
        };
        match worker.watch() {
            Ok(()) => Ok(worker),
            Err(error) => {
                worker.unwatch();
                Err(error)
            }
        }
    }

    /// What is watched besides streams, and under which token.
    fn descriptors(&self) -> impl Iterator<Item = (RawFd, u64)> {
        [
            Some((self.stop.as_raw_fd(), STOP)),
            Some((self.rx.queue.kick().as_raw_fd(), RX_KICK)),
            Some((self.tx.queue.kick().as_raw_fd(), TX_KICK)),
            self.events
                .kick()
                .map(|kick| (kick.as_raw_fd(), EVENT_KICK)),
            Some((self.hub.listener.as_raw_fd(), LISTENER)),
        ]
        .into_iter()
        .flatten()
    }

    fn watch(&self) -> io::Result<()> {
        // Edge-triggered: a doorbell need not be read, and one that is rung during a pass is not
        // lost.
        let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        for (fd, token) in self.descriptors() {
            let event = EpollEvent::new(events, token);
            self.hub.epoll.ctl(ControlOperation::Add, fd, event)?;
        }
        Ok(())
    }

    /// Takes back what `watch` did: the descriptors' files outlive this worker.
    fn unwatch(&self) {
        for (fd, _) in self.descriptors() {
            let event = EpollEvent::default();
            let _ = self.hub.epoll.ctl(ControlOperation::Delete, fd, event);
        }
    }

    /// Serves until it is told to stop, or until the driver breaks the rules.
    pub fn run(mut self) -> Self {
        let now = Instant::now();
        self.hub.muxer.restart_timers(now);
        self.hub.lobby.restart_timers(now);
        let mut ready = [EpollEvent::default(); MAX_EVENTS];
        while !self.is_stopping {
            if let Err(fault) = self.pass(&mut ready) {
                self.rx.queue.fail(&fault);
                // Nobody will serve them, so nobody should wait for it.
                self.hub.muxer.clear();
                self.hub.lobby = Lobby::default();
                break;
            }
        }
        self.unwatch();
        self
    }

    fn pass(&mut self, ready: &mut [EpollEvent]) -> Result<(), VsockFault> {
        let count = self.sleep(ready)?;
        for event in &ready[..count] {
            self.dispatch(event.data(), event.event_set());
        }
        if self.is_listener_ready {
            self.admit_callers();
        }
        self.events.serve()?;
        if self.is_tx_ready {
            self.is_tx_ready = self.tx.serve(&mut self.hub.muxer)?;
        }
        self.deliver()?;
        self.tx.queue.notify()?;
        self.rx.queue.notify()?;
        self.tick();
        Ok(())
    }

    fn sleep(&mut self, ready: &mut [EpollEvent]) -> Result<usize, VsockFault> {
        let timeout = if self.is_busy() {
            0
        } else if self.next_tick.is_some() {
            TICK.as_millis() as i32
        } else {
            -1
        };
        match self.hub.epoll.wait(timeout, ready) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            other => other.map_err(VsockFault::Wait),
        }
    }

    /// Whether there is something to do that no event will announce.
    fn is_busy(&mut self) -> bool {
        let can_deliver = !self.is_rx_starved && self.hub.muxer.turn().is_some();
        can_deliver || (self.is_tx_ready && self.hub.muxer.has_room())
    }

    fn dispatch(&mut self, token: u64, events: EventSet) {
        let index = (token & !KIND) as u32;
        match token & KIND {
            CONNECTION => self.hub.muxer.report(
                index,
                Readiness {
                    readable: events.intersects(EventSet::IN | EventSet::ERROR),
                    writable: events.contains(EventSet::OUT),
                    ending: events.intersects(EventSet::READ_HANG_UP | EventSet::HANG_UP),
                    hung_up: events.contains(EventSet::HANG_UP),
                },
            ),
            CALLER => self.listen_to(index as usize),
            _ => match token {
                STOP => self.is_stopping = true,
                RX_KICK => self.is_rx_starved = false,
                TX_KICK => self.is_tx_ready = true,
                LISTENER => self.is_listener_ready = true,
                _ => {}
            },
        }
    }

    /// Takes callers from the listener's backlog while there are places.
    fn admit_callers(&mut self) {
        while let Some(place) = self.hub.lobby.free_place() {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let caller = match accept_with(&*self.hub.listener, flags) {
                Ok(caller) => caller,
                Err(rustix::io::Errno::AGAIN) => {
                    self.is_listener_ready = false;
                    return;
                }
                // Out of descriptors, say: again at the next tick or event.
                Err(_) => return,
            };
            let token = CALLER | place as u64;
            if let Ok(stream) = HostStream::new(caller.into(), &self.hub.epoll, token) {
                self.hub.lobby.enter(place, stream, Instant::now());
            }
        }
    }

    fn listen_to(&mut self, place: usize) {
        if let Heard::Port(mut stream, port) = self.hub.lobby.hear(place) {
            // A caller for whom there is no room finds its socket closed.
            let _ = self.hub.muxer.request(port, Instant::now(), |_, slot| {
                stream.set_token(connection_token(slot))?;
                Ok(stream)
            });
        }
    }

    /// Gives the guest what there is for it, everybody in turn.
    fn deliver(&mut self) -> Result<(), VsockFault> {
        if self.is_rx_starved {
            return Ok(());
        }
        let muxer = &mut self.hub.muxer;
        let guest = muxer.guest();
        for _ in 0..MAX_DELIVERIES {
            let Some(turn) = muxer.turn() else {
                return Ok(());
            };
            let delivery = match turn {
                Turn::Stray(stray) => self.rx.control(|| stray.header(guest))?,
                Turn::Connection(slot, next) => match (muxer.connection_mut(slot), next) {
                    (Some(connection), Next::Control { op, flags }) => {
                        let header = || connection.header(guest, op, flags, 0);
                        let delivery = self.rx.control(header)?;
                        if delivery == Delivery::Done {
                            connection.delivered(op, flags);
                        }
                        delivery
                    }
                    (Some(connection), Next::Data { limit, batch }) => {
                        self.rx.data(connection, guest, limit, batch)?
                    }
                    _ => Delivery::Done,
                },
            };
            if delivery == Delivery::Starved {
                self.is_rx_starved = true;
                return Ok(());
            }
            match turn {
                Turn::Stray(_) => muxer.stray_delivered(),
                Turn::Connection(slot, _) => muxer.turn_taken(slot),
            }
        }
        Ok(())
    }

    /// Keeps time for those who must answer in time.
    fn tick(&mut self) {
        let waits =
            self.hub.muxer.is_waiting() || !self.hub.lobby.is_empty() || self.is_listener_ready;
        if !waits {
            self.next_tick = None;
            return;
        }
        let now = Instant::now();
        match self.next_tick {
            Some(at) if now < at => return,
            Some(_) => {
                self.hub.muxer.expire(now);
                self.hub.lobby.expire(now);
            }
            None => {}
        }
        self.next_tick = Some(now + TICK);
    }
}
