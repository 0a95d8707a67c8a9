//! One direction of one stream.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::pipe::SpliceFlags;

/// Bytes moved by one system call at most, and before other channels get their turn.
const CHUNK_LEN: usize = 256 * 1024;
const TURN_LEN: usize = 1024 * 1024;

/// Buffer that all channels share for what cannot be spliced, in bytes.
pub(crate) const BUFFER_LEN: usize = 64 * 1024;

/// End of input on a terminal (VEOF's usual value).
const END_OF_TRANSMISSION: u8 = 4;

/// Where the bytes go, and what the end of them is on either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Connection → pipe. At the end the pipe is closed.
    PipeIn,
    /// Pipe → connection. At the end the connection is half-closed.
    PipeOut,
    /// Connection → terminal. At the end the terminal reads an end of file.
    TerminalIn,
    /// Terminal → connection. Its end is the error that a terminal nobody has open gives.
    TerminalOut,
    /// Connection → TCP socket, or the other way. At the end the destination is half-closed.
    Socket,
}

/// What a channel needs to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Bytes, or the end, at the source.
    WaitSource,
    /// Room at the destination.
    WaitDestination,
    /// Nothing: the end was passed on, or one side is gone.
    Finished,
}

/// Moves bytes from a source to a destination; neither blocks.
#[derive(Debug)]
pub(crate) struct Channel {
    source: OwnedFd,
    destination: OwnedFd,
    direction: Direction,
    /// Read and not yet written; at most [`BUFFER_LEN`] bytes, empty while there is room.
    pending: Vec<u8>,
    splices: bool,
    /// Take what is there and then end, instead of waiting for the source's end.
    ending: bool,
}

impl Channel {
    /// Both descriptors must be non-blocking.
    pub(crate) fn new(source: OwnedFd, destination: OwnedFd, direction: Direction) -> Self {
        let splices = direction == Direction::PipeOut;
        Self {
            source,
            destination,
            direction,
            pending: Vec::new(),
            splices,
            ending: false,
        }
    }

    pub(crate) fn source(&self) -> &OwnedFd {
        &self.source
    }

    pub(crate) fn destination(&self) -> &OwnedFd {
        &self.destination
    }

    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }

    /// Makes the source end after what it has now.
    pub(crate) fn end_source(&mut self) {
        self.ending = true;
    }

    /// Moves what can be moved, up to a turn's share.
    pub(crate) fn run(&mut self, buffer: &mut [u8]) -> Progress {
        let mut moved = 0;
        while moved < TURN_LEN {
            let step = if self.splices {
                self.splice()
            } else {
                self.copy(buffer)
            };
            match step {
                Ok(count) => moved += count,
                Err(progress) => return progress,
            }
        }
        if self.pending.is_empty() {
            Progress::WaitSource
        } else {
            Progress::WaitDestination
        }
    }

    /// Moves a chunk within the kernel.
    fn splice(&mut self) -> Result<usize, Progress> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        match rustix::pipe::splice(
            &self.source,
            None,
            &self.destination,
            None,
            CHUNK_LEN,
            flags,
        ) {
            Ok(0) => Err(self.pass_on_end()),
            Ok(count) => Ok(count),
            Err(Errno::INTR) => Ok(0),
            Err(Errno::AGAIN) => self.why_splice_waits(),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                self.splices = false;
                Ok(0)
            }
            Err(_) => Err(Progress::Finished),
        }
    }

    /// splice does not say which side it would have had to wait for.
    fn why_splice_waits(&mut self) -> Result<usize, Progress> {
        let mut fds = [
            PollFd::new(&self.source, PollFlags::IN),
            PollFd::new(&self.destination, PollFlags::OUT),
        ];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        if rustix::event::poll(&mut fds, Some(&now)).is_err() {
            return Ok(0);
        }
        let [source, destination] = fds.map(|fd| !fd.revents().is_empty());
        match (source, destination) {
            (false, _) => Err(Progress::WaitSource),
            (true, false) => Err(Progress::WaitDestination),
            // Both are ready and splice still waits: leave it alone from now on.
            (true, true) => {
                self.splices = false;
                Ok(0)
            }
        }
    }

    /// Moves a chunk through `buffer`.
    fn copy(&mut self, buffer: &mut [u8]) -> Result<usize, Progress> {
        if !self.pending.is_empty() {
            let written = self.write_pending()?;
            self.pending.drain(..written);
            if self.pending.is_empty() {
                self.pending = Vec::new();
            }
            return Ok(written);
        }
        let count = match rustix::io::read(&self.source, &mut *buffer) {
            Ok(0) => return Err(self.pass_on_end()),
            Ok(count) => count,
            Err(Errno::INTR) => return Ok(0),
            Err(Errno::AGAIN) if self.ending => return Err(self.pass_on_end()),
            Err(Errno::AGAIN) => return Err(Progress::WaitSource),
            // All processes have closed the terminal.
            Err(Errno::IO) if self.direction == Direction::TerminalOut => {
                return Err(self.pass_on_end());
            }
            // The other end was reset, which the destination hears of as an end.
            Err(_) if self.direction == Direction::Socket => return Err(self.pass_on_end()),
            Err(_) => return Err(Progress::Finished),
        };
        match rustix::io::write(&self.destination, &buffer[..count]) {
            Ok(written) if written == count => Ok(count),
            Ok(written) => {
                self.pending.extend_from_slice(&buffer[written..count]);
                Ok(written)
            }
            Err(Errno::AGAIN | Errno::INTR) => {
                self.pending.extend_from_slice(&buffer[..count]);
                Err(Progress::WaitDestination)
            }
            Err(_) => Err(Progress::Finished),
        }
    }

    fn write_pending(&self) -> Result<usize, Progress> {
        match rustix::io::write(&self.destination, &self.pending) {
            Ok(written) => Ok(written),
            Err(Errno::INTR) => Ok(0),
            Err(Errno::AGAIN) => Err(Progress::WaitDestination),
            Err(_) => Err(Progress::Finished),
        }
    }

    /// Tells the destination that no more will come. Closing what is left is the owner's part.
    fn pass_on_end(&self) -> Progress {
        // A side that is gone needs no telling, so errors mean nothing here.
        match self.direction {
            Direction::PipeOut | Direction::TerminalOut | Direction::Socket => {
                let _ = rustix::net::shutdown(&self.destination, Shutdown::Write);
            }
            Direction::TerminalIn => {
                let _ = rustix::io::write(&self.destination, &[END_OF_TRANSMISSION]);
            }
            Direction::PipeIn => {}
        }
        Progress::Finished
    }
}
