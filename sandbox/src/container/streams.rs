//! The streams of a process, asked for before it is made.

use std::hash::{BuildHasher, RandomState};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use agent_protocol::proto::stream_open::Stream;
use agent_protocol::proto::{self, StreamOpen};

use super::error::ContainerError;
use crate::guest::{AskedStream, CALL_TIMEOUT, Guest};
use crate::oci::Stdio;

/// The host's ends of a process's standard streams.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub stdin: Option<UnixStream>,
    pub stdout: Option<UnixStream>,
    pub stderr: Option<UnixStream>,
}

/// Streams that the agent was asked for and has not been waited for.
#[derive(Debug)]
pub(super) struct AskedStreams {
    stdio: proto::Stdio,
    asked: Vec<(Stream, AskedStream)>,
}

impl AskedStreams {
    /// Asks for all of them at once. The call that makes their process, with [`stdio`](Self::stdio), may be
    /// sent at once as well.
    pub fn ask(guest: &Guest, stdio: Stdio) -> Result<Self, ContainerError> {
        let wire = proto::Stdio {
            ticket: new_ticket(),
            ..stdio.to_wire()
        };
        let ask = |stream: Stream| {
            let request = StreamOpen {
                stream: stream.into(),
                ticket: wire.ticket,
                ..Default::default()
            };
            let asked = guest.ask_for_stream(&request);
            Ok((stream, asked.map_err(ContainerError::Connect)?))
        };
        let asked: Result<_, ContainerError> = wanted(&wire).into_iter().map(ask).collect();
        Ok(Self {
            asked: asked?,
            stdio: wire,
        })
    }

    /// As the agent is told of them.
    pub fn stdio(&self) -> proto::Stdio {
        self.stdio.clone()
    }

    /// Waits for them.
    pub fn opened(self) -> Result<Streams, ContainerError> {
        let until = Instant::now() + CALL_TIMEOUT;
        let mut streams = Streams::default();
        for (stream, asked) in self.asked {
            let opened = asked.opened(until)?;
            match stream {
                Stream::STDIN => streams.stdin = Some(opened),
                Stream::STDERR => streams.stderr = Some(opened),
                Stream::PTY => {
                    let input = opened.try_clone().map_err(ContainerError::Connect)?;
                    streams.stdin = Some(input);
                    streams.stdout = Some(opened);
                }
                _ => streams.stdout = Some(opened),
            }
        }
        Ok(streams)
    }
}

fn wanted(stdio: &proto::Stdio) -> Vec<Stream> {
    if stdio.tty {
        return vec![Stream::PTY];
    }
    let pipes = [
        (stdio.stdin, Stream::STDIN),
        (stdio.stdout, Stream::STDOUT),
        (stdio.stderr, Stream::STDERR),
    ];
    let wanted = pipes.into_iter().filter(|(wanted, _)| *wanted);
    wanted.map(|(_, stream)| stream).collect()
}

/// A number that no other process of the guest has: not even of a guest that was saved and outlives its host.
fn new_ticket() -> u64 {
    RandomState::new().hash_one(()).max(1)
}
