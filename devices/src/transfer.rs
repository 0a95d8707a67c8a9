//! Between files and guest memory, without a copy in between.
#![allow(
    unsafe_code,
    reason = "the system reads and writes guest memory in place, which no safe interface can say"
)]

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use vm_memory::VolatileSlice;

/// Most vectors that one call takes (`IOV_MAX`).
const IOV_MAX: usize = 1024;

/// Room for one call's vectors, kept from request to request.
#[derive(Default)]
pub(crate) struct IoVecs(Vec<libc::iovec>);

impl IoVecs {
    fn fill(&mut self, slices: &[VolatileSlice<'_>]) {
        self.0.clear();
        self.0.extend(slices.iter().map(|slice| libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        }));
    }
}

/// Reads from `fd` at `offset` straight into `slices`; short only at the end of the file.
pub(crate) fn pread_into(
    fd: impl AsFd,
    slices: &[VolatileSlice<'_>],
    vecs: &mut IoVecs,
    offset: u64,
) -> Result<usize, Errno> {
    transfer(slices, vecs, offset, |vecs, at| {
        // SAFETY: each vector covers one slice of guest memory, which stays mapped while `slices`
        // lives; the system writes within the vectors only, and nobody holds references to guest
        // memory. The descriptor is open while it is borrowed.
        unsafe {
            libc::preadv(
                fd.as_fd().as_raw_fd(),
                vecs.as_ptr(),
                vecs.len() as libc::c_int,
                at,
            )
        }
    })
}

/// How bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// To the host's page cache.
    Cached,
    /// Likewise, at the end of the file.
    Append,
    /// To the disk: they outlive the host's power.
    Durable,
}

impl Write {
    fn flags(self) -> libc::c_int {
        match self {
            Self::Cached => 0,
            Self::Append => libc::RWF_APPEND,
            Self::Durable => libc::RWF_DSYNC,
        }
    }
}

/// Writes `slices` to `fd` at `offset`, unless `how` has another place for them.
pub(crate) fn pwrite_from(
    fd: impl AsFd,
    slices: &[VolatileSlice<'_>],
    vecs: &mut IoVecs,
    offset: u64,
    how: Write,
) -> Result<usize, Errno> {
    transfer(slices, vecs, offset, |vecs, at| {
        // SAFETY: each vector covers one slice of guest memory, which stays mapped while `slices`
        // lives; the system reads within the vectors only. The descriptor is open while borrowed.
        unsafe {
            libc::pwritev2(
                fd.as_fd().as_raw_fd(),
                vecs.as_ptr(),
                vecs.len() as libc::c_int,
                at,
                how.flags(),
            )
        }
    })
}

/// Calls `call` for runs of at most [`IOV_MAX`] slices until all are done or one is short.
fn transfer(
    slices: &[VolatileSlice<'_>],
    vecs: &mut IoVecs,
    offset: u64,
    mut call: impl FnMut(&[libc::iovec], i64) -> libc::ssize_t,
) -> Result<usize, Errno> {
    let mut done = 0usize;
    for run in slices.chunks(IOV_MAX) {
        let at = offset
            .checked_add(done as u64)
            .and_then(|at| i64::try_from(at).ok())
            .ok_or(Errno::INVAL)?;
        vecs.fill(run);
        let wanted: usize = run.iter().map(VolatileSlice::len).sum();
        let moved = loop {
            let result = call(&vecs.0, at);
            if let Ok(moved) = usize::try_from(result) {
                break moved;
            }
            match last_errno() {
                Errno::INTR => {}
                // What was moved before counts; the caller meets the error on its next request.
                _ if done > 0 => return Ok(done),
                errno => return Err(errno),
            }
        };
        done += moved;
        if moved < wanted {
            break;
        }
    }
    Ok(done)
}

/// An empty vector with the allocation of `slices` and another lifetime: collecting in place keeps it.
pub(crate) fn recycle<'b>(mut slices: Vec<VolatileSlice<'_>>) -> Vec<VolatileSlice<'b>> {
    slices.clear();
    slices.into_iter().map_while(|_| None).collect()
}

fn last_errno() -> Errno {
    std::io::Error::last_os_error()
        .raw_os_error()
        .map_or(Errno::IO, Errno::from_raw_os_error)
}
