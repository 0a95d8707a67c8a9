//! Bytes between this process's standard streams and a command's.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

const STACK: usize = 128 * 1024;
const BUFFER: usize = 64 * 1024;

/// A command's standard streams, as far as they are wanted.
pub struct Streams {
    pub stdin: Option<UnixStream>,
    pub stdout: Option<UnixStream>,
    pub stderr: Option<UnixStream>,
}

/// Starts copying all streams; gives the threads that end with the output.
pub fn start(streams: Streams) -> io::Result<Vec<JoinHandle<()>>> {
    let mut outputs = Vec::new();
    if let Some(stdout) = streams.stdout {
        outputs.push(spawn(
            "stdout",
            stdout,
            rustix::stdio::stdout().as_fd().try_clone_to_owned(),
        )?);
    }
    if let Some(stderr) = streams.stderr {
        outputs.push(spawn(
            "stderr",
            stderr,
            rustix::stdio::stderr().as_fd().try_clone_to_owned(),
        )?);
    }
    if let Some(stdin) = streams.stdin {
        // Never joined: it may wait for input that never comes.
        std::thread::Builder::new()
            .name("stdin".into())
            .stack_size(STACK)
            .spawn(move || copy_input(stdin))?;
    }
    Ok(outputs)
}

fn spawn(
    name: &str,
    mut from: UnixStream,
    to: io::Result<std::os::fd::OwnedFd>,
) -> io::Result<JoinHandle<()>> {
    let mut to = File::from(to?);
    std::thread::Builder::new()
        .name(name.into())
        .stack_size(STACK)
        .spawn(move || {
            // When our side is closed the stream is dropped, and the command is told by SIGPIPE.
            let _ = copy(&mut from, &mut to);
        })
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
