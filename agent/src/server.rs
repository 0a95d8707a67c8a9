//! The agent's one thread: everything that happens is an event, handled to its end before the next.
//!
//! Nothing here may block: what takes time is done by a container's own first process, and what the host
//! does not read waits in a bounded buffer. So no lock exists, no order of threads matters, and whoever
//! asks about a process cannot race with its reaping.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use agent_protocol::proto::{AgentEvent, ContainerExited, ExitStatus, Stopping};
use agent_protocol::{CONTROL_PORT, MAX_GRACE_MS, STREAM_PORT};
use rustix::process::{Pid, WaitOptions, WaitStatus};
use rustix::time::ClockId;

use crate::container::{Fate, Registry};
use crate::early::Early;
use crate::events::{Interest, Kind, Poller, Ready, Token};
use crate::job::{Jobs, Subject};
use crate::kmsg::{self, Level};
use crate::lifeline;
use crate::localhost::Dialing;
use crate::opening::Opening;
use crate::rpc::{self, Connection};
use crate::stdio::Pump;
use crate::sys::process::{self, Child};
use crate::transport::Transport;

/// Most control connections, and most streams whose opening frame has not come, at a time.
const MAX_CONNECTIONS: usize = 16;
const MAX_OPENING: usize = 256;
/// How long output may take to be read by the host once all containers have ended.
const DRAIN_TIME: Duration = Duration::from_millis(500);
/// How long killed processes may take to end.
const KILL_TIME: Duration = Duration::from_secs(5);

/// All of the agent's state.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) poller: Poller,
    pub(crate) connections: HashMap<u64, Connection>,
    pub(crate) containers: Registry,
    pub(crate) pump: Pump,
    pub(crate) opening: HashMap<u64, Opening>,
    pub(crate) early: Early,
    pub(crate) dialing: HashMap<u64, Dialing>,
    pub(crate) jobs: Jobs,
    pub(crate) pod_is_set_up: bool,
    /// The first process of the pid namespace that containers may share.
    pub(crate) shared_pids: Option<Child>,
    transport: Transport,
    children: OwnedFd,
    listeners: [OwnedFd; 2],
    lifeline: Option<Connection>,
    stopping: Option<Stop>,
    last_id: u64,
}

/// How far powering off has come.
#[derive(Debug, Clone, Copy)]
enum Stop {
    /// Until the time, containers may end by themselves.
    Grace(Instant),
    /// All were killed and must be gone by the time.
    Killed(Instant),
    /// Their output may be read until the time.
    Draining(Instant),
}

impl Agent {
    /// Listens, then tells the host so.
    pub(crate) fn start(transport: Transport) -> io::Result<Self> {
        let poller = Poller::new()?;
        let control = transport.listen(CONTROL_PORT)?;
        let streams = transport.listen(STREAM_PORT)?;
        poller.add(
            &control,
            Token::new(Kind::ControlListener, 0),
            Interest::Read,
        )?;
        poller.add(
            &streams,
            Token::new(Kind::StreamListener, 0),
            Interest::Read,
        )?;
        let lifeline = lifeline::dial(&transport)?;
        let lifeline = Connection::new(lifeline, Token::new(Kind::Lifeline, 0), &poller)?;
        let children = process::child_events()?;
        poller.add(&children, Token::new(Kind::Children, 0), Interest::Read)?;
        Ok(Self {
            poller,
            connections: HashMap::new(),
            containers: Registry::default(),
            pump: Pump::new(),
            opening: HashMap::new(),
            early: Early::default(),
            dialing: HashMap::new(),
            jobs: Jobs::default(),
            pod_is_set_up: false,
            shared_pids: None,
            transport,
            children,
            listeners: [control, streams],
            lifeline: Some(lifeline),
            stopping: None,
            last_id: 0,
        })
    }

