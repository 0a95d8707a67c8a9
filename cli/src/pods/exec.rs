//! `podvmm exec`: one more command in a container of a pod that runs.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use sandbox::monitor::client::ExecHandle;
use sandbox::monitor::{ClientError, ExecRequest, RefusalKind};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

use crate::args::{Exec, Variable};
use crate::pumps::{self, Streams};
use crate::run::{status_of_start, words_of_start};
use crate::terminal::{self, RawMode};

/// Signals that are passed on.
pub(super) const WATCHED: [i32; 7] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH];
/// Within this time a second signal leaves the command to itself.
const AGAIN: Duration = Duration::from_secs(3);

/// What is waited for.
pub(super) enum Event {
    Exited(Result<u8, ClientError>),
    /// The user has asked twice.
    Left(i32),
    /// The user has typed the keys that leave.
    Detached,
}

pub fn exec(args: &Exec, root: Option<&Path>) -> anyhow::Result<u8> {
    if args.interactive && args.tty && !io::stdin().is_terminal() {
        bail!("-t: standard input is not a terminal; leave -t out, or use -t without -i");
    }
    let signals = Signals::new(WATCHED).context("signals cannot be handled")?;
    let view = super::alive(&super::store(root), &args.target.pod)?;
    let mut session = match view.client().exec(request(args)) {
        Err(ClientError::Refused {
            kind: RefusalKind::Start(failure),
            message,
        }) => {
            eprintln!("podvmm: {}: {message}", words_of_start(failure));
            return Ok(status_of_start(Some(failure)));
        }
        other => other.with_context(|| format!("pod {}", view.name))?,
    };
    let raw = if args.tty && args.interactive {
        RawMode::enter()
    } else {
        None
    };
    let outputs = pumps::start(Streams {
        stdin: session.stdin.take(),
        stdout: session.stdout.take(),
        stderr: session.stderr.take(),
    })
    .context("no thread for a standard stream")?;
    let (tell, events) = mpsc::channel();
    watch(signals, session.handle(), tell.clone())?;
    std::thread::spawn(move || {
        let exit = session.wait().map(|exit| exit.code);
        for output in outputs {
            let _ = output.join();
        }
        // The session ends here: what the command wrote has been read.
        drop(session);
        let _ = tell.send(Event::Exited(exit));
    });
    let event = events.recv().context("no thread waits for the command")?;
    drop(raw);
    match event {
        Event::Exited(code) => code.with_context(|| format!("pod {}", view.name)),
        Event::Detached => Ok(0),
        Event::Left(signal) => Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
    }
}

fn request(args: &Exec) -> ExecRequest {
    ExecRequest {
        container: args.target.container.clone(),
        args: args.command.clone(),
        env: args
            .env
            .iter()
            .filter_map(|Variable(text)| text.clone())
            .collect(),
        workdir: args.workdir.clone(),
        user: args.user,
        terminal: args.tty.then(terminal::size),
        stdin: args.interactive,
    }
}

/// Passes signals on, and the terminal's size.
pub(super) fn watch(
    mut signals: Signals,
    command: ExecHandle,
    tell: mpsc::Sender<Event>,
) -> anyhow::Result<()> {
    let thread = std::thread::Builder::new().name("signals".into());
    let watching = move || {
        let mut last: Option<Instant> = None;
        for signal in signals.forever() {
            if signal == SIGWINCH {
                let (rows, cols) = terminal::size();
                let _ = command.resize(rows, cols);
                continue;
            }
            if matches!(signal, SIGINT | SIGTERM | SIGHUP | SIGQUIT) {
                if last.is_some_and(|last| last.elapsed() < AGAIN) {
                    let _ = tell.send(Event::Left(signal));
                    return;
                }
                last = Some(Instant::now());
            }
            let _ = command.signal(signal.unsigned_abs());
        }
    };
    thread.spawn(watching).context("no thread for signals")?;
    Ok(())
}
