//! Standard streams between the guest and what containerd made for them.
//!
//! containerd's FIFOs are opened for reading and writing, so that a restart of containerd neither
//! blocks nor ends a container. Who does not read what a container writes slows that container down,
//! and nothing else.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

/// Bytes copied at a time.
const CHUNK: usize = 64 * 1024;

thread_local! {
    /// Shared by all streams: it is in use only between two waits.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

/// Where containerd wants a process's streams: a FIFO's path, a `file://` URI, or empty for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// Standard input.
    pub stdin: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error; not used with a terminal.
    pub stderr: String,
    /// Whether one terminal takes the place of the three.
    pub terminal: bool,
}

impl Paths {
    /// What the guest is asked for.
    pub fn stdio(&self) -> sandbox::Stdio {
        if self.terminal {
            // The size comes with the first resize.
            sandbox::Stdio::Terminal { rows: 0, cols: 0 }
        } else {
            sandbox::Stdio::Pipes {
                stdin: !self.stdin.is_empty(),
                stdout: !self.stdout.is_empty(),
                stderr: !self.stderr.is_empty(),
            }
        }
    }
}

/// The copying of a process's streams.
#[derive(Debug)]
pub struct Streams {
    outputs: Vec<JoinHandle<()>>,
    input: Option<Input>,
}

/// Standard input's way into the guest.
#[derive(Debug)]
enum Input {
    /// Opened when the process starts: until then whoever writes waits, so that a client has seen the
    /// answer to its Create before the end of its input can come.
    Waiting { to: StdUnixStream, path: String },
    /// On its way.
    Copying {
        task: JoinHandle<()>,
        /// Keeps the FIFO from ending when one of its writers goes.
        keeper: Option<pipe::Sender>,
    },
}

impl Streams {
    /// Opens what `paths` names and starts to copy from and to the streams of `process`.
    pub fn connect(process: &mut sandbox::Process, paths: &Paths) -> anyhow::Result<Self> {
        let mut outputs = Vec::new();
        let mut input = None;
        let pairs = [
            (process.stdout.take(), &paths.stdout, "stdout"),
            (process.stderr.take(), &paths.stderr, "stderr"),
        ];
        for (stream, path, name) in pairs {
            let Some(stream) = stream else { continue };
            let stream = nonblocking(stream)?;
            let copying = match Sink::open(path).with_context(|| format!("{name} {path}"))? {
                Sink::Pipe(pipe) => tokio::spawn(async move {
                    let _ = to_pipe(&stream, pipe).await;
                }),
                Sink::File(file) => tokio::spawn(async move {
                    let _ = to_file(&stream, file).await;
                }),
                Sink::None => tokio::spawn(async move {
                    let _ = to_file(&stream, io::sink()).await;
                }),
            };
            outputs.push(copying);
        }
        if let Some(stream) = process.stdin.take()
            && !paths.stdin.is_empty()
        {
            input = Some(Input::Waiting {
                to: stream,
                path: paths.stdin.clone(),
            });
        }
        Ok(Self { outputs, input })
    }

    /// Lets input flow.
    pub fn start_input(&mut self) -> anyhow::Result<()> {
        if let Some(Input::Waiting { to, path }) = self.input.take() {
            let started = nonblocking(to).and_then(|to| Ok(Input::start(to, &path)?));
            self.input = Some(started.with_context(|| format!("stdin {path}"))?);
        }
        Ok(())
    }

    /// Lets the input end when all its writers are gone.
    pub fn close_stdin(&mut self) {
        match &mut self.input {
            // Whoever says so has nothing to write.
            Some(Input::Waiting { to, .. }) => drop(to.shutdown(Shutdown::Write)),
            Some(Input::Copying { keeper, .. }) => *keeper = None,
            None => {}
        }
    }

    /// Nobody is there to read input any more.
    pub fn end_input(&mut self) {
        if let Some(Input::Copying { task, .. }) = self.input.take() {
            task.abort();
        }
    }

    /// Waits until all output is out; what is not after `limit` is given up.
    pub async fn drain(mut self, limit: Duration) {
        self.end_input();
        let all = async {
            for output in &mut self.outputs {
                let _ = output.await;
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            log::warn!("output of a process was not read within {limit:?}; the rest is dropped");
        }
        for output in self.outputs {
            output.abort();
        }
    }
}

impl Input {
    fn start(stream: UnixStream, path: &str) -> io::Result<Self> {
        // In this order: a FIFO opened for writing first would wait for a reader.
        let from = pipe::OpenOptions::new().open_receiver(path)?;
        let keeper = pipe::OpenOptions::new().open_sender(path)?;
        let (_, to) = stream.into_split();
        Ok(Self::Copying {
            task: tokio::spawn(async move {
                let _ = from_pipe(&from, to).await;
            }),
            keeper: Some(keeper),
        })
    }
}

/// Where output goes.
enum Sink {
    Pipe(pipe::Sender),
    File(std::fs::File),
    None,
}

impl Sink {
    fn open(path: &str) -> anyhow::Result<Self> {
        if path.is_empty() {
            return Ok(Self::None);
        }
        if let Some(file) = path.strip_prefix("file://") {
            let file = PathBuf::from(file);
            if let Some(dir) = file.parent() {
                std::fs::create_dir_all(dir)?;
            }
            let file = OpenOptions::new().create(true).append(true).open(file)?;
            return Ok(Self::File(file));
        }
        if path.contains("://") {
            bail!("this way of logging is not supported; FIFOs and file:// are");
        }
        let path = Path::new(path);
        Ok(Self::Pipe(
            pipe::OpenOptions::new()
                .read_write(true)
                .open_sender(path)?,
        ))
    }
}

fn nonblocking(stream: StdUnixStream) -> anyhow::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    Ok(UnixStream::from_std(stream)?)
}

