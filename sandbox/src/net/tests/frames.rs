//! Frames that a guest would send, written to a tap as they are.

use std::fs::File;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::super::PodNetwork;
use super::place::octets;

const PATIENCE: Duration = Duration::from_secs(10);
/// What a tap has before a frame until it is told otherwise.
const HEADER: usize = 10;

/// A guest's end of one interface.
pub struct Guest {
    tap: File,
    mac: [u8; 6],
}

impl Guest {
    pub fn new(joined: &PodNetwork, number: usize) -> Self {
        let tap = joined.taps[number].try_clone().unwrap();
        rustix::io::ioctl_fionbio(&tap, true).unwrap();
        Self {
            tap: tap.into(),
            mac: joined.interfaces[number].mac.octets(),
        }
    }

    /// The answer to an ARP request for `to`.
    pub fn arp(&mut self, from: &str, to: &str) -> Vec<u8> {
        let mut frame = [[0xff; 6], self.mac].concat();
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(self.mac);
        frame.extend(octets(from));
        frame.extend([0; 6]);
        frame.extend(octets(to));
        let is_answer =
            |frame: &[u8]| frame.len() >= 42 && frame[12..14] == [8, 6] && frame[21] == 2;
        // A link that has just come up loses its first frames.
        for _ in 0..100 {
            self.send(&frame);
            if let Some(answer) = self.receive(Duration::from_millis(100), is_answer) {
                return answer;
            }
        }
        panic!("{to} does not answer");
    }

    /// Sends an echo request to `to` by the neighbour `mac`, behind `tags`.
    pub fn ping(&mut self, mac: [u8; 6], from: &str, to: &str, tags: &[u16]) {
        let (from, to) = (octets(from), octets(to));
        let is_v4 = to.len() == 4;
        let mut frame = [mac, self.mac].concat();
        for protocol in tags {
            // Tag 0: priority only.
            frame.extend([protocol.to_be_bytes(), [0, 0]].concat());
        }
        let mut echo = vec![if is_v4 { 8 } else { 128 }, 0, 0, 0, 0x12, 0x34, 0, 1];
        if is_v4 {
            let sum = checksum(&echo);
            echo[2..4].copy_from_slice(&sum);
            let mut ip = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1, 0, 0];
            ip.extend([from, to].concat());
            let sum = checksum(&ip);
            ip[10..12].copy_from_slice(&sum);
            frame.extend([8, 0]);
            frame.extend(ip);
        } else {
            let pseudo = [&from[..], &to, &[0, 0, 0, 8, 0, 0, 0, 58], &echo].concat();
            let sum = checksum(&pseudo);
            echo[2..4].copy_from_slice(&sum);
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 58, 64]);
            frame.extend([from, to].concat());
        }
        frame.extend(echo);
        self.send(&frame);
    }

    /// Who answers a ping next; those that are asked again while waiting.
    pub fn echo_from(&mut self, mut again: impl FnMut(&mut Self)) -> IpAddr {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            again(self);
            let wait = Duration::from_millis(100);
            if let Some(frame) = self.receive(wait, |frame| echo_source(frame).is_some()) {
                return echo_source(&frame).unwrap();
            }
        }
        panic!("nobody answers");
    }

    fn send(&mut self, frame: &[u8]) {
        let all = [&[0; HEADER], frame].concat();
        self.tap.write_all(&all).unwrap();
    }

    /// The next frame that `is_it`, among what a network says by itself.
    fn receive(&mut self, wait: Duration, is_it: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let start = Instant::now();
        let mut bytes = vec![0; 4096];
        while start.elapsed() < wait {
            match self.tap.read(&mut bytes) {
                Ok(len) if len > HEADER && is_it(&bytes[HEADER..len]) => {
                    return Some(bytes[HEADER..len].to_vec());
                }
                Ok(_) => {}
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        None
    }
}

/// The source of an echo reply.
fn echo_source(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [8, 0] if frame.get(23) == Some(&1) && frame.get(34) == Some(&0) => {
            Some(IpAddr::from(<[u8; 4]>::try_from(frame.get(26..30)?).ok()?))
        }
        [0x86, 0xdd] if frame.get(20) == Some(&58) && frame.get(54) == Some(&129) => {
            Some(IpAddr::from(<[u8; 16]>::try_from(frame.get(22..38)?).ok()?))
        }
        _ => None,
    }
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.as_chunks::<2>().0.iter();
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
