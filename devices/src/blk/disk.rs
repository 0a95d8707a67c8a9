//! Carrying requests out.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use rustix::io::Errno;
use vm_memory::VolatileSlice;

use super::config::BlkConfig;
use super::request::Request;
use super::spec::{Header, Status};
use crate::queue::{ChainReader, ChainWriter};
use crate::rate::SharedLimiter;
use crate::transfer::{IoVecs, Write, pread_into, pwrite_from, recycle};

/// A chain that cannot even be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadChain {
    #[error("request of {0} bytes, less than its header")]
    NoHeader(usize),
    #[error("request without room for its status")]
    NoStatus,
}

/// A descriptor of the host, and the terms on which the guest has it.
pub(super) struct Disk {
    pub config: BlkConfig,
    pub file: File,
    /// Lives as long as the disk: neither a pause nor a reset fills its buckets.
    pub limiter: SharedLimiter,
}

/// What a worker keeps from request to request, so that none needs an allocation.
#[derive(Default)]
pub(super) struct Scratch {
    slices: Vec<VolatileSlice<'static>>,
    vecs: IoVecs,
}

impl Disk {
    /// Serves the request in `reader` and writes its status. Gives what goes on the used ring: the bytes
    /// that were written from the front on.
    pub fn serve(
        &self,
        mut reader: ChainReader<'_>,
        mut writer: ChainWriter<'_>,
        writes: Write,
        scratch: &mut Scratch,
    ) -> Result<usize, BadChain> {
        let asked = reader.available();
        let header: Header = reader.read_obj().map_err(|_| BadChain::NoHeader(asked))?;
        let room = writer.available();
        let data = room.checked_sub(1).ok_or(BadChain::NoStatus)?;
        let mut out = writer.split(data).map_err(|_| BadChain::NoStatus)?;
        let done = Request::parse(header, &mut reader, &out, &self.config).and_then(|request| {
            self.execute(request, reader, &mut out, writes, scratch)
                .map_err(|errno| {
                    log::debug!("{request:?}: {errno}");
                    Status::IoErr
                })
        });
        let (status, moved) = match done {
            Ok(moved) => (Status::Ok, moved),
            Err(status) => (status, 0),
        };
        self.limiter.take(asked + moved as usize);
        writer
            .write_all(&[status as u8])
            .map_err(|_| BadChain::NoStatus)?;
        // §2.7.8: as many bytes as are written from the front on. The status is behind the data.
        Ok(if out.available() == 0 {
            room
        } else {
            out.written()
        })
    }

    /// Gives how many bytes the request has cost beyond its own.
    fn execute(
        &self,
        request: Request,
        reader: ChainReader<'_>,
        out: &mut ChainWriter<'_>,
        writes: Write,
        scratch: &mut Scratch,
    ) -> Result<u64, Errno> {
        match request {
            Request::Read { offset, len } => {
                self.read(offset, len, out, scratch)?;
                Ok(len as u64)
            }
            Request::Write { offset, len } => {
                self.write(offset, len, reader, writes, scratch)?;
                Ok(0)
            }
            Request::Flush => fdatasync(&self.file).map(|()| 0),
            Request::Id => {
                let id = out.write_all(&self.config.id);
                id.map(|()| 0).map_err(|_| Errno::INVAL)
            }
            Request::Discard { offset, len } => {
                self.clear(FallocateFlags::PUNCH_HOLE, offset, len, writes)?;
                Ok(0)
            }
            Request::Zero { offset, len, unmap } => {
                let how = if unmap {
                    FallocateFlags::PUNCH_HOLE
                } else {
                    FallocateFlags::ZERO_RANGE
                };
                self.clear(how, offset, len, writes)?;
                // The host's kernel may have written them.
                Ok(len)
            }
        }
    }

    /// Reads without marking `out` as written unless all was.
    fn read(
        &self,
        offset: u64,
        len: usize,
        out: &mut ChainWriter<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Errno> {
        let mut ahead = out.clone();
        let mut slices = recycle(std::mem::take(&mut scratch.slices));
        let moved = ahead
            .slices(len, &mut slices)
            .map_err(|_| Errno::INVAL)
            .and_then(|()| pread_into(&self.file, &slices, &mut scratch.vecs, offset));
        scratch.slices = recycle(slices);
        whole(moved?, len)?;
        *out = ahead;
        Ok(())
    }

    fn write(
        &self,
        offset: u64,
        len: usize,
        mut reader: ChainReader<'_>,
        how: Write,
        scratch: &mut Scratch,
    ) -> Result<(), Errno> {
        let mut slices = recycle(std::mem::take(&mut scratch.slices));
        let moved = reader
            .slices(len, &mut slices)
            .map_err(|_| Errno::INVAL)
            .and_then(|()| pwrite_from(&self.file, &slices, &mut scratch.vecs, offset, how));
        scratch.slices = recycle(slices);
        whole(moved?, len)
    }

    fn clear(
        &self,
        how: FallocateFlags,
        offset: u64,
        len: u64,
        writes: Write,
    ) -> Result<(), Errno> {
        let file = self.file.as_fd();
        fallocate(file, how | FallocateFlags::KEEP_SIZE, offset, len)?;
        match writes {
            Write::Durable => fdatasync(file),
            _ => Ok(()),
        }
    }
}

/// A file that somebody has made shorter, or a full one.
fn whole(moved: usize, wanted: usize) -> Result<(), Errno> {
    if moved == wanted {
        Ok(())
    } else {
        Err(Errno::IO)
    }
}
