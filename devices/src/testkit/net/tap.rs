//! A real tap in a network namespace of its own, with a packet socket as the network behind it.
//!
//! The namespace has no name: it is gone with the two descriptors. Making one needs root.
#![allow(
    unsafe_code,
    reason = "no safe wrapper parts a thread's network, makes a tap or knows packet sockets"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// A tap, and a socket that gets what is sent to it and sends what it gets.
pub(super) fn make() -> io::Result<(OwnedFd, OwnedFd)> {
    // Of a thread's own, so that nobody else finds itself in another network.
    std::thread::spawn(make_here)
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

fn make_here() -> io::Result<(OwnedFd, OwnedFd)> {
    // SAFETY: only the network namespace is parted, not the table of descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    // The host's kernel says nothing on this network by itself.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    let tap = open_tap()?;
    let socket = raw_socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    bring_up(&socket)?;
    let index = rustix::net::netdevice::name_to_index(&socket, NAME)?;
    listen_on(&socket, index)?;
    Ok((tap, socket))
}

const NAME: &str = "tap0";

fn request() -> libc::ifreq {
    // SAFETY: all fields of `ifreq` are integers, pointers or arrays of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(NAME.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn open_tap() -> io::Result<OwnedFd> {
    let tap: File = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    let mut request = request();
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: `TUNSETIFF` takes an `ifreq` with name and flags.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(tap.into())
}

fn raw_socket(family: libc::c_int, kind: libc::c_int, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: `socket` takes no pointers.
    let fd = check(unsafe {
        libc::socket(
            family,
            kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            protocol,
        )
    })?;
    // SAFETY: the descriptor is new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bring_up(socket: &OwnedFd) -> io::Result<()> {
    let mut request = request();
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: `SIOCSIFFLAGS` takes an `ifreq` with name and flags.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) })?;
    Ok(())
}

/// Whole frames with a header of 10 bytes before each, and not those that the socket sent.
fn listen_on(socket: &OwnedFd, index: u32) -> io::Result<()> {
    const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
    for option in [libc::PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING] {
        let one: libc::c_int = 1;
        // SAFETY: both options take an int.
        check(unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                (&raw const one).cast(),
                size_of_val(&one) as libc::socklen_t,
            )
        })?;
    }
    // SAFETY: all fields of `sockaddr_ll` are integers.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index as i32;
    // SAFETY: the address is one of packet sockets, of that length.
    check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    })?;
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
