//! ttrpc's messages, from and to bytes.
//!
//! A header of ten bytes (length and stream as big-endian `u32`, type, flags), then a protobuf `Request`
//! or `Response`. The `ttrpc` crate's own server has at least seven threads per connection, an unbounded
//! queue and no say in who connects; the agent has one thread, so it speaks the protocol itself.

use agent_protocol::MAX_SPEC_LEN;
use protobuf::Message;
use ttrpc::proto::{MESSAGE_HEADER_LENGTH, MESSAGE_TYPE_REQUEST, MESSAGE_TYPE_RESPONSE};
use ttrpc::{MessageHeader, Request, Response};

use super::Refusal;

/// Largest request in bytes: the largest configuration and all that may come with it.
pub(super) const MAX_REQUEST_LEN: usize = MAX_SPEC_LEN + 64 * 1024;

/// Something the host sent.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    Request {
        stream: u32,
        request: Request,
    },
    /// To be answered with an error.
    Bad {
        stream: u32,
        refusal: Refusal,
    },
}

/// Puts a connection's bytes together to messages. Holds at most one message of the largest size.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    buffer: Vec<u8>,
    /// Bytes still to come of a message that is too long.
    skip: usize,
}

impl Decoder {
    /// Takes what was read; the messages that it completes are appended to `incoming`.
    pub(super) fn push(&mut self, mut bytes: &[u8], incoming: &mut Vec<Incoming>) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        bytes = &bytes[skipped..];
        self.buffer.extend_from_slice(bytes);
        while let Some(message) = self.next() {
            incoming.extend(message);
        }
    }

    /// One message from the buffer; the inner `None` is one that asks for nothing.
    fn next(&mut self) -> Option<Option<Incoming>> {
        let header = MessageHeader::from(self.buffer.get(..MESSAGE_HEADER_LENGTH)?);
        let (stream, len) = (header.stream_id, header.length as usize);
        if len > MAX_REQUEST_LEN {
            let here = (self.buffer.len() - MESSAGE_HEADER_LENGTH).min(len);
            self.buffer.drain(..MESSAGE_HEADER_LENGTH + here);
            self.skip = len - here;
            let text = format!("request of {len} bytes, at most {MAX_REQUEST_LEN} are allowed");
            return Some(Some(Incoming::Bad {
                stream,
                refusal: Refusal::exhausted(text),
            }));
        }
        let end = MESSAGE_HEADER_LENGTH + len;
        let payload = self.buffer.get(MESSAGE_HEADER_LENGTH..end)?;
        let incoming = (header.type_ == MESSAGE_TYPE_REQUEST).then(|| {
            match Request::parse_from_bytes(payload) {
                Ok(request) => Incoming::Request { stream, request },
                Err(error) => Incoming::Bad {
                    stream,
                    refusal: Refusal::invalid(error),
                },
            }
        });
        self.buffer.drain(..end);
        if self.buffer.is_empty() {
            self.buffer = Vec::new();
        }
        Some(incoming)
    }
}

/// A response as bytes.
pub(super) fn encode(stream: u32, result: Result<Vec<u8>, Refusal>) -> Vec<u8> {
    let mut response = Response::new();
    match result {
        Ok(payload) => response.payload = payload,
        Err(refusal) => {
            response.set_status(ttrpc::get_status(refusal.code, refusal.message));
        }
    }
    // Serialising to memory fails only for messages of gigabytes.
    let body = response.write_to_bytes().unwrap_or_default();
    let header = MessageHeader {
        length: body.len() as u32,
        stream_id: stream,
        type_: MESSAGE_TYPE_RESPONSE,
        flags: 0,
    };
    let mut bytes = Vec::from(header);
    bytes.extend_from_slice(&body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(stream: u32, type_: u8, body: &[u8]) -> Vec<u8> {
        let header = MessageHeader {
            length: body.len() as u32,
            stream_id: stream,
            type_,
            flags: 0,
        };
        let mut bytes = Vec::from(header);
        bytes.extend_from_slice(body);
        bytes
    }

    fn request(method: &str) -> Request {
        Request {
            method: method.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn torn_messages_are_put_together() {
        let mut wire = Vec::new();
        for (stream, method) in [(1, "A"), (3, "B")] {
            let body = request(method).write_to_bytes().unwrap();
            wire.extend(message(stream, MESSAGE_TYPE_REQUEST, &body));
        }
        for size in [1, 7, wire.len()] {
            let (mut decoder, mut incoming) = (Decoder::default(), Vec::new());
            for piece in wire.chunks(size) {
                decoder.push(piece, &mut incoming);
            }
            let expected = [(1, "A"), (3, "B")].map(|(stream, method)| Incoming::Request {
                stream,
                request: request(method),
            });
            assert_eq!(incoming, expected);
            assert!(decoder.buffer.is_empty());
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_skipped_and_not_kept() {
        let len = MAX_REQUEST_LEN + 1;
        let mut wire = message(5, MESSAGE_TYPE_REQUEST, &vec![0; len]);
        wire.extend(message(
            7,
            MESSAGE_TYPE_REQUEST,
            &request("C").write_to_bytes().unwrap(),
        ));
        let (mut decoder, mut incoming) = (Decoder::default(), Vec::new());
        for piece in wire.chunks(4096) {
            decoder.push(piece, &mut incoming);
            assert!(decoder.buffer.len() <= 4096);
        }
        assert!(matches!(incoming[0], Incoming::Bad { stream: 5, .. }));
        assert!(matches!(incoming[1], Incoming::Request { stream: 7, .. }));
        assert_eq!(incoming.len(), 2);
    }

    #[test]
    fn nonsense_is_answered_or_ignored_but_never_fatal() {
        let (mut decoder, mut incoming) = (Decoder::default(), Vec::new());
        decoder.push(
            &message(1, MESSAGE_TYPE_REQUEST, &[0xff; 40]),
            &mut incoming,
        );
        decoder.push(&message(3, MESSAGE_TYPE_RESPONSE, b""), &mut incoming);
        decoder.push(&message(5, 0x77, b"data"), &mut incoming);
        assert_eq!(incoming.len(), 1);
        assert!(matches!(incoming[0], Incoming::Bad { stream: 1, .. }));
    }
}
