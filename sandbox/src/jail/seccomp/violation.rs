//! The end of a process that made a system call which is not on its list.
#![allow(
    unsafe_code,
    reason = "a signal handler, which reads the registers that the kernel saved"
)]

use std::io;

use syscalls::Sysno;

/// 128 and the number of SIGSYS.
const STATUS: i32 = 128 + libc::SIGSYS;
/// The kernel's limit of a thread's name, with its end.
const NAME_BYTES: usize = 16;

/// Handles refused calls from now on.
pub(super) fn handle() -> io::Result<()> {
    // SAFETY: all zeroes is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = refused as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    // SAFETY: sigaction reads a live structure; the handler has the signature that SA_SIGINFO asks for
    // and does only what a handler may.
    if unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Says which thread made which call, and ends the process. Everything here may be done in a signal
/// handler, and with the calls that every list has.
extern "C" fn refused(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let mut line = Line::default();
    line.text(b"podvmm-vmm: thread ");
    line.text(&thread_name());
    // SAFETY: with SA_SIGINFO the kernel passes the interrupted thread's context.
    if let Some(context) = unsafe { context.cast::<libc::ucontext_t>().as_ref() } {
        let register = |index: libc::c_int| context.uc_mcontext.gregs[index as usize] as u64;
        // The kernel puts the registers back as they were before the call.
        let number = register(libc::REG_RAX);
        line.text(b": system call ");
        let name = Sysno::new(number as usize).map_or("unknown", |call| call.name());
        line.text(name.as_bytes());
        line.text(b" (");
        line.number(number);
        for index in [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX] {
            line.text(b", ");
            line.hex(register(index));
        }
        line.text(b") is not allowed to it");
    }
    line.text(b"\n");
    // SAFETY: the bytes are alive and initialised.
    unsafe { libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.len) };
    // SAFETY: _exit has no conditions.
    unsafe { libc::_exit(STATUS) }
}

fn thread_name() -> [u8; NAME_BYTES] {
    let mut name = [0; NAME_BYTES];
    // SAFETY: PR_GET_NAME writes at most 16 bytes.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name
}

/// A line that is put together without allocating.
struct Line {
    bytes: [u8; 200],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; 200],
            len: 0,
        }
    }
}

impl Line {
    /// Appends `text` up to its first NUL, as far as there is room.
    fn text(&mut self, text: &[u8]) {
        for &byte in text.iter().take_while(|byte| **byte != 0) {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = byte;
                self.len += 1;
            }
        }
    }

    fn number(&mut self, value: u64) {
        self.digits(value, 10);
    }

    fn hex(&mut self, value: u64) {
        self.text(b"0x");
        self.digits(value, 16);
    }

    fn digits(&mut self, mut value: u64, base: u64) {
        let mut digits = [0; 20];
        let mut start = digits.len();
        while start > 0 {
            start -= 1;
            digits[start] = b"0123456789abcdef"[(value % base) as usize];
            value /= base;
            if value == 0 {
                break;
            }
        }
        self.text(&digits[start..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_and_never_run_over() {
        let mut line = Line::default();
        line.text(b"a\0b");
        line.number(0);
        line.number(u64::MAX);
        line.hex(0xae80);
        assert_eq!(
            std::str::from_utf8(&line.bytes[..line.len]),
            Ok("a0184467440737095516150xae80")
        );
        for _ in 0..100 {
            line.number(u64::MAX);
        }
        assert_eq!(line.len, line.bytes.len());
    }
}
