//! One line of a log file.

use std::fmt;
use std::io::Write;

use serde::{Deserialize, Serialize};

use crate::timestamp::Timestamp;

/// Longest content of one line of a file; what a container writes beyond goes on in the next.
pub const MAX_CONTENT: usize = 16 * 1024;

/// Where a container wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        })
    }
}

/// A line, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it was read from the container.
    pub time: Timestamp,
    /// Where it was written to.
    pub stream: Stream,
    /// Whether the line ends here.
    pub is_whole: bool,
    /// What was written, without the end of the line.
    pub content: Vec<u8>,
}

impl Entry {
    /// Reads a line without its end; `None` if it is none of ours.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.splitn(4, |&byte| byte == b' ');
        let mut next = || fields.next();
        let time = std::str::from_utf8(next()?).ok()?.parse().ok()?;
        let stream = match next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        // Further tags may follow, behind colons.
        let is_whole = match next()?.split(|&byte| byte == b':').next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        Some(Self {
            time,
            stream,
            is_whole,
            content: next().unwrap_or_default().to_owned(),
        })
    }
}

/// Appends `bytes`, as a container wrote them, to `to` as lines of the format.
pub fn format(to: &mut Vec<u8>, time: Timestamp, stream: Stream, bytes: &[u8]) {
    let time = time.to_string();
    let mut put = |content: &[u8], tag: char| {
        // Writing to memory does not fail.
        let _ = write!(to, "{time} {stream} {tag} ");
        to.extend_from_slice(content);
        to.push(b'\n');
    };
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let (content, ends) = match line.strip_suffix(b"\n") {
            Some(content) => (content, true),
            None => (line, false),
        };
        let mut rest = content;
        while rest.len() > MAX_CONTENT {
            let (part, after) = rest.split_at(MAX_CONTENT);
            put(part, 'P');
            rest = after;
        }
        put(rest, if ends { 'F' } else { 'P' });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<Entry> {
        let mut file = Vec::new();
        format(&mut file, Timestamp::from_nanos(7), Stream::Stderr, bytes);
        let text = file.strip_suffix(b"\n").unwrap();
        text.split(|&byte| byte == b'\n')
            .map(|line| Entry::parse(line).unwrap())
            .collect()
    }

    fn content(entries: &[Entry]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in entries {
            bytes.extend_from_slice(&entry.content);
            if entry.is_whole {
                bytes.push(b'\n');
            }
        }
        bytes
    }

    #[test]
    fn a_line_is_as_kubernetes_has_it() {
        let mut file = Vec::new();
        format(
            &mut file,
            Timestamp::from_nanos(1),
            Stream::Stdout,
            b"hi you\n",
        );
        assert_eq!(file, b"1970-01-01T00:00:00.000000001Z stdout F hi you\n");
    }

    #[test]
    fn whatever_is_written_is_read_again() {
        let long = vec![b'x'; 3 * MAX_CONTENT + 1];
        for bytes in [
            &b"\n"[..],
            b"one\ntwo\n",
            b"no end",
            b"\n\n  spaces \r\n",
            b"\xff\0\n",
            &long,
            &[b'\n'; 100],
        ] {
            assert_eq!(content(&lines(bytes)), bytes);
        }
        assert_eq!(lines(&long).len(), 4);
    }

    #[test]
    fn what_another_program_wrote_is_read_or_left() {
        let tagged = Entry::parse(b"2016-10-06T00:17:09.669794202Z stdout P:x log").unwrap();
        assert!(!tagged.is_whole && tagged.content == b"log");
        let empty = Entry::parse(b"2016-10-06T00:17:09Z stderr F").unwrap();
        assert!(empty.is_whole && empty.content.is_empty());
        for line in [
            &b""[..],
            b"x",
            b"2016-10-06T00:17:09Z stdin F x",
            b"2016-10-06T00:17:09Z stdout X x",
            b"yesterday stdout F x",
        ] {
            assert_eq!(Entry::parse(line), None);
        }
    }
}
