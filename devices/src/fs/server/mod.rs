//! The file server: one request in, one reply out, from any number of threads at once.
//!
//! ```text
//!   Request ──▶ Server::answer ──▶ lookup · create · remove · attr · xattr · dir · file
//!                    │                 │                  │
//!                 session           nodes ── fds       handles
//! ```
//!
//! Locks guard the tables and are held for the time of a look into them, never over a system call
//! on files.

mod attr;
mod create;
mod dir;
mod fds;
mod file;
mod handles;
mod lookup;
mod nodes;
mod remove;
mod request;
mod session;
mod state;
mod xattr;

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};

use rustix::fs::FileType;
use rustix::io::Errno;

use request::Request;
pub use request::Scratch;

use super::config::FsConfig;
use super::export::ExportSet;
use super::spec::{InHeader, Opcode, OutHeader, ROOT};
use crate::queue::{ChainReader, ChainWriter};
use crate::rate::SharedLimiter;

/// A request that cannot even be refused: there is no room for the header of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("request has room for {room} bytes of reply, less than its header")]
pub struct NoRoom {
    /// Device-writable bytes of the chain.
    pub room: usize,
}

/// What a guest holds of the host, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsUsage {
    /// Nodes that it knows, and the directories above them.
    pub nodes: usize,
    /// `O_PATH` descriptors that are cached for them.
    pub node_fds: usize,
    /// Files and directories that it has open.
    pub handles: usize,
}

/// The file server behind all queues of one device.
pub struct Server {
    config: FsConfig,
    pub(super) exports: ExportSet,
    nodes: nodes::Nodes,
    fds: fds::NodeFds,
    handles: handles::Handles,
    session: session::Session,
    last_saved: state::LastSaved,
    /// Whether files can be given to others: else all that is made is this process's own.
    gives_files_away: bool,
    /// `/proc/self/fd`, through which descriptors are opened anew. Held, so that a process that has
    /// moved to an empty root can still do so.
    proc_fds: OwnedFd,
    /// Lives as long as the server: neither a pause nor a reset fills its buckets.
    pub(super) limiter: SharedLimiter,
}

impl Server {
    pub(super) fn new(config: FsConfig, proc_fds: OwnedFd) -> Self {
        Self {
            nodes: nodes::Nodes::new(config.max_nodes),
            fds: fds::NodeFds::new(config.max_node_fds),
            handles: handles::Handles::new(config.max_handles),
            session: session::Session::default(),
            last_saved: state::LastSaved::default(),
            exports: ExportSet::default(),
            gives_files_away: may_give_files_away(),
            limiter: SharedLimiter::new(config.limit),
            config,
            proc_fds,
        }
    }

    /// Serves the request in `reader` and puts its reply into `writer`. Gives the number of bytes
    /// written: zero for the requests that have no reply.
    ///
    /// # Errors
    /// [`NoRoom`] when a reply is due and not even its header fits.
    pub fn answer(
        &self,
        reader: ChainReader<'_>,
        mut writer: ChainWriter<'_>,
        scratch: &mut Scratch,
    ) -> Result<usize, NoRoom> {
        let mut request = match Request::new(reader) {
            Ok(request) => request,
            Err(header) => return reply(&mut writer, &header, Err(Errno::INVAL)),
        };
        let header = request.header;
        let Some(opcode) = Opcode::new(header.opcode) else {
            return reply(&mut writer, &header, Err(Errno::NOSYS));
        };
        match opcode {
            Opcode::Forget => self.forget(&mut request),
            Opcode::BatchForget => self.batch_forget(&mut request),
            // What runs is never interrupted: no request waits for anything but the host's disk.
            Opcode::Interrupt => {}
            _ => {
                let mut body = writer.clone();
                let Ok(mut head) = body.split(size_of::<OutHeader>()) else {
                    return Err(NoRoom {
                        room: writer.available(),
                    });
                };
                let done = self.execute(opcode, &mut request, &mut body, scratch);
                return reply(&mut head, &header, done);
            }
        }
        Ok(0)
    }

