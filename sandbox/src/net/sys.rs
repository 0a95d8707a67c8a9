//! Calls that no safe wrapper knows.
#![allow(
    unsafe_code,
    reason = "no safe wrapper makes a tap, knows this option of netlink sockets or parts namespaces"
)]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Lets the kernel explain errors of a netlink socket (`NETLINK_EXT_ACK`), and answer without
/// repeating the request (`NETLINK_CAP_ACK`).
pub fn ask_for_sentences(socket: &OwnedFd) -> io::Result<()> {
    for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
        let one: libc::c_int = 1;
        // SAFETY: both options take an int, whose address and size are given.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_NETLINK,
                option,
                (&raw const one).cast(),
                size_of_val(&one) as libc::socklen_t,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Makes a tap in this thread's network namespace and gives it with its name. `pattern` is a name
/// with `%d`, for which the kernel puts the first free number.
pub fn make_tap(pattern: &str) -> io::Result<(OwnedFd, String)> {
    let tap = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: all fields of `ifreq` are integers, pointers or arrays of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let last = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..last].iter_mut().zip(pattern.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: `TUNSETIFF` reads an `ifreq` with name and flags and writes the name to it.
    let result = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let name = request.ifr_name.iter().take_while(|byte| **byte != 0);
    let name = name.map(|byte| char::from(*byte as u8)).collect();
    Ok((tap.into(), name))
}

/// Moves this thread into a new network namespace.
pub fn part_network() -> io::Result<()> {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    // SAFETY: only the network namespace is parted, not the table of descriptors.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?)
}
