//! seccomp(2).
#![allow(unsafe_code)] // a raw system call

use std::io;

/// Installs a filter for this process and all that it makes, for good. Needs no_new_privs or CAP_SYS_ADMIN.
pub(crate) fn install(program: &[libc::sock_filter], flags: u32) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog {
        len,
        // The kernel only reads it.
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: seccomp reads a live sock_fprog and the `len` instructions behind its pointer, which outlive
    // the call. What the filter then forbids is the caller's choice.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    super::check_long(result).map(drop)
}
