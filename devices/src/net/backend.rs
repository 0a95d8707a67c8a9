//! The host's end: a descriptor that gives and takes one frame per call.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use thiserror::Error;

use super::spec::HEADER_SIZE;

/// What one side leaves to the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums may be incomplete.
    pub checksum: bool,
    /// Large TCP segments over IPv4.
    pub tso4: bool,
    /// Large TCP segments over IPv6.
    pub tso6: bool,
    /// Large UDP segments over both.
    pub uso: bool,
}

/// The host's end of a network device.
///
/// Its descriptor does not block, and `readv` and `writev` on it move one frame each behind a
/// [`Header`](super::spec::Header) of 12 bytes. A `readv` into too little room cuts the frame off.
pub trait NetBackend: AsFd + Send + Sync {
    /// What it takes from the guest, and can give to it.
    fn offloads(&self) -> Offloads;

    /// Says what the guest takes from now on: a part of [`offloads`](Self::offloads).
    ///
    /// # Errors
    /// When the system refuses.
    fn set_guest_offloads(&self, offloads: Offloads) -> io::Result<()>;
}

/// Why a descriptor is no tap that can be used.
#[derive(Debug, Error)]
pub enum TapError {
    /// It is something else.
    #[error("the descriptor is no network tap")]
    NotATap(#[source] io::Error),
    /// It was made with other flags.
    #[error("the tap was made with flags {flags:#x}; it needs IFF_TAP, IFF_NO_PI and IFF_VNET_HDR")]
    Flags {
        /// `IFF_*` as it has them.
        flags: u16,
    },
    /// A setting was refused.
    #[error("{operation} failed on the tap")]
    Setting {
        /// Which setting.
        operation: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

/// A tap of Linux, which belongs to whatever network namespace it was made in.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    offloads: Offloads,
}

impl Tap {
    /// Takes over an open tap: `/dev/net/tun` after `TUNSETIFF`.
    ///
    /// # Errors
    /// [`TapError`] when it is none, or of a kind that cannot be used.
    pub fn new(fd: OwnedFd) -> Result<Self, TapError> {
        const NEEDED: i32 = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        let flags = sys::flags(fd.as_fd()).map_err(TapError::NotATap)?;
        if i32::from(flags) & NEEDED != NEEDED {
            return Err(TapError::Flags { flags });
        }
        let failed = |operation| move |source| TapError::Setting { operation, source };
        sys::set_header_size(fd.as_fd(), HEADER_SIZE as libc::c_int)
            .map_err(failed("TUNSETVNETHDRSZ"))?;
        rustix::io::ioctl_fionbio(&fd, true)
            .map_err(|errno| failed("the non-blocking mode")(errno.into()))?;
        let mut offloads = Offloads {
            checksum: true,
            tso4: true,
            tso6: true,
            uso: true,
        };
        // Since Linux 6.2; there is no other way to ask.
        if sys::set_offloads(fd.as_fd(), bits(offloads)).is_err() {
            offloads.uso = false;
        }
        let tap = Self { fd, offloads };
        tap.set_guest_offloads(Offloads::default())
            .map_err(failed("TUNSETOFFLOAD"))?;
        Ok(tap)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl NetBackend for Tap {
    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn set_guest_offloads(&self, offloads: Offloads) -> io::Result<()> {
        sys::set_offloads(self.fd.as_fd(), bits(offloads))
    }
}

/// The argument of `TUNSETOFFLOAD`.
fn bits(offloads: Offloads) -> libc::c_uint {
    let Offloads {
        checksum,
        tso4,
        tso6,
        uso,
    } = offloads;
    // The system knows large UDP segments for both protocols or for none.
    let uso_bits = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    [
        (checksum, libc::TUN_F_CSUM),
        (tso4, libc::TUN_F_TSO4),
        (tso6, libc::TUN_F_TSO6),
        (uso, uso_bits),
    ]
    .into_iter()
    .filter(|(is_on, _)| *is_on)
    .fold(0, |all, (_, bits)| all | bits)
}

/// The tap's ioctls.
#[allow(unsafe_code, reason = "no safe wrapper knows the ioctls of a tap")]
mod sys {
    use std::io;
    use std::os::fd::BorrowedFd;

    use rustix::ioctl::{Getter, IntegerSetter, Opcode, Setter, ioctl};

    const GET_IFF: Opcode = libc::TUNGETIFF as Opcode;
    const SET_HEADER_SIZE: Opcode = libc::TUNSETVNETHDRSZ as Opcode;
    const SET_OFFLOAD: Opcode = libc::TUNSETOFFLOAD as Opcode;

    pub fn flags(tap: BorrowedFd<'_>) -> io::Result<u16> {
        // SAFETY: `TUNGETIFF` writes a `struct ifreq`, whatever size its number says.
        let get = unsafe { Getter::<GET_IFF, libc::ifreq>::new() };
        // SAFETY: `get` describes the call.
        let request = unsafe { ioctl(tap, get) }?;
        // SAFETY: `TUNGETIFF` has set the flags.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        Ok(flags as u16)
    }

    pub fn set_header_size(tap: BorrowedFd<'_>, bytes: libc::c_int) -> io::Result<()> {
        // SAFETY: `TUNSETVNETHDRSZ` reads an int.
        let set = unsafe { Setter::<SET_HEADER_SIZE, libc::c_int>::new(bytes) };
        // SAFETY: `set` describes the call.
        Ok(unsafe { ioctl(tap, set) }?)
    }

    pub fn set_offloads(tap: BorrowedFd<'_>, bits: libc::c_uint) -> io::Result<()> {
        // SAFETY: `TUNSETOFFLOAD` takes its bits in place of a pointer.
        let set = unsafe { IntegerSetter::<SET_OFFLOAD>::new_usize(bits as usize) };
        // SAFETY: `set` describes the call.
        Ok(unsafe { ioctl(tap, set) }?)
    }
}
