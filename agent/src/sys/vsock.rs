//! AF_VSOCK addresses: `rustix` opens such sockets but cannot name them.
#![allow(unsafe_code)] // bind, connect and getpeername take a C structure

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

const ADDRESS_LEN: libc::socklen_t = size_of::<libc::sockaddr_vm>() as libc::socklen_t;

/// How long the last bytes before a power-off may take to leave.
const SEND_POLLS: u32 = 200;
const SEND_POLL_PAUSE: Duration = Duration::from_micros(500);

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    libc::sockaddr_vm {
        svm_family: libc::AF_VSOCK as libc::sa_family_t,
        svm_reserved1: 0,
        svm_port: port,
        svm_cid: cid,
        svm_zero: [0; 4],
    }
}

/// A stream socket, not connected.
pub(crate) fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(
        AddressFamily::VSOCK,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

/// Gives `socket` a port on every context identifier of this machine.
pub(crate) fn bind(socket: impl AsFd, port: u32) -> io::Result<()> {
    let address = address(libc::VMADDR_CID_ANY, port);
    // SAFETY: bind reads ADDRESS_LEN bytes from the pointer, which is a live sockaddr_vm of that size.
    let result = unsafe {
        libc::bind(
            socket.as_fd().as_raw_fd(),
            (&raw const address).cast(),
            ADDRESS_LEN,
        )
    };
    super::check(result).map(drop)
}

/// Connects `socket`.
pub(crate) fn connect(socket: impl AsFd, cid: u32, port: u32) -> io::Result<()> {
    let address = address(cid, port);
    // SAFETY: connect reads ADDRESS_LEN bytes from the pointer, which is a live sockaddr_vm of that size.
    let result = unsafe {
        libc::connect(
            socket.as_fd().as_raw_fd(),
            (&raw const address).cast(),
            ADDRESS_LEN,
        )
    };
    super::check(result).map(drop)
}

/// Context identifier at the other end of `socket`.
pub(crate) fn peer_cid(socket: impl AsFd) -> io::Result<u32> {
    let mut address = address(0, 0);
    let mut len = ADDRESS_LEN;
    // SAFETY: getpeername writes at most `len` bytes, the size of `address`, and both outlive the call.
    let result = unsafe {
        libc::getpeername(
            socket.as_fd().as_raw_fd(),
            (&raw mut address).cast(),
            &raw mut len,
        )
    };
    super::check(result)?;
    Ok(address.svm_cid)
}

/// Waits, for a bounded time, until the device has taken all that was written to `socket`.
pub(crate) fn wait_until_sent(socket: impl AsFd) {
    for _ in 0..SEND_POLLS {
        let mut unsent: libc::c_int = 0;
        // SAFETY: SIOCOUTQ writes one int to a live one.
        let result =
            unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut unsent) };
        // A kernel or a socket that cannot tell is not waited for.
        if result < 0 || unsent == 0 {
            return;
        }
        thread::sleep(SEND_POLL_PAUSE);
    }
}
