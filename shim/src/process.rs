//! A process that containerd knows: the first of a task, or one that was added.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use sandbox::ProcessHandle;
use tokio::sync::watch;

use crate::streams::{Paths, Streams};

/// How long the last output of a process may take to be read before it is given up.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// The signal's number on Linux.
pub const SIGKILL: u32 = 9;
/// Status of what was killed, of what was asked to end and did, and of what a VM has ended under.
pub const KILLED: u32 = 128 + SIGKILL;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit status, or 128 plus the number of the signal.
    pub status: u32,
    /// When, by the host's clock.
    pub at: SystemTime,
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Made, and not told to run.
    Created,
    /// Told to run.
    Running,
    /// No more.
    Ended(Ended),
}

/// A process.
#[derive(Debug)]
pub struct Process {
    /// Where containerd wants its streams.
    pub paths: Paths,
    /// In the guest; none for a pod's sandbox task, which is the VM.
    pub handle: Option<ProcessHandle>,
    /// Held from a change to the end of telling containerd, so that events come in order.
    pub order: tokio::sync::Mutex<()>,
    stage: watch::Sender<Stage>,
    /// Whether the guest has told of its end.
    is_told: AtomicBool,
    streams: Mutex<Option<Streams>>,
}

impl Process {
    /// One that was just made.
    pub fn new(paths: Paths, handle: Option<ProcessHandle>, streams: Option<Streams>) -> Self {
        Self {
            paths,
            handle,
            order: tokio::sync::Mutex::new(()),
            stage: watch::Sender::new(Stage::Created),
            is_told: AtomicBool::new(false),
            streams: Mutex::new(streams),
        }
    }

    /// Where it is in its life.
    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// It was told to run.
    pub fn set_running(&self) {
        self.stage.send_if_modified(|stage| {
            let starts = *stage == Stage::Created;
            if starts {
                *stage = Stage::Running;
            }
            starts
        });
    }

    /// The guest tells that it has ended; `false` if it has told before. It can say so as often as it likes.
    pub fn hear_of_end(&self) -> bool {
        !self.is_told.swap(true, Ordering::Relaxed)
    }

    /// It has ended; `false` if that was known.
    pub fn set_ended(&self, ended: Ended) -> bool {
        let news = self.stage.send_if_modified(|stage| {
            let news = !matches!(stage, Stage::Ended(_));
            if news {
                *stage = Stage::Ended(ended);
            }
            news
        });
        if news && let Some(streams) = &mut *self.streams() {
            streams.end_input();
        }
        news
    }

    /// Waits for its end.
    pub async fn wait(&self) -> Ended {
        let mut stage = self.stage.subscribe();
        loop {
            if let Stage::Ended(ended) = *stage.borrow_and_update() {
                return ended;
            }
            // The sender is ours: it cannot be gone.
            let _ = stage.changed().await;
        }
    }

    /// Lets input flow to what was told to run.
    pub fn start_input(&self) -> anyhow::Result<()> {
        match &mut *self.streams() {
            Some(streams) => streams.start_input(),
            None => Ok(()),
        }
    }

    /// No more input comes after what has been written to the FIFO.
    pub fn close_stdin(&self) {
        if let Some(streams) = &mut *self.streams() {
            streams.close_stdin();
        }
    }

    /// Waits until its last output has been read, though not for ever, and lets go of the streams.
    pub async fn drain(&self) {
        let streams = self.streams().take();
        if let Some(streams) = streams {
            streams.drain(DRAIN_TIME).await;
        }
    }

    fn streams(&self) -> MutexGuard<'_, Option<Streams>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A time as protobuf has it.
pub fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos().cast_signed(),
        ..Default::default()
    }
}
