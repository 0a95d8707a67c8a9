//! INIT and DESTROY: what both sides agreed on.

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use super::Server;
use super::request::{Request, put};
use crate::fs::spec::{self, InitIn, InitInExt, InitOut, init};
use crate::queue::ChainWriter;

/// Bytes of the largest READ or WRITE.
pub const MAX_IO: u32 = 1 << 20;
/// Pages of that.
const MAX_PAGES: u16 = (MAX_IO / 4096) as u16;
/// Requests that the driver may have in flight without somebody waiting for them.
const MAX_BACKGROUND: u16 = 128;

/// Set once INIT was answered. The other bits are the negotiated `init` flags.
const READY: u64 = 1 << 63;

/// What is offered always.
const OFFERED: u64 = init::ASYNC_READ
    | init::ATOMIC_O_TRUNC
    | init::BIG_WRITES
    | init::AUTO_INVAL_DATA
    | init::DO_READDIRPLUS
    | init::READDIRPLUS_AUTO
    | init::ASYNC_DIO
    | init::PARALLEL_DIROPS
    | init::MAX_PAGES
    | init::CACHE_SYMLINKS
    | init::HANDLE_KILLPRIV_V2
    | init::SETXATTR_EXT
    | init::INIT_EXT;

/// The negotiated options, readable by all workers.
#[derive(Default)]
pub(super) struct Session(AtomicU64);

impl Session {
    /// Refuses what comes before INIT.
    pub fn check(&self) -> Result<(), Errno> {
        if self.0.load(Ordering::Acquire) & READY == 0 {
            return Err(Errno::IO);
        }
        Ok(())
    }

    pub fn has(&self, flag: u64) -> bool {
        self.0.load(Ordering::Relaxed) & flag != 0
    }

    /// The negotiated flags, or `None` before INIT.
    pub fn flags(&self) -> Option<u64> {
        let flags = self.0.load(Ordering::Acquire);
        (flags & READY != 0).then_some(flags & !READY)
    }

    pub fn set(&self, flags: Option<u64>) {
        let value = flags.map_or(0, |flags| flags | READY);
        self.0.store(value, Ordering::Release);
    }
}

impl Server {
    /// Flags that this configuration offers.
    pub(super) fn offered(&self) -> u64 {
        if self.config.announce_submounts {
            OFFERED | init::SUBMOUNTS
        } else {
            OFFERED
        }
    }

    pub(super) fn init(
        &self,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
    ) -> Result<(), Errno> {
        let hello: InitIn = rq.arg()?;
        let mut reply = InitOut {
            major: spec::MAJOR,
            minor: spec::MINOR,
            ..InitOut::default()
        };
        if hello.major > spec::MAJOR {
            // The driver asks again with our version.
            return put(out, &reply);
        }
        if hello.major < spec::MAJOR || hello.minor < spec::OLDEST_MINOR {
            return Err(Errno::PROTO);
        }
        let mut wanted = u64::from(hello.flags);
        if wanted & init::INIT_EXT != 0 {
            let more: InitInExt = rq.arg()?;
            wanted |= u64::from(more.flags2) << 32;
        }
        let flags = wanted & self.offered();
        // A new session: what an earlier one held is gone with it.
        self.clear();
        self.session.set(Some(flags));
        reply.max_readahead = hello.max_readahead;
        reply.flags = flags as u32;
        reply.flags2 = (flags >> 32) as u32;
        reply.max_background = MAX_BACKGROUND;
        reply.congestion_threshold = MAX_BACKGROUND / 4 * 3;
        reply.max_write = MAX_IO;
        reply.max_pages = MAX_PAGES;
        reply.time_gran = 1;
        put(out, &reply)
    }

    pub(super) fn destroy(&self) -> Result<(), Errno> {
        self.clear();
        Ok(())
    }

    /// Drops all that a session held.
    pub(in crate::fs) fn clear(&self) {
        self.session.set(None);
        self.handles.clear();
        self.fds.clear();
        self.nodes.clear();
    }
}
