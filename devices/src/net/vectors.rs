//! Guest memory as vectors for `readv` and `writev`, kept from call to call.
//!
//! Neither type leaves the worker's thread: what they hold are addresses.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};
use zerocopy::{FromZeros, IntoBytes};

use super::spec::{HEADER_SIZE, Header, NUM_BUFFERS_OFFSET};
use crate::Memory;
use crate::queue::{Chain, Segment};

/// Most vectors that one call takes (`IOV_MAX`), so most buffers that a frame spans.
pub(super) const MAX_VECTORS: usize = 1024;

/// A chain that is no buffer for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoomForHeader {
    /// Its writable bytes.
    pub len: usize,
}

/// Receive buffers that wait for frames, in order.
pub(super) struct Room {
    memory: Memory,
    buffers: VecDeque<Buffer>,
    /// The buffers' places in this process, in order.
    vectors: VecDeque<libc::iovec>,
    bytes: usize,
    /// The vectors of one call.
    call: Vec<libc::iovec>,
    /// Where what does not fit goes, so that a cut frame is told from one that fits exactly.
    spare: Box<[u8; 1]>,
}

/// One receive buffer.
#[derive(Clone, Copy)]
struct Buffer {
    head: u16,
    vectors: u16,
    bytes: u32,
    /// Where the two bytes of `num_buffers` go if a frame begins here.
    num_buffers: [GuestAddress; 2],
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// A frame and its header, so many bytes in all.
    Frame(usize),
    /// A frame that was longer than the room and is lost.
    TooLong,
}

impl Room {
    pub fn new(memory: Memory) -> Self {
        Self {
            memory,
            buffers: VecDeque::with_capacity(MAX_VECTORS),
            vectors: VecDeque::with_capacity(MAX_VECTORS),
            bytes: 0,
            call: Vec::with_capacity(MAX_VECTORS),
            spare: Box::new([0]),
        }
    }

    /// Buffers that wait.
    pub fn count(&self) -> u16 {
        self.buffers.len() as u16
    }

    /// Bytes that they have in all.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a buffer of `chain`'s size can be added: not if it would take more vectors than a
    /// call has, unless it is the only one.
    pub fn has_place(&self) -> bool {
        self.vectors.len() < MAX_VECTORS / 2
    }

    /// Adds a buffer. One with more parts than a call takes counts as far as those go.
    pub fn add(&mut self, chain: &Chain) -> Result<(), NoRoomForHeader> {
        let segments = chain.writable();
        let len = segments.iter().map(|segment| segment.len as usize).sum();
        let num_buffers = [NUM_BUFFERS_OFFSET, NUM_BUFFERS_OFFSET + 1];
        let [Some(low), Some(high)] = num_buffers.map(|offset| address_at(segments, offset)) else {
            return Err(NoRoomForHeader { len });
        };
        let before = self.vectors.len();
        let mut bytes = 0;
        'all: for segment in segments {
            for slice in self.memory.get_slices(segment.addr, segment.len as usize) {
                // The spare one needs a place, too.
                if self.vectors.len() == MAX_VECTORS - 1 {
                    break 'all;
                }
                let Ok(slice) = slice else { break 'all };
                bytes += slice.len();
                self.vectors.push_back(vector(&slice));
            }
        }
        self.bytes += bytes;
        self.buffers.push_back(Buffer {
            head: chain.head(),
            vectors: (self.vectors.len() - before) as u16,
            bytes: bytes as u32,
            num_buffers: [low, high],
        });
        Ok(())
    }

    /// Reads one frame into as many buffers as `wanted` bytes need, at most `max_buffers`.
    pub fn read(
        &mut self,
        from: BorrowedFd<'_>,
        wanted: usize,
        max_buffers: usize,
    ) -> io::Result<Received> {
        let (mut bytes, mut vectors) = (0, 0);
        for buffer in self.buffers.iter().take(max_buffers) {
            bytes += buffer.bytes as usize;
            vectors += usize::from(buffer.vectors);
            if bytes >= wanted {
                break;
            }
        }
        self.call.clear();
        self.call.extend(self.vectors.range(..vectors));
        self.call.push(libc::iovec {
            iov_base: self.spare.as_mut_ptr().cast(),
            iov_len: self.spare.len(),
        });
        let read = sys::read(from, sys::Writable::new(&self.memory, &self.call))?;
        Ok(if read > bytes {
            Received::TooLong
        } else {
            Received::Frame(read)
        })
    }

    /// Takes the buffers that hold the `len` bytes of a frame: their heads and how much is in each.
    /// Writes into the frame's header how many they are.
    pub fn take(&mut self, len: usize, used: &mut Vec<(u16, u32)>) {
        used.clear();
        let num_buffers = self.buffers.front().map(|first| first.num_buffers);
        let mut left = len;
        while let Some(buffer) = self.buffers.pop_front() {
            self.vectors.drain(..usize::from(buffer.vectors));
            self.bytes -= buffer.bytes as usize;
            let here = left.min(buffer.bytes as usize);
            used.push((buffer.head, here as u32));
            left -= here;
            if left == 0 {
                break;
            }
        }
        let count = (used.len() as u16).to_le_bytes();
        for (at, byte) in num_buffers.into_iter().flatten().zip(count) {
            // It was checked to be guest memory when its chain was popped.
            let _ = self.memory.write_obj(byte, at);
        }
    }
}

