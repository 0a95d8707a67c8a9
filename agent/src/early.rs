//! Streams that come before their process, and processes that wait for their streams.
//!
//! The host says all of it at once, on several connections, so either may be the first: which belong
//! together is told by a ticket. What has no counterpart does not stay.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use agent_protocol::proto::stream_open::Stream;

use crate::opening::refuse;
use crate::server::Agent;

/// Most streams that wait at a time.
const MAX_STREAMS: usize = 256;
/// Most tickets that are remembered because their streams may still come.
const MAX_REFUSED: usize = 256;
/// How long a stream waits for somebody to ask for its process, and a process that is ready for its streams.
const PATIENCE: Duration = Duration::from_secs(10);

/// A stream whose process is not ready.
#[derive(Debug)]
struct Waiting {
    ticket: u64,
    stream: Stream,
    socket: OwnedFd,
    until: Instant,
}

/// All that waits for its counterpart.
#[derive(Debug, Default)]
pub(crate) struct Early {
    streams: Vec<Waiting>,
    /// Processes that are ready but for their streams, by their serial numbers.
    processes: Vec<(u64, Instant)>,
    /// Tickets of processes that could not be made, the last at the end.
    refused: VecDeque<u64>,
}

impl Early {
    /// When something will have waited for too long.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let streams = self.streams.iter().map(|waiting| waiting.until);
        let processes = self.processes.iter().map(|(_, until)| *until);
        streams.chain(processes).min()
    }
}

impl Agent {
    /// Takes a stream whose process may be ready, or is to come.
    pub(crate) fn take_early(&mut self, ticket: u64, stream: Stream, socket: OwnedFd) {
        if self.early.refused.contains(&ticket) {
            return refuse(&socket, "its process could not be made".to_owned());
        }
        if self.early.streams.len() >= MAX_STREAMS {
            return refuse(&socket, format!("{MAX_STREAMS} streams wait for processes"));
        }
        self.early.streams.push(Waiting {
            ticket,
            stream,
            socket,
            until: Instant::now() + PATIENCE,
        });
        self.attach_early();
    }

    /// Attaches the streams whose processes are ready.
    pub(crate) fn attach_early(&mut self) {
        for waiting in std::mem::take(&mut self.early.streams) {
            let process = self.containers.by_ticket(waiting.ticket);
            let ready = process.filter(|process| process.is_ready());
            match ready.map(|process| process.serial()) {
                Some(serial) => self.attach(serial, waiting.stream, &waiting.socket),
                None => self.early.streams.push(waiting),
            }
        }
    }

    /// Turns away the streams of a process that does not come, now and later.
    pub(crate) fn refuse_early(&mut self, ticket: u64, reason: &str) {
        if ticket == 0 {
            return;
        }
        let refused = &mut self.early.refused;
        refused.push_back(ticket);
        while refused.len() > MAX_REFUSED {
            refused.pop_front();
        }
        let streams = &mut self.early.streams;
        for waiting in streams.extract_if(.., |waiting| waiting.ticket == ticket) {
            refuse(&waiting.socket, reason.to_owned());
        }
    }

    /// Gives the process with this serial number time for its streams, if it waits for them.
    pub(crate) fn await_streams(&mut self, serial: u64) {
        let process = self.containers.by_serial(serial);
        if process.is_some_and(|process| process.is_awaiting()) {
            let until = Instant::now() + PATIENCE;
            self.early.processes.push((serial, until));
        }
    }

    /// Gives up what has waited for too long.
    pub(crate) fn expire_early(&mut self, now: Instant) {
        let containers = &mut self.containers;
        let late = |waiting: &mut Waiting| waiting.until <= now;
        let late: Vec<Waiting> = self.early.streams.extract_if(.., late).collect();
        for waiting in late {
            // One that is being made has its own end.
            if containers.by_ticket(waiting.ticket).is_some() {
                self.early.streams.push(Waiting {
                    until: now + PATIENCE,
                    ..waiting
                });
            } else {
                refuse(&waiting.socket, "nobody has asked for its process".into());
            }
        }
        self.early.processes.retain(|(serial, until)| {
            let process = containers.by_serial(*serial);
            let Some(process) = process.filter(|process| process.is_awaiting()) else {
                return false;
            };
            if *until <= now {
                process.fail("its streams were not attached in time".to_owned());
            }
            now < *until
        });
    }
}