    /// Handles events until the host has asked for the end and nothing is left to wait for.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        loop {
            let until = match self.advance_stop() {
                Some(Step::Stopped) => break,
                Some(Step::WaitUntil(time)) => Some(time),
                None => None,
            };
            let until = until.into_iter().chain(self.early.deadline()).min();
            let timeout = until.map(|time| time.saturating_duration_since(Instant::now()));
            for ready in self.poller.wait(timeout)? {
                self.handle(ready);
            }
            self.expire_early(Instant::now());
        }
        self.flush_sockets();
        Ok(())
    }

    /// A number that names nothing yet.
    pub(crate) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn handle(&mut self, ready: Ready) {
        match ready.kind {
            Kind::Children => self.reap(),
            Kind::ControlListener => self.accept_control(),
            Kind::StreamListener => self.accept_stream(),
            Kind::Connection => {
                let flushed = self
                    .connections
                    .get_mut(&ready.id)
                    .is_none_or(|connection| connection.flush(&self.poller).is_ok());
                if !flushed || !rpc::serve(self, ready.id) {
                    self.disconnect(ready.id);
                }
            }
            Kind::OpeningStream => self.continue_opening(ready.id),
            Kind::Dialing => self.continue_dialing(ready.id),
            Kind::Handshake => self.continue_handshake(ready.id),
            Kind::ChannelSource | Kind::ChannelDestination => {
                self.pump
                    .run(ready.id, ready.kind, ready.failed, &self.poller);
            }
            Kind::Lifeline => self.check_lifeline(),
            Kind::FreezerEvents => self.on_freezer_event(ready.id),
            Kind::MemoryEvents => self.tell_oom_kills(ready.id),
        }
    }

    /// Reaps every child that has ended: what the agent made for containers, and orphans of anybody.
    fn reap(&mut self) {
        // What the descriptor says is only that there is something; signals of one kind merge.
        let _ = rustix::io::read(&self.children, &mut [0; 128]);
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            self.on_exit(pid, exit_status(status));
        }
    }

    fn on_exit(&mut self, pid: Pid, mut status: ExitStatus) {
        if let Some(answer) = self.jobs.on_exit(pid, &status) {
            return rpc::answer(self, answer);
        }
        let Some(serial) = self.containers.serial_by_child(pid) else {
            return;
        };
        // Before it is told that the container, or a process, has ended.
        self.tell_oom_kills(serial);
        let Some((id, exec_id, container)) = self.containers.by_child(pid) else {
            return;
        };
        let mut answers = Vec::new();
        let Some(process) = container.made(exec_id.as_ref()) else {
            return;
        };
        if process.take_messages(&mut answers)
            && let Some(handshake) = process.end_handshake()
        {
            self.poller.remove(&handshake);
        }
        let (told, ticket) = (process.is_made(), process.ticket());
        let given_up = match exec_id {
            None => {
                self.jobs.cancel(Subject::Limits(serial));
                container.give_up_pause("the container ended", &mut answers)
            }
            Some(_) => None,
        };
        let fate = container.on_exit(exec_id.as_ref(), &mut status, &mut answers);
        self.unwatch(given_up.as_ref());
        if fate == Fate::Gone {
            self.forget(id.as_str());
        }
        for answer in answers {
            rpc::answer(self, answer);
        }
        // What it said last may have been that it is ready.
        self.attach_early();
        if !told {
            self.refuse_early(ticket, "the process has ended");
        } else {
            let mut event = AgentEvent::new();
            event.set_container_exited(ContainerExited {
                container_id: id.to_string(),
                exec_id: exec_id.map(|id| id.to_string()).unwrap_or_default(),
                status: Some(status).into(),
                ..Default::default()
            });
            self.tell(&event);
        }
    }

    fn accept_control(&mut self) {
        let Some(socket) = self.accept(0, self.connections.len() < MAX_CONNECTIONS) else {
            return;
        };
        let id = self.next_id();
        if let Ok(connection) =
            Connection::new(socket, Token::new(Kind::Connection, id), &self.poller)
        {
            self.connections.insert(id, connection);
        }
    }

    fn accept_stream(&mut self) {
        let Some(socket) = self.accept(1, self.opening.len() < MAX_OPENING) else {
            return;
        };
        let id = self.next_id();
        let token = Token::new(Kind::OpeningStream, id);
        if self.poller.add(&socket, token, Interest::Read).is_ok() {
            self.opening.insert(id, Opening::new(socket));
        }
    }

    /// Accepts a connection and closes it again if there is no room for it.
    fn accept(&self, listener: usize, has_room: bool) -> Option<OwnedFd> {
        let listener = self.listeners.get(listener)?;
        match self.transport.accept(listener) {
            Ok(socket) => socket.filter(|_| has_room),
            Err(error) => {
                kmsg::log(Level::Warning, &format!("accept: {error}"));
                None
            }
        }
    }

    fn continue_handshake(&mut self, serial: u64) {
        let Some(process) = self.containers.by_serial(serial) else {
            return;
        };
        let mut answers = Vec::new();
        if process.take_messages(&mut answers)
            && let Some(handshake) = process.end_handshake()
        {
            self.poller.remove(&handshake);
        }
        for answer in answers {
            rpc::answer(self, answer);
        }
        self.attach_early();
        self.await_streams(serial);
    }

    /// Closes a control connection. Calls that wait on it go on and are answered to nobody.
    pub(crate) fn disconnect(&mut self, id: u64) {
        if let Some(connection) = self.connections.remove(&id) {
            self.poller.remove(connection.socket());
            self.containers
                .all()
                .for_each(|container| container.forget_waiters(id));
        }
    }

    /// The host does not write on the lifeline; all there can be is its end, with which pods live on.
    fn check_lifeline(&mut self) {
        let Some(lifeline) = &mut self.lifeline else {
            return;
        };
        let alive = lifeline.discard_input() && lifeline.flush(&self.poller).is_ok();
        if !alive {
            self.drop_lifeline();
        } else if !lifeline.is_congested() {
            self.tell_all_oom_kills();
        }
    }

    /// Whether events that were sent have not left the guest yet.
    pub(crate) fn is_lifeline_congested(&self) -> bool {
        self.lifeline.as_ref().is_some_and(Connection::is_congested)
    }

    fn drop_lifeline(&mut self) {
        if let Some(lifeline) = self.lifeline.take() {
            lifeline::forget();
            self.poller.remove(lifeline.socket());
        }
    }

    pub(crate) fn tell(&mut self, event: &AgentEvent) {
        let Some(lifeline) = &mut self.lifeline else {
            return;
        };
        if lifeline
            .send(&lifeline::frame(event), &self.poller)
            .is_err()
        {
            self.drop_lifeline();
        }
    }

    /// Whether the host has asked for the end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// Asks all containers to end; kills those that have not after `grace_ms` milliseconds. Asked again,
    /// it can only become shorter.
    pub(crate) fn begin_stop(&mut self, grace_ms: u32) {
        let grace = Duration::from_millis(grace_ms.min(MAX_GRACE_MS).into());
        let until = Instant::now() + grace;
        if let Some(stop) = &mut self.stopping {
            if let Stop::Grace(before) = stop {
                *stop = Stop::Grace(until.min(*before));
            }
            return;
        }
        for container in self.containers.alive() {
            if let Some(first) = container.made(None) {
                let _ = first.signal(libc::SIGTERM);
            }
        }
        self.stopping = Some(Stop::Grace(until));
        let mut event = AgentEvent::new();
        event.set_stopping(Stopping::new());
        self.tell(&event);
    }

    fn advance_stop(&mut self) -> Option<Step> {
        let now = Instant::now();
        let none_alive = self.containers.alive().next().is_none();
        let stop = match self.stopping? {
            Stop::Grace(_) | Stop::Killed(_) if none_alive => Stop::Draining(now + DRAIN_TIME),
            Stop::Grace(until) if until <= now => {
                self.containers
                    .alive()
                    .for_each(|container| container.kill());
                Stop::Killed(now + KILL_TIME)
            }
            Stop::Killed(until) if until <= now => return Some(Step::Stopped),
            same => same,
        };
        self.stopping = Some(stop);
        match stop {
            Stop::Draining(until) if until <= now || self.pump.is_drained() => Some(Step::Stopped),
            Stop::Grace(until) | Stop::Killed(until) | Stop::Draining(until) => {
                Some(Step::WaitUntil(until))
            }
        }
    }

    /// Lets the last answers leave the guest before it stops.
    fn flush_sockets(&mut self) {
        for connection in self.connections.values_mut().chain(self.lifeline.as_mut()) {
            let _ = connection.flush(&self.poller);
            crate::sys::vsock::wait_until_sent(connection.socket());
        }
    }
}

/// What a stop needs next.
enum Step {
    WaitUntil(Instant),
    Stopped,
}

fn exit_status(status: WaitStatus) -> ExitStatus {
    let now = rustix::time::clock_gettime(ClockId::Realtime);
    let mut exit = ExitStatus::new();
    exit.exited_at_ns = (now.tv_sec as u64).saturating_mul(1_000_000_000) + now.tv_nsec as u64;
    match status.terminating_signal() {
        Some(signal) => exit.set_signal(signal as u32),
        None => exit.set_exit_code(status.exit_status().unwrap_or(0) as u32),
    }
    exit
}
