//! Host programs that have connected and not yet said which port of the guest they want.
//!
//! They say `CONNECT <port>\n`. The line is looked at before it is taken, so that what a program
//! sends behind it stays in its socket until the guest has accepted.

use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};

use super::stream::HostStream;

/// Most programs in the lobby; further ones wait in the listener's backlog.
pub const CAPACITY: usize = 64;
/// Longest line in bytes, its end included.
const MAX_LINE: usize = 64;
/// How long a program may take for its line.
const LINE_TIMEOUT: Duration = Duration::from_secs(5);

struct Caller {
    stream: HostStream,
    deadline: Instant,
}

/// The lobby.
#[derive(Default)]
pub struct Lobby {
    callers: Vec<Option<Caller>>,
    count: usize,
}

/// What became of a caller.
pub enum Heard {
    /// The line is not complete, or nobody is in that place.
    Nothing,
    /// It wants this port of the guest.
    Port(HostStream, u32),
    /// It went away or said something else; its socket is closed.
    Nonsense,
}

impl Lobby {
    pub fn is_full(&self) -> bool {
        self.count >= CAPACITY
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// A place for a new caller; `None` if there is none.
    pub fn free_place(&mut self) -> Option<usize> {
        if self.is_full() {
            return None;
        }
        let free = self.callers.iter().position(Option::is_none);
        Some(free.unwrap_or_else(|| {
            self.callers.push(None);
            self.callers.len() - 1
        }))
    }

    /// Takes a caller in.
    pub fn enter(&mut self, place: usize, stream: HostStream, now: Instant) {
        if let Some(slot) = self.callers.get_mut(place) {
            *slot = Some(Caller {
                stream,
                deadline: now + LINE_TIMEOUT,
            });
            self.count += 1;
        }
    }

    /// Listens to the caller in `place`.
    pub fn hear(&mut self, place: usize) -> Heard {
        let Some(Some(caller)) = self.callers.get(place) else {
            return Heard::Nothing;
        };
        let heard = read_line(&caller.stream);
        if matches!(heard, Line::Partial) {
            return Heard::Nothing;
        }
        let Some(caller) = self.callers.get_mut(place).and_then(Option::take) else {
            return Heard::Nothing;
        };
        self.count -= 1;
        match heard {
            Line::Port(port) => Heard::Port(caller.stream, port),
            _ => Heard::Nonsense,
        }
    }

    /// Sends callers away whose time is over.
    pub fn expire(&mut self, now: Instant) {
        for place in &mut self.callers {
            if place.as_ref().is_some_and(|caller| caller.deadline <= now) {
                *place = None;
                self.count -= 1;
            }
        }
    }

    /// Starts everybody's time again: nobody listened for a while.
    pub fn restart_timers(&mut self, now: Instant) {
        for caller in self.callers.iter_mut().flatten() {
            caller.deadline = now + LINE_TIMEOUT;
        }
    }
}

enum Line {
    Partial,
    Port(u32),
    Bad,
}

fn read_line(stream: &HostStream) -> Line {
    let mut bytes = [0; MAX_LINE];
    let peek = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let seen = match recv(stream.socket(), &mut bytes[..], peek) {
        Ok((0, _)) => return Line::Bad,
        Ok((len, _)) => len,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Line::Partial,
        Err(_) => return Line::Bad,
    };
    let Some(end) = bytes[..seen].iter().position(|byte| *byte == b'\n') else {
        return if seen < MAX_LINE {
            Line::Partial
        } else {
            Line::Bad
        };
    };
    let Some(port) = parse(&bytes[..end]) else {
        return Line::Bad;
    };
    match recv(stream.socket(), &mut bytes[..=end], RecvFlags::DONTWAIT) {
        Ok((len, _)) if len == end + 1 => Line::Port(port),
        _ => Line::Bad,
    }
}

/// The port in a line without its end.
fn parse(line: &[u8]) -> Option<u32> {
    let digits = line.strip_prefix(b"CONNECT ")?;
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let port = std::str::from_utf8(digits).ok()?.parse().ok()?;
    // VMADDR_PORT_ANY names no port.
    (port != u32::MAX).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_line_is_understood() {
        assert_eq!(parse(b"CONNECT 0"), Some(0));
        assert_eq!(parse(b"CONNECT 1024"), Some(1024));
        assert_eq!(parse(b"CONNECT 4294967294"), Some(u32::MAX - 1));
        for bad in [
            &b"CONNECT 4294967295"[..],
            b"CONNECT 4294967296",
            b"CONNECT ",
            b"CONNECT",
            b"CONNECT +1",
            b"CONNECT -1",
            b"CONNECT 1 ",
            b"CONNECT 0x1",
            b"connect 1",
            b"",
            b"\xff\xfe",
        ] {
            assert_eq!(parse(bad), None, "{}", bad.escape_ascii());
        }
    }
}
