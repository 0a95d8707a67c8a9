//! System calls that `rustix` does not have, each with a safe signature where one is possible.

pub(crate) mod mount;
pub(crate) mod network;
pub(crate) mod port;
pub(crate) mod process;
pub(crate) mod random;
pub(crate) mod seccomp;
pub(crate) mod vsock;

use std::io;

/// Turns a C library's return value into a result.
fn check(value: libc::c_int) -> io::Result<libc::c_int> {
    if value < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(value)
    }
}

/// Likewise for the results of `syscall`.
fn check_long(value: libc::c_long) -> io::Result<libc::c_long> {
    if value < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(value)
    }
}
