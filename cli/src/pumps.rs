//! Bytes between this process's standard streams and the container's.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use anyhow::Context;
use sandbox::Process;

const STACK: usize = 128 * 1024;
const BUFFER: usize = 64 * 1024;

/// The threads that copy.
pub struct Pumps {
    outputs: Vec<JoinHandle<()>>,
}

impl Pumps {
    /// Starts copying all streams of `container`.
    pub fn start(container: &mut Process) -> anyhow::Result<Self> {
        let mut outputs = Vec::new();
        if let Some(stdout) = container.stdout.take() {
            outputs.push(spawn(
                "stdout",
                stdout,
                rustix::stdio::stdout().as_fd().try_clone_to_owned(),
            )?);
        }
        if let Some(stderr) = container.stderr.take() {
            outputs.push(spawn(
                "stderr",
                stderr,
                rustix::stdio::stderr().as_fd().try_clone_to_owned(),
            )?);
        }
        if let Some(stdin) = container.stdin.take() {
            // Never joined: it may wait for input that never comes.
            std::thread::Builder::new()
                .name("stdin".into())
                .stack_size(STACK)
                .spawn(move || copy_input(stdin))
                .context("no thread for standard input")?;
        }
        Ok(Self { outputs })
    }

    /// Waits until everything that the container wrote is out.
    pub fn finish(self) {
        for output in self.outputs {
            let _ = output.join();
        }
    }
}

fn spawn(
    name: &str,
    mut from: UnixStream,
    to: io::Result<std::os::fd::OwnedFd>,
) -> anyhow::Result<JoinHandle<()>> {
    let mut to = File::from(to.context("a standard stream cannot be duplicated")?);
    std::thread::Builder::new()
        .name(name.into())
        .stack_size(STACK)
        .spawn(move || {
            // When our side is closed the stream is dropped, and the command is told by SIGPIPE.
            let _ = copy(&mut from, &mut to);
        })
        .context("no thread for a standard stream")
}

/// Copies as bytes come. `io::copy` would use splice(2), which keeps a pipe locked while it waits for
/// the socket: whoever reads our output saw nothing of it until the next came, or the end.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn copy_input(mut to: UnixStream) {
    if let Ok(from) = rustix::stdio::stdin().as_fd().try_clone_to_owned() {
        let _ = copy(&mut File::from(from), &mut to);
    }
    // End of file for the command; what it writes still comes.
    let _ = to.shutdown(Shutdown::Write);
}
