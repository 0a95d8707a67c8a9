//! The agent's ends of a container's standard streams.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use agent_protocol::proto::Stdio;
use agent_protocol::proto::stream_open::Stream;
use rustix::pipe::PipeFlags;

use super::channel::{Channel, Direction};
use super::pump::ChannelId;

/// Bytes a pipe may hold. Pages are taken as they are filled, so idle pipes cost nothing more.
const PIPE_LEN: usize = 256 * 1024;

/// What the container's first process gets as descriptors 0, 1 and 2.
pub(crate) type ChildEnds = [OwnedFd; 3];

/// One stream.
#[derive(Debug, Default)]
enum Slot {
    /// The container has /dev/null in its place.
    #[default]
    Absent,
    /// The host has not asked for it yet.
    Waiting(OwnedFd),
    /// It has, or it was closed.
    Taken,
}

/// All streams of a container.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    stdin: Slot,
    stdout: Slot,
    stderr: Slot,
    /// Kept beside the channels' copies for changes of its size.
    terminal: Option<OwnedFd>,
    has_terminal: bool,
    terminal_taken: bool,
    /// Where the input goes through, for closing it.
    input: Option<ChannelId>,
    /// What streams name that were opened before the process was there; 0 is none.
    ticket: u64,
}

impl Streams {
    /// Makes the pipes that `stdio` asks for. A terminal comes later, from inside the container.
    pub(crate) fn new(stdio: &Stdio) -> io::Result<(Self, ChildEnds)> {
        let null: OwnedFd = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?
            .into();
        if stdio.tty {
            let streams = Self {
                has_terminal: true,
                ticket: stdio.ticket,
                ..Self::default()
            };
            return Ok((streams, [null.try_clone()?, null.try_clone()?, null]));
        }
        let (stdin, child_in) = match stdio.stdin {
            true => pipe().map(|(read, write)| (Slot::Waiting(write), read))?,
            false => (Slot::Absent, null.try_clone()?),
        };
        let (stdout, child_out) = output(stdio.stdout, &null)?;
        let (stderr, child_err) = output(stdio.stderr, &null)?;
        for slot in [&stdin, &stdout, &stderr] {
            if let Slot::Waiting(fd) = slot {
                rustix::io::ioctl_fionbio(fd, true)?;
            }
        }
        let streams = Self {
            stdin,
            stdout,
            stderr,
            ticket: stdio.ticket,
            ..Self::default()
        };
        Ok((streams, [child_in, child_out, child_err]))
    }

    /// What streams name that were opened earlier.
    pub(crate) fn ticket(&self) -> u64 {
        self.ticket
    }

    /// Takes the master side that the container's first process opened.
    pub(crate) fn set_terminal(&mut self, master: OwnedFd) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&master, true)?;
        self.terminal = Some(master);
        Ok(())
    }

    /// The terminal, for changes of its size.
    pub(crate) fn terminal(&self) -> Option<impl AsFd + '_> {
        self.terminal.as_ref()
    }

    /// Whether the host has attached all that it asked for.
    pub(crate) fn are_attached(&self) -> bool {
        let waits = |slot| matches!(slot, &Slot::Waiting(_));
        let terminal = !self.has_terminal || self.terminal_taken;
        terminal && !waits(&self.stdin) && !waits(&self.stdout) && !waits(&self.stderr)
    }

    /// Makes the channels of `stream` over `connection`. The error is a text for the host.
    pub(crate) fn attach(
        &mut self,
        stream: Stream,
        connection: OwnedFd,
    ) -> Result<Vec<Channel>, String> {
        let channels = self.take(stream, connection)?;
        if self.are_attached() {
            // It has done its work, and numbers of a host that has long been gone may come again.
            self.ticket = 0;
        }
        Ok(channels)
    }

    fn take(&mut self, stream: Stream, connection: OwnedFd) -> Result<Vec<Channel>, String> {
        let (slot, direction) = match stream {
            Stream::STDIN => (&mut self.stdin, Direction::PipeIn),
            Stream::STDOUT => (&mut self.stdout, Direction::PipeOut),
            Stream::STDERR => (&mut self.stderr, Direction::PipeOut),
            Stream::PTY => return self.attach_terminal(connection),
            Stream::LOCALHOST | Stream::STREAM_UNSPECIFIED => {
                return Err("no stream named".to_owned());
            }
        };
        match std::mem::replace(slot, Slot::Taken) {
            Slot::Waiting(pipe) if direction == Direction::PipeIn => {
                Ok(vec![Channel::new(connection, pipe, direction)])
            }
            Slot::Waiting(pipe) => Ok(vec![Channel::new(pipe, connection, direction)]),
            Slot::Taken => Err(format!("{stream:?} is attached already")),
            Slot::Absent => {
                *slot = Slot::Absent;
                Err(format!("the container was created without {stream:?}"))
            }
        }
    }

    fn attach_terminal(&mut self, connection: OwnedFd) -> Result<Vec<Channel>, String> {
        let master = self
            .terminal
            .as_ref()
            .ok_or("the container has no terminal")?;
        if self.terminal_taken {
            return Err("PTY is attached already".to_owned());
        }
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(|error| error.to_string());
        // Each channel registers descriptors of its own.
        let (other_connection, input, output) = (copy(&connection)?, copy(master)?, copy(master)?);
        self.terminal_taken = true;
        Ok(vec![
            Channel::new(other_connection, input, Direction::TerminalIn),
            Channel::new(output, connection, Direction::TerminalOut),
        ])
    }

    /// Remembers which channel carries the input.
    pub(crate) fn set_input(&mut self, id: ChannelId) {
        self.input = Some(id);
    }

    /// Closes an input that was never attached, or names the channel that has to end.
    pub(crate) fn close_input(&mut self) -> Option<ChannelId> {
        if matches!(self.stdin, Slot::Waiting(_)) {
            self.stdin = Slot::Taken;
        }
        self.input.take()
    }

    /// Closes everything that the host has not attached.
    pub(crate) fn close_unattached(&mut self) {
        for slot in [&mut self.stdin, &mut self.stdout, &mut self.stderr] {
            if matches!(slot, Slot::Waiting(_)) {
                *slot = Slot::Taken;
            }
        }
        self.terminal = None;
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // A smaller pipe works as well.
    let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE_LEN);
    Ok((read, write))
}

/// The agent's and the container's end of an output stream.
fn output(wanted: bool, null: &OwnedFd) -> io::Result<(Slot, OwnedFd)> {
    if wanted {
        let (read, write) = pipe()?;
        Ok((Slot::Waiting(read), write))
    } else {
        Ok((Slot::Absent, null.try_clone()?))
    }
}
