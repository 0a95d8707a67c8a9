//! PID 1 of a pod's guest, and the program that reads and writes a container's files. See the library for
//! all of it.
//!
//! `main` is the C library's: Rust's own start-up aborts when descriptors 0 to 2 are closed and /dev/null
//! is not there to fill them, which is how the kernel starts the only program of an initramfs.
#![no_main]
#![allow(unsafe_code)] // gives a function the name that the C library calls, and reads its arguments

use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;

/// Called by the C library.
///
/// # Safety
/// `arguments` has `count` pointers to C strings that live as long as the program.
// SAFETY: no other item of this program is called `main`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(count: c_int, arguments: *const *const c_char) -> c_int {
    let count = usize::try_from(count).unwrap_or(0);
    let argument = |index| {
        // SAFETY: it is below `count`, so the place is one of the array's.
        let place = unsafe { arguments.add(index) };
        // SAFETY: the array has a pointer there.
        let text = unsafe { place.read() };
        // SAFETY: it points to a C string.
        let text = unsafe { CStr::from_ptr(text) };
        OsStr::from_bytes(text.to_bytes()).to_owned()
    };
    let arguments: Vec<OsString> = (0..count).map(argument).collect();
    if podvmm_agent::archive::is_meant(&arguments) {
        return podvmm_agent::archive::main(&arguments);
    }
    podvmm_agent::guest::main()
}
