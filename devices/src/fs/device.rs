//! The life of the file system device.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use thiserror::Error;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::config::FsConfig;
use super::export::{Export, ExportHandle, InvalidExport};
use super::server::Server;
use super::state::{FsStateV1, InvalidFsState};
use super::worker;
use crate::device::{ActivateError, Activation, ActiveDevice, DeviceKind, Stopped, VirtioDevice};
use crate::queue::{ActiveQueue, QueueSize};
use crate::worker::Worker;

/// FORGETs in flight.
const HIPRIO_SIZE: QueueSize = match QueueSize::new(128) {
    Some(size) => size,
    None => unreachable!(),
};
/// Linux takes no more pages into one request than the ring has entries, less four.
const REQUEST_SIZE: QueueSize = match QueueSize::new(512) {
    Some(size) => size,
    None => unreachable!(),
};

/// Why a file system device could not be made.
#[derive(Debug, Error)]
pub enum FsError {
    /// An export is not acceptable.
    #[error("an export cannot be offered")]
    Export(#[from] InvalidExport),
    /// `/proc/self/fd` cannot be opened.
    #[error("cannot open /proc/self/fd, through which files are opened")]
    ProcFds(#[source] io::Error),
}

#[derive(Debug, Error)]
enum StartError {
    #[error("the driver set up no queue {index}")]
    NoQueue { index: usize },
    #[error("cannot start the worker of queue {index}")]
    Worker {
        index: u16,
        #[source]
        source: io::Error,
    },
    #[error("its saved state cannot be taken up")]
    State(#[from] InvalidFsState),
}

/// The file system device.
pub struct Fs {
    server: Arc<Server>,
    queue_sizes: Vec<QueueSize>,
    config_space: Vec<u8>,
}

impl Fs {
    /// A device that offers `exports`; more can be added later through [`exports`](Self::exports).
    ///
    /// Opens `/proc/self/fd` and keeps it, so it must be called where procfs is in sight, by the
    /// process that will serve.
    ///
    /// # Errors
    /// [`FsError`] when two exports have one name, or there is no procfs.
    pub fn new(
        config: FsConfig,
        exports: impl IntoIterator<Item = Export>,
    ) -> Result<Self, FsError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc_fds = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty())
            .map_err(|errno| FsError::ProcFds(errno.into()))?;
        Self::with_proc_fds(config, exports, proc_fds)
    }

    /// As [`new`](Self::new), with `/proc/self/fd` of this process opened by somebody else.
    ///
    /// # Errors
    /// [`FsError::Export`] when two exports have one name.
    pub fn with_proc_fds(
        config: FsConfig,
        exports: impl IntoIterator<Item = Export>,
        proc_fds: OwnedFd,
    ) -> Result<Self, FsError> {
        let mut queue_sizes = vec![HIPRIO_SIZE];
        queue_sizes.resize(1 + usize::from(config.request_queues), REQUEST_SIZE);
        let mut config_space = config.tag.padded().to_vec();
        let request_queues = U32::new(config.request_queues.into());
        config_space.extend_from_slice(request_queues.as_bytes());
        let server = Arc::new(Server::new(config, proc_fds));
        for export in exports {
            server.exports.add(export)?;
        }
        Ok(Self {
            server,
            queue_sizes,
            config_space,
        })
    }

    /// The exports, also after the device has moved into a machine.
    #[must_use]
    pub fn exports(&self) -> ExportHandle {
        ExportHandle(Arc::clone(&self.server))
    }

    fn start(&self, with: &mut Activation) -> Result<Vec<Worker>, StartError> {
        let mut queues = Vec::with_capacity(self.queue_sizes.len());
        for index in 0..self.queue_sizes.len() {
            let queue = with.queues.get_mut(index).and_then(Option::take);
            queues.push(queue.ok_or(StartError::NoQueue { index })?);
        }
        match &with.state {
            Some(state) => self.server.take_up(&FsStateV1::restore(state)?),
            None => self.server.start_afresh(),
        }
        let mut workers = Vec::with_capacity(queues.len());
        for queue in queues {
            let index = queue.index();
            match worker::start(queue, Arc::clone(&self.server), &with.threads) {
                Ok(worker) => workers.push(worker),
                Err(source) => {
                    for worker in workers {
                        drop(worker.stop());
                    }
                    return Err(StartError::Worker { index, source });
                }
            }
        }
        Ok(workers)
    }
}

impl VirtioDevice for Fs {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Fs
    }

    fn queue_sizes(&self) -> &[QueueSize] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> &[u8] {
        &self.config_space
    }

    fn activate(
        self: Box<Self>,
        mut with: Activation,
    ) -> Result<Box<dyn ActiveDevice>, ActivateError> {
        match self.start(&mut with) {
            Ok(workers) => Ok(Box::new(ActiveFs {
                device: self,
                workers,
            })),
            Err(error) => Err(ActivateError {
                kind: DeviceKind::Fs,
                device: self,
                source: error.into(),
            }),
        }
    }
}

/// The device while its workers own the queues.
struct ActiveFs {
    device: Box<Fs>,
    workers: Vec<Worker>,
}

impl ActiveDevice for ActiveFs {
    fn stop(self: Box<Self>) -> Stopped {
        for worker in &self.workers {
            worker.ask_to_stop();
        }
        let queues = self.workers.into_iter().map(Worker::stop);
        let queues = queues.map(|queue| queue.map(ActiveQueue::save)).collect();
        Stopped {
            queues,
            state: self.device.server.save().save(),
            device: self.device,
        }
    }
}
