//! Commands of the monitor's own in a container: probes and hooks.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use crate::container::{ContainerError, ContainerHandle};
use crate::logging::one_line;
use crate::monitor::plan::ContainerPlan;
use crate::monitor::protocol::ExecRequest;
use crate::monitor::{STACK, exec};
use crate::oci::Stdio;
use crate::pod::Pod;

/// As much of the output is told (the kubelet's maxReadLength).
const MAX_OUTPUT: usize = 10 << 10;
/// How long a killed command may take to be gone until it is left to itself.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long the output of a command that has ended is waited for: others may hold it open.
const OUTPUT_PATIENCE: Duration = Duration::from_millis(500);
const SIGKILL: u32 = 9;

/// What a command came to.
#[derive(Debug)]
pub(super) enum Ran {
    Exited { code: u8, output: String },
    TimedOut,
    Failed(String),
}

pub(super) fn timed_out(args: &[String]) -> String {
    format!("command {:?} timed out", args.join(" "))
}

/// Runs a command as the container's own user, and kills it after `limit`.
pub(super) fn run(
    pod: &Pod,
    plan: &ContainerPlan,
    args: &[String],
    limit: Option<Duration>,
) -> Ran {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let id = format!("monitor-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let request = ExecRequest {
        args: args.to_vec(),
        ..ExecRequest::default()
    };
    let spec = exec::process_spec(plan, &request).to_string();
    let container = pod.container(&plan.name);
    let (tell, told) = mpsc::channel();
    let worker = {
        let (container, id) = (container.clone(), id.clone());
        let thread = std::thread::Builder::new()
            .name("command".into())
            .stack_size(STACK);
        thread.spawn(move || {
            let ran = carry_out(&container, &id, spec.as_bytes());
            let _ = tell.send(ran.unwrap_or_else(|error| Ran::Failed(one_line(&error))));
        })
    };
    if let Err(error) = worker {
        return Ran::Failed(format!("no thread: {error}"));
    }
    let ended = match limit {
        Some(limit) => told.recv_timeout(limit).ok(),
        None => told.recv().ok(),
    };
    ended.unwrap_or_else(|| {
        let _ = container.process(&id).signal(SIGKILL, false);
        // It is not asked again before it has gone, unless it will not go.
        let _ = told.recv_timeout(KILL_PATIENCE);
        Ran::TimedOut
    })
}

fn carry_out(container: &ContainerHandle, id: &str, spec: &[u8]) -> Result<Ran, ContainerError> {
    let mut process = container.run(id, spec, Stdio::pipes(false))?;
    let handle = process.handle();
    let remove = |_: &ContainerError| drop(handle.remove());
    let streams = [process.stdout.take(), process.stderr.take()];
    let (tell, told) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("output".into())
        .stack_size(STACK);
    if let Err(error) = thread.spawn(move || drop(tell.send(collect(streams)))) {
        log::warn!("no thread for a command's output: {error}");
    }
    let exit = handle.wait_and_forget().inspect_err(remove)?;
    // Whoever it has left behind may keep its streams open.
    let output = told.recv_timeout(OUTPUT_PATIENCE).ok();
    Ok(Ran::Exited {
        code: exit.code,
        output: String::from_utf8_lossy(&output.unwrap_or_default()).into_owned(),
    })
}

/// Reads both streams to their ends, and keeps the beginning.
fn collect(streams: [Option<UnixStream>; 2]) -> Vec<u8> {
    let mut streams: Vec<UnixStream> = streams.into_iter().flatten().collect();
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while !streams.is_empty() {
        let ready: Vec<bool> = {
            let mut set: Vec<_> = streams
                .iter()
                .map(|stream| PollFd::new(stream, PollFlags::IN))
                .collect();
            if rustix::io::retry_on_intr(|| poll(&mut set, None)).is_err() {
                return kept;
            }
            set.iter().map(|fd| !fd.revents().is_empty()).collect()
        };
        let mut ready = ready.into_iter();
        streams.retain_mut(|stream| {
            if ready.next() != Some(true) {
                return true;
            }
            match stream.read(&mut buffer) {
                Ok(0) => false,
                Ok(length) => {
                    let room = MAX_OUTPUT.saturating_sub(kept.len());
                    kept.extend_from_slice(&buffer[..length.min(room)]);
                    true
                }
                Err(error) => error.kind() == io::ErrorKind::Interrupted,
            }
        });
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_beginning_of_both_streams_is_kept() {
        let (mut out, from_out) = UnixStream::pair().unwrap();
        let (mut err, from_err) = UnixStream::pair().unwrap();
        let reading = std::thread::spawn(move || collect([Some(from_out), Some(from_err)]));
        out.write_all(b"out").unwrap();
        drop(out);
        err.write_all(&[b'e'; MAX_OUTPUT * 2]).unwrap();
        drop(err);
        let kept = reading.join().unwrap();
        assert_eq!(kept.len(), MAX_OUTPUT);
        assert!(kept.windows(3).any(|bytes| bytes == b"out"));
    }
}
