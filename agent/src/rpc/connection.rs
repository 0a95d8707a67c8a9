//! One connection to the host: a control connection, or the lifeline.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::SendFlags;

use super::Refusal;
use super::codec::{Decoder, Incoming, encode};
use crate::events::{Interest, Poller, Token};

/// Bytes read at once, and the most that may wait to be read by the host.
const READ_LEN: usize = 64 * 1024;
const MAX_OUTPUT_LEN: usize = 1024 * 1024;

/// A connection; its socket does not block.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    token: Token,
    decoder: Decoder,
    output: Vec<u8>,
    waits_to_write: bool,
    /// Hello was answered with success.
    pub(super) greeted: bool,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd, token: Token, poller: &Poller) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        poller.add(&socket, token, Interest::Read)?;
        Ok(Self {
            socket,
            token,
            decoder: Decoder::default(),
            output: Vec::new(),
            waits_to_write: false,
            greeted: false,
        })
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Whether something waits to be sent.
    pub(crate) fn is_congested(&self) -> bool {
        !self.output.is_empty()
    }

    /// Reads once. An error, or false, is the end of the connection.
    pub(super) fn receive(&mut self, incoming: &mut Vec<Incoming>) -> io::Result<bool> {
        let mut bytes = vec![0; READ_LEN];
        match rustix::io::read(&self.socket, bytes.as_mut_slice()) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.decoder.push(&bytes[..count], incoming);
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what asks for nothing. False at the end of the connection.
    pub(crate) fn discard_input(&mut self) -> bool {
        self.receive(&mut Vec::new()).unwrap_or(false)
    }

    /// Answers a call.
    pub(super) fn respond(
        &mut self,
        stream: u32,
        result: Result<Vec<u8>, Refusal>,
        poller: &Poller,
    ) -> io::Result<()> {
        self.output.extend(encode(stream, result));
        self.flush(poller)
    }

    /// Sends bytes that are no response: the lifeline's frames.
    pub(crate) fn send(&mut self, bytes: &[u8], poller: &Poller) -> io::Result<()> {
        self.output.extend_from_slice(bytes);
        self.flush(poller)
    }

    /// Writes what the socket takes, and waits for it to take the rest.
    pub(crate) fn flush(&mut self, poller: &Poller) -> io::Result<()> {
        while !self.output.is_empty() {
            match rustix::net::send(&self.socket, &self.output, SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if self.output.len() <= MAX_OUTPUT_LEN => break,
                Err(error) => return Err(error.into()),
            }
        }
        let waits = !self.output.is_empty();
        if waits != self.waits_to_write {
            let interest = if waits {
                Interest::ReadWrite
            } else {
                Interest::Read
            };
            poller.change(&self.socket, self.token, interest)?;
            self.waits_to_write = waits;
        }
        Ok(())
    }
}
