//! The network's end: of a pair of sockets in a tap's place, or of a real tap.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test kit reports by panicking"
)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{readv, writev};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use zerocopy::{FromZeros, IntoBytes};

use crate::net::spec::{HEADER_SIZE, Header, MAX_FRAME};
use crate::net::{NetBackend, Offloads, Tap};

/// What a packet socket has before a frame: a header without its last field.
const PACKET_HEADER: usize = 10;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// The device's end.
#[derive(Debug)]
pub struct SocketBackend {
    socket: OwnedFd,
    offloads: Offloads,
    told: Arc<Mutex<Offloads>>,
}

impl AsFd for SocketBackend {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl NetBackend for SocketBackend {
    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn set_guest_offloads(&self, offloads: Offloads) -> io::Result<()> {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = offloads;
        Ok(())
    }
}

/// The network's end.
#[derive(Debug)]
pub struct Host {
    socket: OwnedFd,
    header_size: usize,
    told: Arc<Mutex<Offloads>>,
    buffer: Vec<u8>,
}

impl Host {
    /// Both ends, with all abilities.
    ///
    /// # Panics
    /// When the process is out of file descriptors.
    #[must_use]
    pub fn pair() -> (Self, Arc<SocketBackend>) {
        Self::pair_with(Offloads {
            checksum: true,
            tso4: true,
            tso6: true,
            uso: true,
        })
    }

    /// Both ends, with these abilities.
    ///
    /// # Panics
    /// When the process is out of file descriptors.
    #[must_use]
    pub fn pair_with(offloads: Offloads) -> (Self, Arc<SocketBackend>) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("sockets");
        let told = Arc::default();
        let host = Self {
            socket: ours,
            header_size: HEADER_SIZE,
            told: Arc::clone(&told),
            buffer: vec![0; MAX_FRAME],
        };
        let backend = SocketBackend {
            socket: theirs,
            offloads,
            told,
        };
        (host, Arc::new(backend))
    }

    /// A tap in a network namespace of its own, and a packet socket as the network behind it.
    ///
    /// # Errors
    /// When this process may not make them.
    ///
    /// # Panics
    /// When the tap is of another kind than was asked for.
    pub fn tap() -> io::Result<(Self, Arc<Tap>)> {
        let (tap, socket) = super::tap::make()?;
        let host = Self {
            socket,
            header_size: PACKET_HEADER,
            told: Arc::default(),
            buffer: vec![0; MAX_FRAME],
        };
        Ok((host, Arc::new(Tap::new(tap).expect("a tap"))))
    }

    /// What the guest takes, as the device has said to a pair of sockets.
    #[must_use]
    pub fn guest_offloads(&self) -> Offloads {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a frame to the guest; `false` if the queue is full.
    ///
    /// # Panics
    /// When the device's end is gone.
    pub fn try_send(&self, header: &Header, frame: &[u8]) -> bool {
        let header = &header.as_bytes()[..self.header_size];
        let parts = [IoSlice::new(header), IoSlice::new(frame)];
        match writev(&self.socket, &parts) {
            Ok(_) => true,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => false,
            Err(error) => panic!("cannot send to the device: {error}"),
        }
    }

    /// Sends a frame to the guest, waiting for room.
    ///
    /// # Panics
    /// When there is none in time.
    pub fn send(&self, header: &Header, frame: &[u8]) {
        let start = Instant::now();
        while !self.try_send(header, frame) {
            assert!(start.elapsed() < PATIENCE, "the device takes no frames");
            self.sleep(PollFlags::OUT);
        }
    }

    /// A frame of the guest, if there is one: its header and length. It is in [`frame`](Self::frame).
    pub fn try_receive(&mut self) -> Option<(Header, usize)> {
        let mut header = Header::new_zeroed();
        let mut parts = [
            IoSliceMut::new(&mut header.as_mut_bytes()[..self.header_size]),
            IoSliceMut::new(&mut self.buffer),
        ];
        match readv(&self.socket, &mut parts) {
            Ok(len) if len >= self.header_size => Some((header, len - self.header_size)),
            _ => None,
        }
    }

    /// The frame that was received last.
    #[must_use]
    pub fn frame(&self, len: usize) -> &[u8] {
        &self.buffer[..len]
    }

    /// Waits for a frame of the guest.
    ///
    /// # Panics
    /// When none comes in time.
    pub fn receive(&mut self) -> (Header, Vec<u8>) {
        let start = Instant::now();
        loop {
            if let Some((header, len)) = self.try_receive() {
                return (header, self.frame(len).to_vec());
            }
            assert!(start.elapsed() < PATIENCE, "no frame of the guest");
            self.sleep(PollFlags::IN);
        }
    }

    /// Waits a little for `what`.
    pub fn sleep(&self, what: PollFlags) {
        let mut set = [PollFd::new(&self.socket, what)];
        let limit = Timespec {
            tv_sec: 0,
            tv_nsec: 2_000_000,
        };
        let _ = poll(&mut set, Some(&limit));
    }
}
