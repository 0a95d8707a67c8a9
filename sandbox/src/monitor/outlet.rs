//! Where the output of containers goes, and their input comes from.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::STACK;
use super::plan::ContainerPlan;
use crate::container::Process;
use crate::logs::{self, LogFile, LogLimits, Stream};

const BUFFER: usize = 64 * 1024;

/// Takes the streams of containers.
pub trait Outlet: Send + Sync {
    /// Takes the streams of `process`, the first of the container `plan`, which is about to start.
    ///
    /// # Errors
    /// When they cannot be taken; then the container does not start.
    fn connect(&self, plan: &ContainerPlan, process: &mut Process) -> io::Result<Connected>;
}

/// Streams that were taken.
#[derive(Debug, Default)]
pub struct Connected {
    /// Threads that end with the output.
    pub outputs: Vec<JoinHandle<()>>,
    /// An input that nobody writes to: kept so that the command does not see its end.
    pub input: Option<UnixStream>,
}

impl Connected {
    /// Waits until everything that was written has gone where it should.
    pub fn finish(self) {
        for output in self.outputs {
            let _ = output.join();
        }
    }
}

/// Writes output to the log files in a pod's directory.
#[derive(Debug)]
pub struct LogOutlet {
    pod: PathBuf,
    limits: LogLimits,
    /// One for each container, however often it starts.
    files: Mutex<HashMap<String, Arc<Mutex<LogFile>>>>,
}

impl LogOutlet {
    /// For the pod with the directory `pod`.
    #[must_use]
    pub fn new(pod: &Path, limits: LogLimits) -> Self {
        Self {
            pod: pod.to_owned(),
            limits,
            files: Mutex::default(),
        }
    }

    fn file(&self, container: &str) -> io::Result<Arc<Mutex<LogFile>>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(container) {
            return Ok(Arc::clone(file));
        }
        let file = LogFile::open(&logs::path(&self.pod, container), self.limits)?;
        let file = Arc::new(Mutex::new(file));
        files.insert(container.to_owned(), Arc::clone(&file));
        Ok(file)
    }
}

impl Outlet for LogOutlet {
    fn connect(&self, plan: &ContainerPlan, process: &mut Process) -> io::Result<Connected> {
        let file = self.file(&plan.name)?;
        let mut connected = Connected::default();
        let streams = [
            (Stream::Stdout, process.stdout.take()),
            (Stream::Stderr, process.stderr.take()),
        ];
        for (stream, from) in streams {
            if let Some(from) = from {
                let file = Arc::clone(&file);
                let thread = std::thread::Builder::new()
                    .name(stream.to_string())
                    .stack_size(STACK);
                let thread = thread.spawn(move || log(from, stream, &file))?;
                connected.outputs.push(thread);
            }
        }
        connected.input = process.stdin.take().filter(|_| plan.stdin);
        Ok(connected)
    }
}

/// Copies until the end. What cannot be written is lost: a full disk must not stop the container.
fn log(mut from: UnixStream, stream: Stream, file: &Mutex<LogFile>) {
    let mut buffer = vec![0; BUFFER];
    let mut is_failing = false;
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = file.append(stream, &buffer[..length]);
        if let Err(error) = &outcome
            && !is_failing
        {
            log::warn!("output is lost: the log cannot be written: {error}");
        }
        is_failing = outcome.is_err();
    }
}
