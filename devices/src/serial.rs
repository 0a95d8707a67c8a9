//! An 8250 UART for early consoles, output only, for debugging only.
//!
//! Every character that a guest prints is an exit, so a quiet guest does not use it at all. What it
//! prints is kept in a ring of [`TAIL_BYTES`], so that a failed boot can be explained, and can be
//! copied to a file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

/// How much of the newest output is kept.
pub const TAIL_BYTES: usize = 16 * 1024;

/// Output is copied to a console file up to this many bytes, so a guest cannot fill the disk.
pub const FILE_LIMIT: u64 = 64 * 1024 * 1024;

/// The newest output of the guest's console; cloning gives another handle on the same bytes.
#[derive(Clone, Debug, Default)]
pub struct ConsoleTail(Arc<Mutex<VecDeque<u8>>>);

impl ConsoleTail {
    /// The kept output as text, control characters other than newlines removed.
    #[must_use]
    pub fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = kept.iter().copied().collect();
        String::from_utf8_lossy(&bytes)
            .chars()
            .filter(|c| *c == '\n' || !c.is_control())
            .collect()
    }

    fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(bytes);
        let excess = kept.len().saturating_sub(TAIL_BYTES);
        kept.drain(..excess);
    }
}

/// Where the UART's output goes.
struct Output {
    tail: ConsoleTail,
    file: Option<File>,
    left: u64,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tail.push(bytes);
        let len = bytes.len() as u64;
        if let Some(file) = &mut self.file
            && self.left >= len
        {
            self.left -= len;
            // A full disk must not stop the guest; the tail still has it.
            let _ = file.write_all(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// No interrupt line: an early console polls.
struct NoLine;

impl Trigger for NoLine {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The UART with its eight byte-wide registers.
pub struct Console {
    uart: Serial<NoLine, NoEvents, Output>,
    tail: ConsoleTail,
}

impl Console {
    /// A UART that keeps its tail and, if `file` is given, copies everything there.
    #[must_use]
    pub fn new(file: Option<File>) -> Self {
        let tail = ConsoleTail::default();
        let output = Output {
            tail: tail.clone(),
            file,
            left: FILE_LIMIT,
        };
        Self {
            uart: Serial::new(NoLine, output),
            tail,
        }
    }

    /// A handle on what was printed last.
    #[must_use]
    pub fn tail(&self) -> ConsoleTail {
        self.tail.clone()
    }

    /// Serves a one-byte read of register `register` (0..8).
    pub fn read(&mut self, register: u8) -> u8 {
        self.uart.read(register)
    }

    /// Serves a one-byte write to register `register` (0..8).
    pub fn write(&mut self, register: u8, value: u8) {
        // The only errors are those of the output, which has none, and of a line, which there is not.
        let _ = self.uart.write(register, value);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    fn file() -> File {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        File::from(rustix::fs::memfd_create("console", flags).unwrap())
    }

    #[test]
    fn case_08_the_kept_output_is_bounded() {
        let mut console = Console::new(None);
        for i in 0..3 * TAIL_BYTES {
            console.write(0, b'a' + (i % 23) as u8);
        }
        let kept = console.tail().text();
        assert_eq!(kept.len(), TAIL_BYTES);
        let last = char::from(b'a' + ((3 * TAIL_BYTES - 1) % 23) as u8);
        assert!(kept.ends_with(last), "the newest is what is kept");
    }

    #[test]
    fn case_08_the_file_is_bounded() {
        let file = file();
        let mut output = Output {
            tail: ConsoleTail::default(),
            file: Some(file.try_clone().unwrap()),
            left: 10,
        };
        for _ in 0..100 {
            output.write_all(b"123").unwrap();
        }
        let mut written = String::new();
        let mut file = file;
        file.rewind().unwrap();
        file.read_to_string(&mut written).unwrap();
        assert_eq!(written, "123123123");
    }
}
