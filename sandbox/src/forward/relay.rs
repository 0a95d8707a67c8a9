//! Bytes of two connected sockets, each to the other, until both directions have ended.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

/// Bytes that are on their way in each direction.
const BUFFER: usize = 32 * 1024;

/// Carries bytes between `a` and `b`, and the end of each direction as a half-close, until both have ended
/// or `quit` is readable.
///
/// # Errors
/// When a connection is broken.
pub(super) fn relay(a: impl AsFd, b: impl AsFd, quit: &OwnedFd) -> io::Result<()> {
    let (a, b) = (a.as_fd(), b.as_fd());
    let mut there = Way::new(a, b);
    let mut back = Way::new(b, a);
    loop {
        there.advance()?;
        back.advance()?;
        if there.has_ended && back.has_ended {
            return Ok(());
        }
        let mut set = [
            PollFd::new(quit, PollFlags::IN),
            interest(a, &there, &back, quit),
            interest(b, &back, &there, quit),
        ];
        rustix::io::retry_on_intr(|| poll(&mut set, None))?;
        if !set[0].revents().is_empty() {
            return Ok(());
        }
        // Who has said its last word and is gone hears nothing any more either.
        let gone = PollFlags::HUP | PollFlags::ERR;
        back.has_ended |= there.is_at_end && set[1].revents().intersects(gone);
        there.has_ended |= back.is_at_end && set[2].revents().intersects(gone);
    }
}

/// What is waited for of a socket that `out` reads and `into` writes.
fn interest<'a>(
    socket: BorrowedFd<'a>,
    out: &Way<'_>,
    into: &Way<'_>,
    nothing: &'a OwnedFd,
) -> PollFd<'a> {
    let mut events = PollFlags::empty();
    if !out.is_at_end && !out.has_ended && out.pending().is_empty() {
        events |= PollFlags::IN;
    }
    if !into.has_ended && !into.pending().is_empty() {
        events |= PollFlags::OUT;
    }
    let listens = out.is_at_end && !into.has_ended;
    if events.is_empty() && !listens {
        // A hang-up that changes nothing would be told again and again.
        return PollFd::new(nothing, PollFlags::empty());
    }
    PollFd::from_borrowed_fd(socket, events)
}

/// One direction.
struct Way<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    buffer: Box<[u8]>,
    sent: usize,
    received: usize,
    /// Nothing more comes.
    is_at_end: bool,
    /// Nothing more is to be done: all of it went, or nobody is there to take it.
    has_ended: bool,
}

impl<'a> Way<'a> {
    fn new(from: BorrowedFd<'a>, to: BorrowedFd<'a>) -> Self {
        Self {
            from,
            to,
            buffer: vec![0; BUFFER].into(),
            sent: 0,
            received: 0,
            is_at_end: false,
            has_ended: false,
        }
    }

    fn pending(&self) -> &[u8] {
        &self.buffer[self.sent..self.received]
    }

    /// Does what can be done without waiting; at most a buffer, so that the other direction has its turn.
    fn advance(&mut self) -> io::Result<()> {
        if self.has_ended {
            return Ok(());
        }
        if self.pending().is_empty() && !self.is_at_end {
            self.receive()?;
        }
        if !self.pending().is_empty() {
            self.send()?;
        }
        if self.is_at_end && self.pending().is_empty() && !self.has_ended {
            // It fails where the other end is gone already.
            let _ = shutdown(self.to, Shutdown::Write);
            self.has_ended = true;
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<()> {
        match recv(self.from, &mut *self.buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.is_at_end = true,
            Ok((count, _)) => (self.sent, self.received) = (0, count),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match send(self.to, self.pending(), flags) {
            Ok(count) => self.sent += count,
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            // What it has said before it went may still be to be read.
            Err(Errno::PIPE | Errno::CONNRESET) => self.has_ended = true,
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }
}
