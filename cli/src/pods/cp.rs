//! `podvmm cp`: files into a container, and out of it.
//!
//! ```text
//!   out:  agent's program in the container ── tar ──▶ Unpacker ──▶ hidden directory ──▶ place
//!   in:   archive::write ── tar ──▶ agent's program in the container
//! ```
//!
//! What comes out of a container is hostile. It is unpacked as an image's layer is, into a directory that
//! is new, and then renamed to where it belongs, by descriptors that follow no link.

mod place;

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread::JoinHandle;

use agent_protocol::archive;
use anyhow::{Context, bail};
use sandbox::monitor::{ExecSession, FilesRequest, Way};

use crate::args::{Cp, Side};

/// Longest message of the program in the container that is shown.
const MAX_MESSAGE: u64 = 64 << 10;

pub fn cp(args: &Cp, root: Option<&Path>) -> anyhow::Result<u8> {
    match (&args.from, &args.to) {
        (Side::Pod(target, path), to) if !matches!(to, Side::Pod(..)) => {
            let request = FilesRequest {
                container: target.container.clone(),
                way: Way::Get,
                path: path.clone(),
            };
            let session = begin(&target.pod, &request, root)?;
            match to {
                Side::Local(to) => get(session, to, path),
                _ => print_archive(session),
            }
        }
        (from, Side::Pod(target, path)) if !matches!(from, Side::Pod(..)) => {
            let request = FilesRequest {
                container: target.container.clone(),
                way: match from {
                    Side::Local(_) => Way::Put,
                    _ => Way::PutAsIs,
                },
                path: path.clone(),
            };
            if let Side::Local(from) = from {
                // What is not there needs no pod.
                std::fs::symlink_metadata(from).with_context(|| from.display().to_string())?;
            }
            put(begin(&target.pod, &request, root)?, from)
        }
        _ => bail!("one of the two is POD:PATH, and the other is a path of this machine, or -"),
    }?;
    Ok(0)
}

fn begin(pod: &str, request: &FilesRequest, root: Option<&Path>) -> anyhow::Result<ExecSession> {
    let view = super::alive(&super::store(root), pod)?;
    let session = view.client().files(request);
    session.with_context(|| format!("pod {}", view.name))
}

/// Unpacks what comes to where it belongs.
fn get(mut session: ExecSession, to: &Path, path: &str) -> anyhow::Result<()> {
    let messages = messages(&mut session)?;
    drop(session.stdin.take());
    let from = session.stdout.take().context("the archive has a stream")?;
    let name = archive::name_of(Path::new(path));
    let place = place::Place::find(to, &name)?;
    let unpacked = place.unpack(from);
    // The program's own words say more than that its archive has no end.
    finish(&session, messages)?;
    let staged = unpacked?;
    staged.settle()
}

fn print_archive(mut session: ExecSession) -> anyhow::Result<()> {
    let messages = messages(&mut session)?;
    drop(session.stdin.take());
    let mut from = session.stdout.take().context("the archive has a stream")?;
    let to = rustix::stdio::stdout().as_fd().try_clone_to_owned();
    io::copy(&mut from, &mut File::from(to.context("standard output")?))
        .context("standard output")?;
    finish(&session, messages)
}

fn put(mut session: ExecSession, from: &Side) -> anyhow::Result<()> {
    let messages = messages(&mut session)?;
    drop(session.stdout.take());
    let to = session.stdin.take().context("the archive has a stream")?;
    let sent = match from {
        // As root's, whoever this user is: numbers of users mean nothing over there.
        Side::Local(path) => archive::write(path, Some((0, 0)), io::BufWriter::new(&to)),
        _ => {
            let stdin = rustix::stdio::stdin().as_fd().try_clone_to_owned();
            let mut stdin = File::from(stdin.context("standard input")?);
            io::copy(&mut stdin, &mut &to).map(|_| Vec::new())
        }
    };
    let _ = to.shutdown(Shutdown::Write);
    match sent {
        Ok(left_out) => {
            for path in left_out {
                let path = path.display();
                eprintln!("podvmm: {path}: left out, it is no file, directory or link");
            }
            finish(&session, messages)
        }
        Err(error) => {
            // If the program has given up, it says why.
            finish(&session, messages)?;
            Err(error.into())
        }
    }
}

/// Collects what the program says.
fn messages(session: &mut ExecSession) -> anyhow::Result<JoinHandle<String>> {
    let stderr = session.stderr.take().context("messages have a stream")?;
    let thread = std::thread::Builder::new().name("messages".into());
    let collect = move || {
        let mut text = Vec::new();
        let _ = (&stderr).take(MAX_MESSAGE).read_to_end(&mut text);
        let _ = io::copy(&mut &stderr, &mut io::sink());
        String::from_utf8_lossy(&text).trim_end().to_owned()
    };
    thread.spawn(collect).context("no thread for messages")
}

/// Waits for the program's end, and passes on what it said.
fn finish(session: &ExecSession, messages: JoinHandle<String>) -> anyhow::Result<()> {
    let exit = session.wait();
    let said = messages.join().unwrap_or_default();
    // The container's: control characters could do things to a terminal.
    let said: String = said
        .chars()
        .map(|c| if c.is_control() && c != '\n' { '?' } else { c })
        .collect();
    let exit = exit?;
    if exit.code == 0 {
        for line in said.lines() {
            writeln!(io::stderr(), "podvmm: in the container: {line}")?;
        }
        return Ok(());
    }
    match said.as_str() {
        "" if exit.oom_killed => bail!("in the container: it ran out of memory"),
        "" => bail!("in the container: the copy ended with status {}", exit.code),
        said => bail!("in the container: {said}"),
    }
}
