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
    name: &'static str,
    mut from: UnixStream,
    to: io::Result<std::os::fd::OwnedFd>,
) -> io::Result<JoinHandle<()>> {
    let mut to = File::from(to?);
    std::thread::Builder::new()
        .name(name.into())
        .stack_size(STACK)
        .spawn(move || {
            // When our side is closed the stream is dropped, and the command is told by SIGPIPE.
            if let End::Write(error) = copy(&mut from, &mut to)
                && error.kind() != io::ErrorKind::BrokenPipe
            {
                eprintln!("podvmm: the command's {name} cannot be written, and is lost: {error}");
            }
        })
}

/// Why a copy has ended.
#[derive(Debug)]
enum End {
    /// There is no more.
    Eof,
    /// There may be more.
    Read,
    /// It can be put nowhere.
    Write(io::Error),
}

/// Copies as bytes come. `io::copy` would use splice(2), which keeps a pipe locked while it waits for
/// the socket: whoever reads our output saw nothing of it until the next came, or the end.
fn copy(from: &mut impl Read, to: &mut impl Write) -> End {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return End::Eof,
            Ok(length) => {
                if let Err(error) = to.write_all(&buffer[..length]) {
                    return End::Write(error);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return End::Read,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_told_apart_from_what_cannot_be_read() {
        let mut sink = Vec::new();
        assert!(matches!(copy(&mut &b"hi"[..], &mut sink), End::Eof));
        assert_eq!(sink, b"hi");
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        let end = copy(&mut &b"hi"[..], &mut full);
        let End::Write(error) = end else {
            panic!("{end:?}");
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let mut unreadable = File::open("/").unwrap();
        assert!(matches!(copy(&mut unreadable, &mut sink), End::Read));
    }
}
