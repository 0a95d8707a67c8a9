//! Stream connections whose opening frame is on its way.

use std::os::fd::OwnedFd;

use agent_protocol::frame::{FrameDecoder, FrameError, decode_message, encode_frame};
use agent_protocol::proto::stream_open::Stream;
use agent_protocol::proto::{StreamOpen, StreamOpened};
use protobuf::Message;
use rustix::io::Errno;
use rustix::net::SendFlags;

use crate::server::Agent;
use crate::stdio::Direction;

/// A connection to the stream port.
#[derive(Debug)]
pub(crate) struct Opening {
    socket: OwnedFd,
    decoder: FrameDecoder,
}

impl Opening {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            decoder: FrameDecoder::new(),
        }
    }

    /// Reads what there is of the frame; the request once it is whole.
    fn receive(&mut self) -> Result<Option<StreamOpen>, FrameError> {
        while !self.decoder.is_complete() {
            match rustix::io::read(&self.socket, self.decoder.unfilled()) {
                Ok(0) => return Err(FrameError::Truncated),
                Ok(count) => self.decoder.filled(count)?,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(FrameError::Io(error.into())),
            }
        }
        decode_message(&std::mem::take(&mut self.decoder).into_payload()).map(Some)
    }
}

impl Agent {
    /// Goes on with a connection that has something to read.
    pub(crate) fn continue_opening(&mut self, id: u64) {
        let Some(opening) = self.opening.get_mut(&id) else {
            return;
        };
        let request = match opening.receive() {
            Ok(None) => return,
            Ok(Some(request)) => Some(request),
            // Not a host that speaks this protocol: there is nothing to tell it.
            Err(_) => None,
        };
        let Some(Opening { socket, .. }) = self.opening.remove(&id) else {
            return;
        };
        self.poller.remove(&socket);
        let Some(request) = request else { return };
        if request.stream.enum_value_or_default() == Stream::LOCALHOST {
            return self.dial_localhost(request.port, socket);
        }
        let stream = request.stream.enum_value_or(Stream::STREAM_UNSPECIFIED);
        if request.ticket != 0 {
            return self.take_early(request.ticket, stream, socket);
        }
        let process = self
            .containers
            .process(&request.container_id, &request.exec_id);
        match process.map(|process| process.serial()) {
            Ok(serial) => self.attach(serial, stream, &socket),
            Err(refusal) => refuse(&socket, refusal.message),
        }
    }

    /// Makes `socket` a stream of the process with this serial number, or tells why not. A refused stream's
    /// connection is closed after the answer.
    pub(crate) fn attach(&mut self, serial: u64, stream: Stream, socket: &OwnedFd) {
        if let Err(error) = self.try_attach(serial, stream, socket) {
            refuse(socket, error);
        }
        if let Some(process) = self.containers.by_serial(serial) {
            process.start_if_complete();
        }
    }

    fn try_attach(&mut self, serial: u64, stream: Stream, socket: &OwnedFd) -> Result<(), String> {
        let connection = socket.try_clone().map_err(|error| error.to_string())?;
        let process = self.containers.by_serial(serial);
        let process = process.ok_or("the process is gone")?;
        let channels = process.streams().attach(stream, connection)?;
        // Before the first byte of the stream.
        reply(socket, String::new())?;
        for channel in channels {
            let direction = channel.direction();
            let id = self.next_id();
            self.pump
                .add(id, channel, &self.poller)
                .map_err(|error| error.to_string())?;
            if matches!(direction, Direction::PipeIn | Direction::TerminalIn)
                && let Some(process) = self.containers.by_serial(serial)
            {
                process.streams().set_input(id);
            }
        }
        Ok(())
    }
}

/// Sends the answer, which a new connection has room for.
pub(crate) fn reply(socket: &OwnedFd, error: String) -> Result<(), String> {
    let message = StreamOpened {
        error,
        ..Default::default()
    };
    let payload = message
        .write_to_bytes()
        .map_err(|error| error.to_string())?;
    let frame = encode_frame(&payload).map_err(|error| error.to_string())?;
    rustix::net::send(socket, &frame, SendFlags::NOSIGNAL)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Tells the host why there is no stream, and closes what it asked on with the caller's copy.
pub(crate) fn refuse(host: &OwnedFd, reason: String) {
    let _ = reply(host, reason);
}
