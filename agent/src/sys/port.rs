//! Port output: how the guest tells the VMM to power off.
#![allow(unsafe_code)] // privileged instructions

use std::arch::asm;
use std::io;

/// Writes `value` to the 16-bit port `port`.
pub(crate) fn write_u16(port: u16, value: u16) -> io::Result<()> {
    // SAFETY: ioperm has no memory conditions.
    let result = unsafe { libc::ioperm(port.into(), 2, 1) };
    super::check(result)?;
    // SAFETY: access to the port was just granted; the instruction touches no memory and no flags.
    unsafe {
        asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags))
    };
    Ok(())
}
