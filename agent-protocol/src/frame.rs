//! Frames: a little-endian `u32` length, then that many bytes of a protobuf message.
//!
//! The length is checked before anything is allocated, so a peer costs at most [`MAX_FRAME_LEN`] bytes of
//! memory per connection.

use std::io::{self, ErrorKind, Read, Write};

use protobuf::Message;

/// Largest payload of a frame in bytes.
pub const MAX_FRAME_LEN: usize = 64 * 1024;

const HEADER_LEN: usize = 4;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer announced more than a frame may hold, or the caller wants to send more.
    #[error("frame of {len} bytes, at most {MAX_FRAME_LEN} are allowed")]
    TooLong {
        /// Announced length in bytes.
        len: usize,
    },
    /// The connection ended inside a frame.
    #[error("connection closed inside a frame")]
    Truncated,
    /// The payload is no message of the expected type.
    #[error("malformed frame")]
    Malformed(#[source] protobuf::Error),
    /// Reading or writing failed.
    #[error("frame input/output failed")]
    Io(#[from] io::Error),
}

/// Reads one frame; `None` when the connection ended before it.
///
/// # Errors
/// See [`FrameError`]; after one, the position in the stream is undefined.
pub fn read_frame<R: Read>(reader: &mut R) -> Result<Option<Vec<u8>>, FrameError> {
    let mut decoder = FrameDecoder::new();
    while !decoder.is_complete() {
        match reader.read(decoder.unfilled()) {
            Ok(0) if decoder.is_empty() => return Ok(None),
            Ok(0) => return Err(FrameError::Truncated),
            Ok(count) => decoder.filled(count)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(FrameError::Io(error)),
        }
    }
    Ok(Some(decoder.into_payload()))
}

/// Writes `payload` as one frame, in one call where the writer takes it all.
///
/// # Errors
/// [`FrameError::TooLong`] before anything is written, or the writer's error.
pub fn write_frame<W: Write>(writer: &mut W, payload: &[u8]) -> Result<(), FrameError> {
    writer.write_all(&encode_frame(payload)?)?;
    Ok(())
}

/// `payload` with its header.
///
/// # Errors
/// [`FrameError::TooLong`].
pub fn encode_frame(payload: &[u8]) -> Result<Vec<u8>, FrameError> {
    if payload.len() > MAX_FRAME_LEN {
        return Err(FrameError::TooLong { len: payload.len() });
    }
    let mut frame = Vec::with_capacity(HEADER_LEN + payload.len());
    // Cannot truncate: MAX_FRAME_LEN is far below u32::MAX.
    frame.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    frame.extend_from_slice(payload);
    Ok(frame)
}

/// Reads one frame as a message; `None` when the connection ended before it.
///
/// # Errors
/// See [`FrameError`].
pub fn read_message<M: Message, R: Read>(reader: &mut R) -> Result<Option<M>, FrameError> {
    match read_frame(reader)? {
        None => Ok(None),
        Some(payload) => decode_message(&payload).map(Some),
    }
}

/// Writes `message` as one frame.
///
/// # Errors
/// See [`FrameError`].
pub fn write_message<M: Message, W: Write>(writer: &mut W, message: &M) -> Result<(), FrameError> {
    write_frame(
        writer,
        &message.write_to_bytes().map_err(FrameError::Malformed)?,
    )
}

/// Parses a frame's payload.
///
/// # Errors
/// [`FrameError::Malformed`].
pub fn decode_message<M: Message>(payload: &[u8]) -> Result<M, FrameError> {
    M::parse_from_bytes(payload).map_err(FrameError::Malformed)
}

/// One frame that arrives in pieces, for ends that must not block.
///
/// It never asks for more bytes than its frame has left, so what follows the frame stays in the
/// connection.
#[derive(Debug)]
pub struct FrameDecoder {
    bytes: Vec<u8>,
    filled: usize,
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameDecoder {
    /// Waits for a header.
    pub fn new() -> Self {
        Self {
            bytes: vec![0; HEADER_LEN],
            filled: 0,
        }
    }

    /// Where the next bytes belong; empty when the frame is complete.
    pub fn unfilled(&mut self) -> &mut [u8] {
        &mut self.bytes[self.filled..]
    }

    /// Takes note of `count` bytes that were put at the start of [`unfilled`](Self::unfilled); a larger
    /// count than that holds is taken as all of it.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] once the header is there.
    pub fn filled(&mut self, count: usize) -> Result<(), FrameError> {
        let had_header = self.filled >= HEADER_LEN;
        self.filled = self.filled.saturating_add(count).min(self.bytes.len());
        if !had_header && let Some(len) = self.announced() {
            if len > MAX_FRAME_LEN {
                return Err(FrameError::TooLong { len });
            }
            self.bytes.resize(HEADER_LEN + len, 0);
        }
        Ok(())
    }

    /// Whether no byte has come yet.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Whether header and payload are there.
    pub fn is_complete(&self) -> bool {
        self.announced().is_some() && self.filled == self.bytes.len()
    }

    /// The payload; zeroes where bytes have not come.
    pub fn into_payload(mut self) -> Vec<u8> {
        self.bytes.split_off(HEADER_LEN)
    }

    fn announced(&self) -> Option<usize> {
        let header = self.bytes.first_chunk::<HEADER_LEN>()?;
        (self.filled >= HEADER_LEN).then(|| u32::from_le_bytes(*header) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{AgentEvent, StreamOpen};

    /// Gives its bytes one at a time, as a slow connection may.
    struct Dribble<'a>(&'a [u8]);

    impl Read for Dribble<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let count = self.0.len().min(buf.len()).min(1);
            buf[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn frames_survive_being_torn() {
        let mut wire = Vec::new();
        for len in [0, 1, 5, 4096, MAX_FRAME_LEN] {
            write_frame(&mut wire, &vec![len as u8; len]).unwrap();
        }
        let mut reader = Dribble(&wire);
        for len in [0, 1, 5, 4096, MAX_FRAME_LEN] {
            assert_eq!(read_frame(&mut reader).unwrap(), Some(vec![len as u8; len]));
        }
        assert_eq!(read_frame(&mut reader).unwrap(), None);
    }

    #[test]
    fn nothing_is_read_past_a_frame() {
        let mut wire = Vec::new();
        write_frame(&mut wire, b"open").unwrap();
        wire.extend_from_slice(b"raw bytes");
        let mut reader = wire.as_slice();
        assert_eq!(
            read_frame(&mut reader).unwrap().as_deref(),
            Some(&b"open"[..])
        );
        assert_eq!(reader, b"raw bytes");
    }

    #[test]
    fn a_lying_length_is_refused_before_allocation() {
        for len in [MAX_FRAME_LEN as u32 + 1, u32::MAX] {
            let wire = len.to_le_bytes();
            let error = read_frame(&mut wire.as_slice()).unwrap_err();
            assert!(matches!(error, FrameError::TooLong { len: got } if got == len as usize));
        }
        assert!(matches!(
            encode_frame(&vec![0; MAX_FRAME_LEN + 1]),
            Err(FrameError::TooLong { .. })
        ));
    }

    #[test]
    fn an_end_inside_a_frame_is_an_error() {
        let wire = encode_frame(b"payload").unwrap();
        for end in 1..wire.len() {
            let error = read_frame(&mut &wire[..end]).unwrap_err();
            assert!(
                matches!(error, FrameError::Truncated),
                "cut at {end}: {error}"
            );
        }
    }

    #[test]
    fn no_payload_panics_the_parser() {
        // Every one- and two-byte payload, then longer ones from a small generator.
        for a in 0..=255u8 {
            let _ = decode_message::<AgentEvent>(&[a]);
            for b in 0..=255u8 {
                let _ = decode_message::<StreamOpen>(&[a, b]);
            }
        }
        let mut seed = 1u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let bytes = seed.to_le_bytes();
            let _ = decode_message::<AgentEvent>(&bytes[..(seed >> 61) as usize + 1]);
            let _ = decode_message::<StreamOpen>(&bytes);
        }
    }

    #[test]
    fn a_decoder_told_too_much_stays_in_bounds() {
        let mut decoder = FrameDecoder::new();
        decoder.filled(usize::MAX).unwrap();
        assert!(decoder.is_complete());
        assert!(decoder.unfilled().is_empty());
        assert!(decoder.into_payload().is_empty());
    }
}