    /// Does what is asked for, and gives the number of bytes that it put into `out`.
    fn execute(
        &self,
        opcode: Opcode,
        rq: &mut Request<'_>,
        out: &mut ChainWriter<'_>,
        scratch: &mut Scratch,
    ) -> Result<usize, Errno> {
        if opcode != Opcode::Init {
            self.session.check()?;
        }
        match opcode {
            Opcode::Read => return self.read(rq, out, scratch),
            Opcode::Init => self.init(rq, out),
            Opcode::Destroy => self.destroy(),
            Opcode::Lookup => self.lookup(rq, out),
            Opcode::Getattr => self.getattr(rq, out),
            Opcode::Setattr => self.setattr(rq, out),
            Opcode::Readlink => self.readlink(rq, out),
            Opcode::Statfs => self.statfs(rq, out),
            Opcode::Symlink => self.symlink(rq, out),
            Opcode::Mknod => self.mknod(rq, out),
            Opcode::Mkdir => self.mkdir(rq, out),
            Opcode::Create => self.create(rq, out),
            Opcode::Tmpfile => self.tmpfile(rq, out),
            Opcode::Link => self.link(rq, out),
            Opcode::Unlink => self.unlink(rq, false),
            Opcode::Rmdir => self.unlink(rq, true),
            Opcode::Rename => self.rename(rq, false),
            Opcode::Rename2 => self.rename(rq, true),
            Opcode::Open => self.open(rq, out),
            Opcode::Write => self.write(rq, out, scratch),
            Opcode::Release | Opcode::Releasedir => self.release(rq),
            Opcode::Fsync => self.fsync(rq),
            Opcode::Fallocate => self.fallocate(rq),
            Opcode::Lseek => self.lseek(rq, out),
            Opcode::CopyFileRange => self.copy_file_range(rq, out),
            Opcode::Syncfs => self.syncfs(),
            Opcode::Opendir => self.opendir(rq, out),
            Opcode::Readdir => self.readdir(rq, out, scratch, false),
            Opcode::Readdirplus => self.readdir(rq, out, scratch, true),
            Opcode::Fsyncdir => self.fsyncdir(rq),
            Opcode::Setxattr => self.setxattr(rq, scratch),
            Opcode::Getxattr => self.getxattr(rq, out, scratch),
            Opcode::Listxattr => self.listxattr(rq, out, scratch),
            Opcode::Removexattr => self.removexattr(rq),
            // ENOSYS is remembered by the driver: it then answers by itself. FLUSH has nothing to
            // do, as each WRITE has reached the host; ACCESS is checked in the guest
            // (`default_permissions`); locks are the guest's own (see the module's page).
            Opcode::Flush | Opcode::Access => Err(Errno::NOSYS),
            Opcode::Getlk | Opcode::Setlk | Opcode::Setlkw => Err(Errno::NOSYS),
            Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt => Ok(()),
        }?;
        Ok(out.written())
    }

    /// The node with number `id`, which must not be the root.
    fn node(&self, id: u64) -> Result<Arc<nodes::Node>, Errno> {
        if id == ROOT {
            return Err(Errno::INVAL);
        }
        self.nodes.get(id)
    }

    /// The node with number `id`, if its export may be changed.
    fn writable_node(&self, id: u64) -> Result<Arc<nodes::Node>, Errno> {
        if id == ROOT {
            return Err(Errno::ROFS);
        }
        let node = self.nodes.get(id)?;
        if node.export.read_only {
            return Err(Errno::ROFS);
        }
        Ok(node)
    }

    /// The directory with number `id` and a descriptor of it, if its export may be changed.
    fn writable_dir(&self, id: u64) -> Result<(Arc<nodes::Node>, Arc<OwnedFd>), Errno> {
        let node = self.writable_node(id)?;
        if node.kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let fd = self.fd(&node)?;
        Ok((node, fd))
    }

    /// Takes the export `name` out of use; `false` when there is none.
    pub(super) fn remove_export(&self, name: &CStr) -> bool {
        let Some(export) = self.exports.remove(name) else {
            return false;
        };
        export.close();
        self.handles.close_export(export.id);
        for node in self.nodes.all() {
            if node.key.export == export.id {
                let mut fd = node.fd.lock().unwrap_or_else(PoisonError::into_inner);
                *fd = None;
            }
        }
        true
    }

    /// What the guest's doings cost at the moment.
    pub(super) fn usage(&self) -> FsUsage {
        FsUsage {
            nodes: self.nodes.len(),
            node_fds: self.fds.len(),
            handles: self.handles.len(),
        }
    }
}

fn may_give_files_away() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::CHOWN))
}

/// Writes the header of a reply whose body has `done` bytes or which failed.
fn reply(
    writer: &mut ChainWriter<'_>,
    request: &InHeader,
    done: Result<usize, Errno>,
) -> Result<usize, NoRoom> {
    let (body, error) = match done {
        Ok(body) => (body, 0),
        Err(errno) => (0, -errno.raw_os_error()),
    };
    let len = size_of::<OutHeader>() + body;
    let header = OutHeader {
        // A chain is checked to be shorter than 4 GiB when its lengths are summed on the ring.
        len: u32::try_from(len).unwrap_or(u32::MAX),
        error,
        unique: request.unique,
    };
    let room = writer.available();
    writer.write_obj(&header).map_err(|_| NoRoom { room })?;
    Ok(len)
}
