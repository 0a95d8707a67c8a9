//! PID 1 of a pod's guest. See the library for all of it.
//!
//! `main` is the C library's: Rust's own start-up aborts when descriptors 0 to 2 are closed and /dev/null
//! is not there to fill them, which is how the kernel starts the only program of an initramfs.
#![no_main]
#![allow(unsafe_code)] // gives a function the name that the C library calls

/// Called by the C library.
// SAFETY: no other item of this program is called `main`.
#[unsafe(no_mangle)]
pub extern "C" fn main() -> i32 {
    podvmm_agent::guest::main()
}
