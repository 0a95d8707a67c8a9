//! The direction from the guest to the host program.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;

use super::{Connection, Payload, Phase, Readiness};
use crate::vsock::spec::SHUTDOWN_SEND;
use crate::vsock::stream::Stream;

impl<S: Stream> Connection<S> {
    /// Passes admitted data on to the stream, keeping back what it does not take.
    pub fn send(&mut self, data: &impl Payload) {
        let mut from = 0;
        if self.backlog.is_empty() {
            while let Some(stream) = &mut self.stream
                && from < data.len()
                && !self.host_deaf
            {
                let buffers = data.buffers(from);
                match stream.send(&buffers) {
                    Ok(sent) => {
                        from += sent;
                        self.window.forward(sent as u32);
                        if sent == 0 || sent < buffers.len() {
                            break;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => self.host_is_deaf(),
                }
            }
        }
        if self.host_deaf || self.stream.is_none() {
            self.window.forward((data.len() - from) as u32);
        } else {
            self.keep(data, from);
        }
    }

    /// Takes over what the stream reports.
    pub fn ready(&mut self, readiness: Readiness) {
        self.readable |= readiness.readable || readiness.ending;
        self.ending |= readiness.ending;
        self.hung_up |= readiness.hung_up;
        if self.hung_up && matches!(self.phase, Phase::Requested { .. }) {
            // Whoever asked has gone away.
            return self.reset();
        }
        if self.hung_up && self.host_eof {
            self.host_is_deaf();
        }
        if readiness.writable || self.hung_up {
            self.flush();
        }
    }

    /// All that the guest sent is taken: the host program gets its end of file.
    pub(super) fn end_sending(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.shutdown(Shutdown::Write);
        }
    }

    pub(super) fn host_is_deaf(&mut self) {
        self.host_deaf = true;
        self.window.forward(self.backlog.len() as u32);
        self.backlog = VecDeque::new();
        self.settle();
    }

    fn keep(&mut self, data: &impl Payload, mut from: usize) {
        let mut chunk = [0; 4096];
        while from < data.len() {
            let buffers = data.buffers(from);
            if buffers.len() == 0 {
                break;
            }
            for piece in buffers.iter() {
                let mut done = 0;
                while done < piece.len() {
                    let Ok(rest) = piece.offset(done) else { break };
                    let len = rest.copy_to(&mut chunk[..]);
                    self.backlog.extend(&chunk[..len]);
                    done += len;
                }
            }
            from += buffers.len();
        }
        if let (Some(stream), false) = (&mut self.stream, self.backlog.is_empty()) {
            stream.watch_writable(true);
        }
    }

    fn flush(&mut self) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        if self.backlog.is_empty() {
            // Only now, so that a stream which blocks again and again is not switched each time.
            stream.watch_writable(false);
            return;
        }
        match flush_into(&mut self.backlog, stream) {
            Ok(sent) => self.window.forward(sent),
            Err(_) => return self.host_is_deaf(),
        }
        if self.backlog.is_empty() {
            self.backlog = VecDeque::new();
            if self.guest_shut & SHUTDOWN_SEND != 0 {
                self.end_sending();
            }
            self.settle();
        }
    }
}

/// Sends as much of `backlog` as `stream` takes.
fn flush_into(backlog: &mut VecDeque<u8>, stream: &mut impl Stream) -> io::Result<u32> {
    let mut total = 0;
    while !backlog.is_empty() {
        let (first, second) = backlog.as_slices();
        match stream.send_bytes(&[IoSlice::new(first), IoSlice::new(second)]) {
            Ok(0) => break,
            Ok(sent) => {
                backlog.drain(..sent);
                total += sent as u32;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}
