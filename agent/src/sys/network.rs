//! An option of netlink sockets.
#![allow(unsafe_code)] // setsockopt takes a pointer

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Lets a netlink socket's errors come with words, and without the request that they are about.
pub(crate) fn explain_errors(socket: impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
        // SAFETY: setsockopt reads `size_of::<c_int>()` bytes of a live integer.
        super::check(unsafe {
            libc::setsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_NETLINK,
                option,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        })?;
    }
    Ok(())
}