/// Where the byte number `offset` of a chain is.
fn address_at(segments: &[Segment], offset: usize) -> Option<GuestAddress> {
    let mut left = offset as u64;
    for segment in segments {
        let len = u64::from(segment.len);
        if left < len {
            return Some(GuestAddress(segment.addr.0 + left));
        }
        left -= len;
    }
    None
}

/// A frame on its way from the guest.
pub(super) struct Outgoing {
    memory: Memory,
    /// The header as the host gets it: a copy that the guest cannot reach.
    header: Box<Header>,
    /// Behind the header, the frame's places in this process.
    vectors: Vec<libc::iovec>,
    bytes: usize,
}

/// Why a chain is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoFrame {
    /// It ends before its header does.
    Header { len: usize },
    /// It has more parts than a call takes.
    Parts,
}

impl Outgoing {
    pub fn new(memory: Memory) -> Self {
        Self {
            memory,
            header: Box::new(Header::new_zeroed()),
            vectors: Vec::with_capacity(MAX_VECTORS),
            bytes: 0,
        }
    }

    /// Takes the frame of `chain` and gives a copy of the header that the guest wrote.
    pub fn load(&mut self, chain: &Chain) -> Result<Header, NoFrame> {
        let mut reader = chain.reader(&self.memory);
        let len = reader.available();
        let header = reader.read_obj().map_err(|_| NoFrame::Header { len })?;
        self.bytes = reader.available();
        self.vectors.clear();
        // The header's place, filled in by `write`.
        self.vectors.push(libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        });
        while let Some(slice) = reader.next_slice(usize::MAX) {
            if self.vectors.len() == MAX_VECTORS {
                return Err(NoFrame::Parts);
            }
            self.vectors.push(vector(&slice));
        }
        Ok(header)
    }

    /// Bytes of the frame, without its header.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Writes the frame that was loaded last, behind `header`.
    pub fn write(&mut self, to: BorrowedFd<'_>, header: Header) -> io::Result<usize> {
        *self.header = header;
        if let Some(first) = self.vectors.first_mut() {
            first.iov_base = self.header.as_mut_bytes().as_mut_ptr().cast();
            first.iov_len = HEADER_SIZE;
        }
        sys::write(to, sys::Readable::new(&self.memory, &self.vectors))
    }
}

fn vector(slice: &VolatileSlice<'_>) -> libc::iovec {
    libc::iovec {
        // Guest memory is one plain mapping per region, so the guard holds nothing that must stay.
        iov_base: slice.ptr_guard_mut().as_ptr().cast(),
        iov_len: slice.len(),
    }
}

/// The two system calls.
#[allow(
    unsafe_code,
    reason = "the kernel reads and writes guest memory; no safe wrapper takes volatile slices"
)]
mod sys {
    use std::io;
    use std::os::fd::{AsRawFd, BorrowedFd};

    use crate::Memory;

    /// Vectors that may be written to: guest memory, and the spare byte of a `Room`.
    pub struct Writable<'a>(&'a [libc::iovec]);

    impl<'a> Writable<'a> {
        /// `vectors` lie in `_memory`, or in something else that is borrowed for as long.
        pub fn new(_memory: &'a Memory, vectors: &'a [libc::iovec]) -> Self {
            Self(vectors)
        }
    }

    /// Vectors that may be read from: guest memory, and the header of an `Outgoing`.
    pub struct Readable<'a>(&'a [libc::iovec]);

    impl<'a> Readable<'a> {
        /// `vectors` lie in `_memory`, or in something else that is borrowed for as long.
        pub fn new(_memory: &'a Memory, vectors: &'a [libc::iovec]) -> Self {
            Self(vectors)
        }
    }

    pub fn read(fd: BorrowedFd<'_>, vectors: Writable<'_>) -> io::Result<usize> {
        retry(|| {
            // SAFETY: each vector is guest memory that `Writable` keeps mapped and that nobody
            // holds a reference to, or the spare byte, which is its owner's alone.
            unsafe {
                libc::readv(
                    fd.as_raw_fd(),
                    vectors.0.as_ptr(),
                    vectors.0.len() as libc::c_int,
                )
            }
        })
    }

    pub fn write(fd: BorrowedFd<'_>, vectors: Readable<'_>) -> io::Result<usize> {
        retry(|| {
            // SAFETY: each vector is guest memory that `Readable` keeps mapped, or the header,
            // which its owner borrows; the kernel only reads them.
            unsafe {
                libc::writev(
                    fd.as_raw_fd(),
                    vectors.0.as_ptr(),
                    vectors.0.len() as libc::c_int,
                )
            }
        })
    }

    fn retry(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
        loop {
            if let Ok(moved) = usize::try_from(call()) {
                return Ok(moved);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}
