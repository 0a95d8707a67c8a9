//! Where the output of containers goes, and their input comes from.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::STACK;
use super::plan::ContainerPlan;
use crate::container::Process;
use crate::logs::{self, LogFile, LogLimits, Stream};
use crate::packet;

const BUFFER: usize = 64 * 1024;
/// How long one who has attached may hold up the container by not reading.
const VIEWER_PATIENCE: Duration = Duration::from_secs(5);

/// Takes the streams of containers.
pub trait Outlet: Send + Sync {
    /// Takes the streams of `process`, the first of the container `plan`, which is about to start.
    ///
    /// # Errors
    /// When they cannot be taken; then the container does not start.
    fn connect(&self, plan: &ContainerPlan, process: &mut Process) -> io::Result<Connected>;

    /// Gives the streams of the container `plan`, which runs, to one more who wants to see and type.
    ///
    /// # Errors
    /// When there are none to give.
    fn attach(&self, plan: &ContainerPlan) -> io::Result<Attachment> {
        let _ = plan;
        Err(io::Error::other(
            "its streams are those of the program that runs the pod in the foreground",
        ))
    }
}

/// The streams of a container, from now on.
#[derive(Debug)]
pub struct Attachment {
    /// Standard output, or the terminal's.
    pub stdout: UnixStream,
    /// Standard error; none with a terminal.
    pub stderr: Option<UnixStream>,
    /// The container's own standard input, if it has one.
    pub stdin: Option<UnixStream>,
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

/// Writes output to the log files in a pod's directory, and to whoever has attached.
#[derive(Debug)]
pub struct LogOutlet {
    pod: PathBuf,
    limits: LogLimits,
    /// One for each container, however often it starts.
    channels: Mutex<HashMap<String, Arc<Channel>>>,
}

/// Where the output of one container goes, and where its input comes from.
#[derive(Debug)]
struct Channel {
    log: Mutex<LogFile>,
    viewers: Mutex<Vec<(Stream, UnixStream)>>,
    /// While its command runs, if it has one.
    input: Mutex<Option<UnixStream>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LogOutlet {
    /// For the pod with the directory `pod`.
    #[must_use]
    pub fn new(pod: &Path, limits: LogLimits) -> Self {
        Self {
            pod: pod.to_owned(),
            limits,
            channels: Mutex::default(),
        }
    }

    fn channel(&self, container: &str) -> io::Result<Arc<Channel>> {
        let mut channels = lock(&self.channels);
        if let Some(channel) = channels.get(container) {
            return Ok(Arc::clone(channel));
        }
        let file = LogFile::open(&logs::path(&self.pod, container), self.limits)?;
        let channel = Arc::new(Channel {
            log: Mutex::new(file),
            viewers: Mutex::default(),
            input: Mutex::default(),
        });
        channels.insert(container.to_owned(), Arc::clone(&channel));
        Ok(channel)
    }
}

impl Outlet for LogOutlet {
    fn connect(&self, plan: &ContainerPlan, process: &mut Process) -> io::Result<Connected> {
        let channel = self.channel(&plan.name)?;
        let mut connected = Connected::default();
        let streams = [
            (Stream::Stdout, process.stdout.take()),
            (Stream::Stderr, process.stderr.take()),
        ];
        for (stream, from) in streams {
            if let Some(from) = from {
                let channel = Arc::clone(&channel);
                let thread = std::thread::Builder::new()
                    .name(stream.to_string())
                    .stack_size(STACK);
                let thread = thread.spawn(move || channel.copy(from, stream))?;
                connected.outputs.push(thread);
            }
        }
        connected.input = process.stdin.take().filter(|_| plan.stdin);
        *lock(&channel.input) = match &connected.input {
            Some(input) => Some(input.try_clone()?),
            None => None,
        };
        Ok(connected)
    }

    fn attach(&self, plan: &ContainerPlan) -> io::Result<Attachment> {
        let channel = self.channel(&plan.name)?;
        let stderr = match plan.terminal {
            Some(_) => None,
            None => Some(channel.view(Stream::Stderr)?),
        };
        let input = lock(&channel.input);
        Ok(Attachment {
            stdout: channel.view(Stream::Stdout)?,
            stderr,
            stdin: input.as_ref().map(UnixStream::try_clone).transpose()?,
        })
    }
}

impl Channel {
    /// Copies until the end. What cannot be written is lost: a full disk must not stop the container.
    fn copy(&self, mut from: UnixStream, stream: Stream) {
        let mut buffer = vec![0; BUFFER];
        let mut is_failing = false;
        loop {
            let length = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let outcome = lock(&self.log).append(stream, &buffer[..length]);
            if let Err(error) = &outcome
                && !is_failing
            {
                log::warn!("output is lost: the log cannot be written: {error}");
            }
            is_failing = outcome.is_err();
            lock(&self.viewers).retain_mut(|(viewed, to)| {
                *viewed != stream || to.write_all(&buffer[..length]).is_ok()
            });
        }
        lock(&self.viewers).retain(|(viewed, _)| *viewed != stream);
    }

    /// One more who is given what `stream` has from now on.
    fn view(&self, stream: Stream) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_write_timeout(Some(VIEWER_PATIENCE))?;
        let mut viewers = lock(&self.viewers);
        // Nobody else notices those who have left a container that says nothing.
        viewers.retain(|(_, to)| !packet::peer_is_gone(to));
        viewers.push((stream, ours));
        Ok(theirs)
    }
}

#[cfg(test)]
#[path = "outlet_tests.rs"]
mod tests;