/// Reads once what there is; what of it `write` does not take at once is returned.
fn pass_on(
    read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    write: impl FnOnce(&[u8]) -> io::Result<usize>,
) -> io::Result<Option<Vec<u8>>> {
    BUFFER.with_borrow_mut(|buffer| {
        let length = match read(buffer) {
            Ok(0) => return Ok(None),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Some(Vec::new())),
            Err(error) => return Err(error),
        };
        let written = match write(&buffer[..length]) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        Ok(Some(buffer[written..length].to_vec()))
    })
}

async fn to_pipe(from: &UnixStream, mut to: pipe::Sender) -> io::Result<()> {
    loop {
        from.readable().await?;
        let rest = pass_on(|part| from.try_read(part), |part| to.try_write(part))?;
        match rest {
            None => return Ok(()),
            Some(rest) => to.write_all(&rest).await?,
        }
    }
}

async fn to_file(from: &UnixStream, mut to: impl Write) -> io::Result<()> {
    loop {
        from.readable().await?;
        let rest = pass_on(
            |part| from.try_read(part),
            |part| to.write_all(part).map(|()| part.len()),
        )?;
        if rest.is_none() {
            return Ok(());
        }
    }
}

async fn from_pipe(from: &pipe::Receiver, mut to: OwnedWriteHalf) -> io::Result<()> {
    loop {
        from.readable().await?;
        let rest = pass_on(|part| from.try_read(part), |part| to.try_write(part))?;
        match rest {
            // The end of file for the command; what it writes still comes.
            None => return to.shutdown().await,
            Some(rest) => to.write_all(&rest).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;

    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use tempfile::TempDir;

    use super::*;
    use crate::testing::run;

    /// A FIFO, and whoever writes to it from the guest's side.
    fn stream(dir: &TempDir, name: &str) -> (String, StdUnixStream, JoinHandle<()>) {
        let path = dir.path().join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let path = path.display().to_string();
        let (guest, ours) = StdUnixStream::pair().unwrap();
        let ours = nonblocking(ours).unwrap();
        let Sink::Pipe(sink) = Sink::open(&path).unwrap() else {
            panic!("{path} is no FIFO");
        };
        let copying = tokio::spawn(async move {
            let _ = to_pipe(&ours, sink).await;
        });
        (path, guest, copying)
    }

    /// Writes more than a FIFO and a socket hold; whether all of it was taken.
    fn flood(mut guest: StdUnixStream) -> std::thread::JoinHandle<bool> {
        std::thread::spawn(move || guest.write_all(&vec![b'x'; 4 << 20]).is_ok())
    }

    #[test]
    fn a_fifo_that_nobody_reads_holds_up_its_own_stream_and_no_other() {
        run(async {
            let dir = TempDir::new().unwrap();
            let (_unread, guest, stuck) = stream(&dir, "unread");
            let stuck_writer = flood(guest);
            let (path, guest, copying) = stream(&dir, "read");
            let writer = flood(guest);
            let reader = blocking_reader(&path);
            copying.await.unwrap();
            assert!(writer.join().unwrap());
            assert_eq!(reader.join().unwrap(), 4 << 20);
            assert!(!stuck_writer.is_finished(), "a FIFO took 4 MiB");
            // When the process has ended its output is waited for, though not for ever.
            let streams = Streams {
                outputs: vec![stuck],
                input: None,
            };
            streams.drain(Duration::from_millis(50)).await;
            let outcome = tokio::task::spawn_blocking(move || stuck_writer.join().unwrap());
            assert!(!outcome.await.unwrap(), "the writer was not told");
        });
    }

    /// How many bytes come out of a FIFO, of which this is the only reader.
    fn blocking_reader(path: &str) -> std::thread::JoinHandle<usize> {
        let flags = rustix::fs::OFlags::CLOEXEC.bits().cast_signed();
        let mut fifo = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .unwrap();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            fifo.read_to_end(&mut bytes).unwrap();
            bytes.len()
        })
    }

    #[test]
    fn a_log_goes_to_a_file_or_a_fifo_and_nowhere_else() {
        run(async {
            let dir = TempDir::new().unwrap();
            let file = dir.path().join("deep/er/log");
            let uri = format!("file://{}", file.display());
            assert!(matches!(Sink::open(&uri).unwrap(), Sink::File(_)));
            assert!(matches!(Sink::open("").unwrap(), Sink::None));
            for wrong in ["binary:///bin/sh", "/no/such/fifo"] {
                assert!(Sink::open(wrong).is_err(), "{wrong}");
            }
        });
    }
}
