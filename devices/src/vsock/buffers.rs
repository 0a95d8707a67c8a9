//! Scattered guest memory that a system call reads from or writes to, without a copy on the way.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;

/// Most pieces in one call: a socket buffer of Linux has at most 17 fragments, and a batch of
/// receive buffers has [`super::rx::MAX_BATCH`].
pub const MAX_PIECES: usize = 32;

/// A list of pieces of guest memory, on the stack.
#[derive(Clone, Copy, Debug)]
pub struct GuestBuffers<'a> {
    pieces: [Option<VolatileSlice<'a>>; MAX_PIECES],
    count: usize,
    bytes: usize,
}

impl<'a> GuestBuffers<'a> {
    /// No pieces.
    pub fn new() -> Self {
        Self {
            pieces: [None; MAX_PIECES],
            count: 0,
            bytes: 0,
        }
    }

    /// Whether no further piece fits.
    pub fn is_full(&self) -> bool {
        self.count == MAX_PIECES
    }

    /// Adds a piece; it is lost if the list [is full](Self::is_full).
    pub fn push(&mut self, piece: VolatileSlice<'a>) {
        if let Some(slot) = self.pieces.get_mut(self.count) {
            *slot = Some(piece);
            self.count += 1;
            self.bytes += piece.len();
        }
    }

    /// Bytes in all pieces.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// The pieces in order.
    pub fn iter(&self) -> impl Iterator<Item = &VolatileSlice<'a>> {
        self.pieces[..self.count].iter().flatten()
    }

    /// Sends from the pieces to a socket, without blocking. Gives the number of bytes taken.
    pub fn send_to(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        // No SIGPIPE: whether the process ignores it is the embedder's business.
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        sys::retry(|| {
            self.with_message(|message| sys::send_message(socket.as_raw_fd(), message, flags))
        })
    }

    /// Receives from a socket into the pieces, without blocking. Gives the number of bytes; zero at
    /// the end of the stream.
    pub fn receive_from(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        sys::retry(|| {
            self.with_message(|message| {
                sys::receive_message(socket.as_raw_fd(), message, libc::MSG_DONTWAIT)
            })
        })
    }

    fn with_message<T>(&self, call: impl FnOnce(sys::Message<'_>) -> T) -> T {
        let mut vectors = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; MAX_PIECES];
        for (vector, piece) in vectors.iter_mut().zip(self.iter()) {
            // Guest memory is one plain mapping, so a guard holds nothing that must stay alive.
            vector.iov_base = piece.ptr_guard_mut().as_ptr().cast();
            vector.iov_len = piece.len();
        }
        call(sys::Message::new(self, &mut vectors[..self.count]))
    }
}

/// The two system calls.
#[allow(
    unsafe_code,
    reason = "the kernel reads and writes guest memory; no safe wrapper takes volatile slices"
)]
mod sys {
    use super::{GuestBuffers, io};

    /// Vectors that lie in guest memory which is mapped for as long as `'a`.
    pub struct Message<'a> {
        vectors: &'a mut [libc::iovec],
    }

    impl<'a> Message<'a> {
        /// `vectors` are the pieces of `_buffers`.
        pub fn new(_buffers: &'a GuestBuffers<'_>, vectors: &'a mut [libc::iovec]) -> Self {
            Self { vectors }
        }

        fn header(&mut self) -> libc::msghdr {
            // SAFETY: all fields of msghdr are integers or pointers, for which zero is valid.
            let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
            header.msg_iov = self.vectors.as_mut_ptr();
            header.msg_iovlen = self.vectors.len() as _;
            header
        }
    }

    pub fn send_message(socket: i32, mut message: Message<'_>, flags: i32) -> io::Result<usize> {
        let header = message.header();
        // SAFETY: `header` holds `msg_iovlen` vectors that `message` borrows, each of them guest
        // memory that stays mapped while `GuestBuffers` is borrowed; the kernel only reads it.
        let sent = unsafe { libc::sendmsg(socket, &raw const header, flags) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    pub fn receive_message(socket: i32, mut message: Message<'_>, flags: i32) -> io::Result<usize> {
        let mut header = message.header();
        // SAFETY: as in `send_message`; the kernel writes to guest memory, which nobody in this
        // process holds a reference to, only volatile slices.
        let received = unsafe { libc::recvmsg(socket, &raw mut header, flags) };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// Repeats `call` while signals interrupt it.
    pub fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
        loop {
            match call() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}
