//! Waiting for many descriptors at once.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

/// Events taken from the kernel at once.
const BATCH_LEN: usize = 32;

/// What a descriptor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Children,
    ControlListener,
    StreamListener,
    Connection,
    OpeningStream,
    Dialing,
    Handshake,
    ChannelSource,
    ChannelDestination,
    Lifeline,
    FreezerEvents,
    MemoryEvents,
}

const KINDS: [Kind; 12] = [
    Kind::Children,
    Kind::ControlListener,
    Kind::StreamListener,
    Kind::Connection,
    Kind::OpeningStream,
    Kind::Dialing,
    Kind::Handshake,
    Kind::ChannelSource,
    Kind::ChannelDestination,
    Kind::Lifeline,
    Kind::FreezerEvents,
    Kind::MemoryEvents,
];

/// Kind and number of a descriptor's owner. Numbers are never used twice, so an event that was taken from
/// the kernel before its owner went away finds nobody instead of somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token(u64);

const ID_BITS: u32 = 56;

impl Token {
    pub(crate) fn new(kind: Kind, id: u64) -> Self {
        Self((kind as u64) << ID_BITS | id)
    }

    fn split(self) -> Option<(Kind, u64)> {
        let kind = KINDS.get((self.0 >> ID_BITS) as usize)?;
        Some((*kind, self.0 & ((1 << ID_BITS) - 1)))
    }
}

/// What to wait for. Errors and hang-ups are always told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    Read,
    Write,
    ReadWrite,
    Errors,
    /// Of a file that the kernel writes, since it was last read.
    Change,
}

impl Interest {
    fn flags(self) -> EventFlags {
        match self {
            Self::Read => EventFlags::IN,
            Self::Write => EventFlags::OUT,
            Self::ReadWrite => EventFlags::IN | EventFlags::OUT,
            Self::Errors => EventFlags::empty(),
            Self::Change => EventFlags::PRI,
        }
    }
}

/// Something happened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) kind: Kind,
    pub(crate) id: u64,
    /// The descriptor has an error or hung up.
    pub(crate) failed: bool,
}

/// An epoll instance, level-triggered.
#[derive(Debug)]
pub(crate) struct Poller(OwnedFd);

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Starts waiting for `fd`. Closing the last copy of it ends that.
    pub(crate) fn add(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(
            &self.0,
            fd,
            EventData::new_u64(token.0),
            interest.flags(),
        )?)
    }

    /// Waits for something else of `fd`.
    pub(crate) fn change(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(
            &self.0,
            fd,
            EventData::new_u64(token.0),
            interest.flags(),
        )?)
    }

    /// Stops waiting for `fd`.
    pub(crate) fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.0, fd);
    }

    /// Waits for events, for `timeout` at most; none is a matter of time or of a signal.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<Ready>> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let mut events: Vec<Event> = Vec::with_capacity(BATCH_LEN);
        match epoll::wait(
            &self.0,
            rustix::buffer::spare_capacity(&mut events),
            timeout.as_ref(),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let failures = EventFlags::ERR | EventFlags::HUP;
        let ready = events.into_iter().filter_map(|event| {
            let (flags, data) = (event.flags, event.data);
            let (kind, id) = Token(data.u64()).split()?;
            Some(Ready {
                kind,
                id,
                failed: flags.intersects(failures),
            })
        });
        Ok(ready.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_whole() {
        for kind in KINDS {
            assert_eq!(Token::new(kind, 12345).split(), Some((kind, 12345)));
        }
        assert_eq!(Token(u64::MAX).split(), None);
    }
}
