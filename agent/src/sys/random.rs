//! The kernel's random number generator.
#![allow(unsafe_code)] // its ioctls take a C structure

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;

use agent_protocol::MAX_ENTROPY_LEN;

/// From linux/random.h: `_IOW('R', 0x03, int[2])` and `_IO('R', 0x07)`.
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

/// `struct rand_pool_info` with room for all that SetupPod may bring.
#[repr(C)]
struct PoolInfo {
    entropy_bits: libc::c_int,
    len: libc::c_int,
    bytes: [u8; MAX_ENTROPY_LEN],
}

/// Credits up to [`MAX_ENTROPY_LEN`] bytes in full and makes them count at once.
pub(crate) fn add_entropy(bytes: &[u8]) -> io::Result<()> {
    let mut info = PoolInfo {
        entropy_bits: 0,
        len: 0,
        bytes: [0; MAX_ENTROPY_LEN],
    };
    for (place, byte) in info.bytes.iter_mut().zip(bytes) {
        *place = *byte;
        info.len += 1;
    }
    info.entropy_bits = info.len * 8;
    let device = OpenOptions::new().write(true).open("/dev/urandom")?;
    // SAFETY: RNDADDENTROPY reads a live rand_pool_info and the `len` bytes that follow its header.
    super::check(unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const info) })?;
    // SAFETY: RNDRESEEDCRNG takes no argument.
    super::check(unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG, 0) }).map(drop)
}
