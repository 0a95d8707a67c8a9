//! `podvmm attach`: the streams of a container's own command.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;

use anyhow::Context;
use signal_hook::iterator::Signals;

use super::exec::{self, Event, WATCHED};
use crate::args::Attach;
use crate::pumps::{self, Streams};
use crate::terminal::{self, RawMode};

/// ctrl-p ctrl-q, as docker and podman have it.
const LEAVE: [u8; 2] = [0x10, 0x11];

pub fn attach(args: &Attach, root: Option<&Path>) -> anyhow::Result<u8> {
    let signals = Signals::new(WATCHED).context("signals cannot be handled")?;
    let view = super::alive(&super::store(root), &args.target.pod)?;
    let container = args.target.container.as_deref();
    let attached = view.client().attach(container, !args.no_stdin);
    let attached = attached.with_context(|| format!("pod {}", view.name))?;
    let mut session = attached.session;
    let stdin = session.stdin.take();
    let raw = match attached.terminal && stdin.is_some() {
        true => RawMode::enter(),
        false => None,
    };
    if attached.terminal {
        let (rows, cols) = terminal::size();
        let _ = session.handle().resize(rows, cols);
    }
    let outputs = pumps::start(Streams {
        stdin: None,
        stdout: session.stdout.take(),
        stderr: session.stderr.take(),
    })
    .context("no thread for a standard stream")?;
    let (tell, events) = mpsc::channel();
    exec::watch(signals, session.handle(), tell.clone())?;
    if let Some(stdin) = stdin {
        let (tell, once) = (tell.clone(), attached.stdin_once);
        let keys = raw.is_some();
        let thread = std::thread::Builder::new().name("stdin".into());
        let typing = move || {
            if type_into(stdin, keys, once) {
                let _ = tell.send(Event::Detached);
            }
        };
        thread.spawn(typing).context("no thread for the input")?;
    }
    std::thread::spawn(move || {
        let exit = session.wait().map(|exit| exit.code);
        for output in outputs {
            let _ = output.join();
        }
        let _ = tell.send(Event::Exited(exit));
    });
    let event = events.recv().context("no thread waits for the container")?;
    drop(raw);
    match event {
        Event::Exited(code) => code.with_context(|| format!("pod {}", view.name)),
        Event::Left(signal) => Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
        Event::Detached => Ok(0),
    }
}

/// Passes this process's input on, and tells whether its user wants to leave.
fn type_into(to: UnixStream, keys: bool, once: bool) -> bool {
    let Ok(from) = rustix::stdio::stdin().as_fd().try_clone_to_owned() else {
        return false;
    };
    let leaves = copy(File::from(from), &to, keys);
    // Without stdinOnce the input stays open for the next one who attaches.
    if once && !leaves {
        let _ = to.shutdown(Shutdown::Write);
    }
    leaves
}

/// Copies until the end, or until the keys that leave. A first one of them is held back until it is known
/// what comes after it.
fn copy(mut from: impl Read, mut to: impl Write, keys: bool) -> bool {
    let mut buffer = [0; 4096];
    let mut is_held = false;
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => return false,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return false,
        };
        if !keys {
            if to.write_all(&buffer[..length]).is_err() {
                return false;
            }
            continue;
        }
        let mut passed = Vec::with_capacity(length + 1);
        for byte in &buffer[..length] {
            match (is_held, *byte) {
                (true, byte) if byte == LEAVE[1] => {
                    let _ = to.write_all(&passed);
                    return true;
                }
                (false, byte) if byte == LEAVE[0] => is_held = true,
                (was_held, byte) => {
                    if was_held {
                        passed.push(LEAVE[0]);
                    }
                    is_held = was_held && byte == LEAVE[0];
                    if !is_held {
                        passed.push(byte);
                    }
                }
            }
        }
        if to.write_all(&passed).is_err() {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &[u8]) -> (Vec<u8>, bool) {
        let mut to = Vec::new();
        // One at a time, and all at once.
        let leaves = copy(
            keys.chunks(1)
                .fold(Box::new(io::empty()) as Box<dyn Read>, |all, key| {
                    Box::new(all.chain(key))
                }),
            &mut to,
            true,
        );
        let mut again = Vec::new();
        assert_eq!(copy(keys, &mut again, true), leaves);
        assert_eq!(again, to);
        (to, leaves)
    }

    #[test]
    fn two_keys_leave_and_everything_else_is_passed_on() {
        assert_eq!(typed(b"ls\r"), (b"ls\r".to_vec(), false));
        assert_eq!(typed(b"a\x10\x11b"), (b"a".to_vec(), true));
        assert_eq!(typed(b"\x10a\x11"), (b"\x10a\x11".to_vec(), false));
        assert_eq!(typed(b"\x10\x10\x11"), (b"\x10".to_vec(), true));
        assert_eq!(typed(b"\x11\x10"), (b"\x11".to_vec(), false));
        let mut to = Vec::new();
        assert!(!copy(&b"\x10\x11"[..], &mut to, false));
        assert_eq!(to, b"\x10\x11");
    }
}
