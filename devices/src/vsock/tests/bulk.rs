//! Much data, checked byte by byte through a running sum.

use std::io::Write;

use super::*;
use crate::testkit::vsock::State;

/// A stream of bytes that no two places share, cheap to make.
struct Pattern(u64);

impl Pattern {
    fn fill(&mut self, out: &mut [u8]) {
        for word in out.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let value = self.0 ^ (self.0 >> 29);
            word.copy_from_slice(&value.to_le_bytes()[..word.len()]);
        }
    }
}

/// FNV-1a over 64-bit words, independent of how the bytes were cut.
#[derive(Default)]
struct Sum {
    state: u64,
    partial: Vec<u8>,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, mut data: &[u8]) {
        self.bytes += data.len() as u64;
        while !self.partial.is_empty() && self.partial.len() < 8 && !data.is_empty() {
            self.partial.push(data[0]);
            data = &data[1..];
        }
        if self.partial.len() == 8 {
            let word = u64::from_le_bytes(self.partial[..].try_into().unwrap());
            self.step(word);
            self.partial.clear();
        }
        let mut words = data.chunks_exact(8);
        for word in &mut words {
            self.step(u64::from_le_bytes(word.try_into().unwrap()));
        }
        self.partial.extend_from_slice(words.remainder());
    }

    fn step(&mut self, word: u64) {
        self.state = (self.state ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    }

    fn result(self) -> (u64, u64) {
        (self.bytes, self.state)
    }
}

const CHUNK: usize = 256 * 1024;
/// 256 MiB each way where the build is optimised; a debug build's driver is ten times slower.
const TOTAL: usize = if cfg!(debug_assertions) {
    32 << 20
} else {
    256 << 20
};

/// Reads all, in pieces of changing size with pauses in which the sender runs into the end of its
/// credit.
fn read_slowly(mut stream: UnixStream) -> (u64, u64) {
    let mut sum = Sum::default();
    let mut buffer = vec![0; CHUNK];
    for turn in 0.. {
        let len = 1 + (turn * 7919) % CHUNK;
        let len = stream.read(&mut buffer[..len]).unwrap();
        if len == 0 {
            break;
        }
        sum.add(&buffer[..len]);
        if turn % 64 == 0 {
            // Lets the other threads run; how long does not matter.
            std::thread::yield_now();
        }
    }
    sum.result()
}

#[test]
fn much_data_from_the_guest_arrives_intact_at_a_slow_reader() {
    let host = Host::new();
    let mut guest = host.guest();
    let (stream, socket) = host.connect(&mut guest, 1);
    let reader = std::thread::spawn(move || read_slowly(stream));
    let mut sum = Sum::default();
    let mut pattern = Pattern(1);
    let mut chunk = vec![0; CHUNK];
    for _ in 0..TOTAL / CHUNK {
        pattern.fill(&mut chunk);
        sum.add(&chunk);
        guest.send(socket, &chunk);
    }
    guest.close(socket);
    assert_eq!(reader.join().unwrap(), sum.result());
    guest.wait_closed(socket);
}

#[test]
fn much_data_from_the_host_arrives_intact_at_a_slow_reader() {
    let host = Host::new();
    let mut guest = host.guest();
    let (mut stream, socket) = host.connect(&mut guest, 1);
    let writer = std::thread::spawn(move || {
        let mut sum = Sum::default();
        let mut pattern = Pattern(2);
        let mut chunk = vec![0; CHUNK];
        for _ in 0..TOTAL / CHUNK {
            pattern.fill(&mut chunk);
            sum.add(&chunk);
            stream.write_all(&chunk).unwrap();
        }
        sum.result()
    });
    let mut sum = Sum::default();
    let mut buffer = vec![0; CHUNK];
    for turn in 0.. {
        let room = 1 + (turn * 7919) % CHUNK;
        let len = guest.wait_for("data", |guest| {
            let len = guest.try_receive(socket, &mut buffer[..room]);
            let is_over = guest.peer_shutdown(socket) != 0 && guest.queued(socket) == 0;
            (len > 0 || is_over).then_some(len)
        });
        if len == 0 {
            break;
        }
        sum.add(&buffer[..len]);
    }
    assert_eq!(sum.result(), writer.join().unwrap());
}

#[test]
fn a_reader_that_does_not_read_stops_its_own_stream_only() {
    let host = Host::new();
    let mut guest = host.guest();
    let (blocked, full) = host.connect(&mut guest, 1);
    guest.wait_for("the end of the credit", |guest| {
        while guest.try_send(full, &[1; 65536]) > 0 {}
        (guest.credit(full) == 0).then_some(())
    });
    let (mut stream, socket) = host.connect(&mut guest, 2);
    for i in 0..1000_u32 {
        stream.write_all(&i.to_le_bytes()).unwrap();
        assert_eq!(guest.receive(socket, 4), i.to_le_bytes());
        guest.send(socket, &i.to_be_bytes());
        assert_eq!(read_exactly(&stream, 4), i.to_be_bytes());
    }
    // And the other way: a guest that does not read.
    let (mut writer, unread) = host.connect(&mut guest, 3);
    writer.set_nonblocking(true).unwrap();
    guest.wait_for("a full guest", |guest| {
        let is_full = writer.write(&[2; 65536]).is_err();
        (is_full && guest.queued(unread) == 256 * 1024).then_some(())
    });
    stream.write_all(b"still here").unwrap();
    assert_eq!(guest.receive(socket, 10), b"still here");
    // The blocked reader goes on and misses nothing.
    guest.close(full);
    let data = read_to_end(&blocked);
    assert!(data.len() >= 256 * 1024 && data.iter().all(|byte| *byte == 1));
    guest.wait_for("the reset", |guest| {
        (guest.state(full) == State::Closed).then_some(())
    });
}

#[test]
fn all_connections_get_their_share() {
    let host = Host::new();
    let mut guest = host.guest();
    let mut sockets = Vec::new();
    let mut writers = Vec::new();
    for port in 0..8 {
        let (mut stream, socket) = host.connect(&mut guest, port);
        sockets.push(socket);
        writers.push(std::thread::spawn(move || {
            // Until the guest closes.
            while stream.write_all(&[port as u8; 65536]).is_ok() {}
        }));
    }
    let mut received = [0_usize; 8];
    let mut buffer = vec![0; 65536];
    guest.wait_for("everybody's megabytes", |guest| {
        for (socket, total) in sockets.iter().zip(&mut received) {
            *total += guest.try_receive(*socket, &mut buffer);
        }
        (received.iter().min() >= Some(&(4 << 20))).then_some(())
    });
    for socket in sockets {
        guest.close(socket);
        guest.wait_closed(socket);
    }
    for writer in writers {
        writer.join().unwrap();
    }
}
