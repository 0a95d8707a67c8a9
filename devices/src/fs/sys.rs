//! System calls that rustix lacks.
#![allow(
    unsafe_code,
    reason = "rustix has no unshare that is safe, and this one is"
)]

/// Gives the calling thread a file mode mask of its own and clears it: modes come from the guest,
/// which has applied its mask already. Where threads cannot be parted, the process's mask stays.
pub(super) fn clear_thread_umask() {
    // SAFETY: `unshare` takes no pointers; with CLONE_FS it parts working directory, root and mask
    // of this thread from the others', which nothing else in this thread relies on.
    let parted = unsafe { libc::unshare(libc::CLONE_FS) };
    if parted == 0 {
        rustix::process::umask(rustix::fs::Mode::empty());
    }
}
