//! The host's end.

use std::io::{Read, Write};
use std::os::fd::{IntoRawFd, OwnedFd};

use crate::frame::{self, FrameError};
use crate::proto::{AgentClient, StreamOpen, StreamOpened};

/// Makes a client of a connection to the guest's [`CONTROL_PORT`](crate::CONTROL_PORT), over which no byte
/// has been sent.
///
/// The client's calls block, may be made from several threads at once (it is `Clone`), and close the
/// connection when the last clone is dropped. The first of them must be `hello`.
///
/// # Errors
/// When the client's threads or pipes cannot be created.
pub fn connect(connection: impl Into<OwnedFd>) -> ttrpc::Result<AgentClient> {
    // ttrpc takes the descriptor over and closes it when the client is dropped.
    let client = ttrpc::Client::new(connection.into().into_raw_fd())?;
    Ok(AgentClient::new(client))
}

/// Why a stdio stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStreamError {
    /// The agent does not know or give this stream.
    #[error("agent refused the stream: {reason}")]
    Refused {
        /// The agent's words.
        reason: String,
    },
    /// The connection ended without an answer.
    #[error("agent closed the connection instead of opening the stream")]
    Closed,
    /// The exchange failed.
    #[error("cannot open a stream")]
    Frame(#[from] FrameError),
}

/// Asks for a stream on a new connection to the guest's [`STREAM_PORT`](crate::STREAM_PORT).
///
/// On success the connection carries the stream's bytes and nothing else; no byte of them has been
/// consumed. The end of each direction is a half-close.
///
/// # Errors
/// See [`OpenStreamError`]; the connection is then useless.
pub fn open_stream<C: Read + Write>(
    connection: &mut C,
    stream: &StreamOpen,
) -> Result<(), OpenStreamError> {
    frame::write_message(connection, stream)?;
    await_opened(connection)
}

/// Reads the answer to a [`StreamOpen`] that was written to `connection`.
///
/// # Errors
/// As those of [`open_stream`].
pub fn await_opened(connection: &mut impl Read) -> Result<(), OpenStreamError> {
    match frame::read_message::<StreamOpened, _>(connection)? {
        None => Err(OpenStreamError::Closed),
        Some(answer) if answer.error.is_empty() => Ok(()),
        Some(answer) => Err(OpenStreamError::Refused {
            reason: answer.error,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    fn agent_answers(answer: &'static [u8]) -> Result<(), OpenStreamError> {
        let (mut host, mut agent) = UnixStream::pair().unwrap();
        let agent = thread::spawn(move || {
            frame::read_frame(&mut agent).unwrap();
            agent.write_all(answer).unwrap();
        });
        let result = open_stream(&mut host, &StreamOpen::new());
        agent.join().unwrap();
        result
    }

    #[test]
    fn an_empty_answer_opens_the_stream() {
        agent_answers(&[0, 0, 0, 0]).unwrap();
    }

    #[test]
    fn refusal_end_and_nonsense_are_told_apart() {
        let refused = agent_answers(b"\x06\0\0\0\x0a\x04busy").unwrap_err();
        assert!(matches!(refused, OpenStreamError::Refused { reason } if reason == "busy"));
        assert!(matches!(
            agent_answers(b"").unwrap_err(),
            OpenStreamError::Closed
        ));
        assert!(matches!(
            agent_answers(b"\xff\xff\xff\xff").unwrap_err(),
            OpenStreamError::Frame(FrameError::TooLong { .. })
        ));
    }
}
