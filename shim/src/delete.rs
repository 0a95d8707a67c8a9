//! `delete`: cleans up after a shim that is gone, or that containerd has given up.
//!
//! ```text
//!   shim answers ──▶ it is told to end, and does the rest itself
//!   shim is gone ──▶ what it left is removed ──┐ takes too long
//!   shim hangs ────────────────────────────────┴───────────────▶ `clean-up`, in the background:
//!                                                    kills the shim, removes what it left
//! ```

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use containerd_shim_protos::api::{DeleteResponse, ShutdownRequest};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::{Client, TaskClient, ttrpc};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::args::Args;
use crate::bundle;
use crate::cgroup::{self, IN_THE_END};
use crate::process::timestamp;

/// Status of what was killed.
const KILLED: u32 = 128 + 9;
/// How long the shim may take to answer, and what is left of it to go away, before that becomes the
/// background's. Both together are less than containerd waits for this command.
const AT_ONCE: Duration = Duration::from_millis(1500);
/// How long a shim may take to answer in the background, before it is killed.
const HANGS: Duration = Duration::from_secs(10);
/// After the shim was killed, until it is looked at again.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Ends the container's shim, if it was one's, or removes what it left, and says on standard output
/// that the container has ended.
///
/// containerd calls this for each task that it has deleted, and for each whose shim it has lost. For the
/// containers of a pod there is nothing to do.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if !clean(args, AT_ONCE, AT_ONCE)
        && let Err(error) = finish_in_background(args)
    {
        log::warn!("what is left of {} stays: {error:#}", args.id);
    }
    let response = DeleteResponse {
        exit_status: KILLED,
        exited_at: Some(timestamp(SystemTime::now())).into(),
        ..Default::default()
    };
    let bytes = response.write_to_bytes().context("the answer")?;
    std::io::stdout().write_all(&bytes).context("the answer")
}

/// Does what [`run`] had no time for.
pub fn finish(args: &Args) {
    let socket = bundle::socket(&args.namespace, &args.id);
    if !clean(args, HANGS, IN_THE_END) && kill(&socket) {
        clean(args, HANGS, IN_THE_END);
    }
}

/// Sees to it that shim and VM are gone, or are going by themselves; `false` if that takes too long.
fn clean(args: &Args, answer: Duration, rest: Duration) -> bool {
    let socket = bundle::socket(&args.namespace, &args.id);
    if UnixStream::connect(&socket).is_ok() {
        return is_told_to_end(&socket, answer) || UnixStream::connect(&socket).is_err();
    }
    // The VM needs no killing: it ends with its shim.
    sandbox::rundir::remove_abandoned(&bundle::root(&args.namespace).join(&args.id));
    let _ = std::fs::remove_file(&socket);
    let Some(cgroup) = bundle::noted_cgroup(&args.namespace, &args.id) else {
        return true;
    };
    let is_gone = cgroup::remove_empty(&cgroup, rest);
    if is_gone {
        bundle::forget_cgroup(&args.namespace, &args.id);
    }
    is_gone
}

/// Asks the shim to end, whatever tasks it has; `false` if it does not say yes.
fn is_told_to_end(socket: &Path, limit: Duration) -> bool {
    let request = ShutdownRequest {
        now: true,
        ..Default::default()
    };
    let nanoseconds = i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX);
    Client::connect(&format!("unix://{}", socket.display())).is_ok_and(|client| {
        let context = ttrpc::context::with_timeout(nanoseconds);
        TaskClient::new(client).shutdown(context, &request).is_ok()
    })
}

/// Kills the shim that listens on `socket`, and waits until nobody does.
fn kill(socket: &PathBuf) -> bool {
    let Ok(connection) = UnixStream::connect(socket) else {
        return true;
    };
    // Who has that number now is the one who listens, or the connection would be closed.
    let shim =
        socket_peercred(&connection).and_then(|peer| pidfd_open(peer.pid, PidfdFlags::empty()));
    match shim.and_then(|shim| pidfd_send_signal(shim, Signal::KILL)) {
        Ok(()) => log::warn!(
            "{}: the shim did not answer and was killed",
            socket.display()
        ),
        // It has ended meanwhile, and may not be reaped yet (EINVAL).
        Err(Errno::SRCH | Errno::INVAL) => {}
        Err(error) => {
            log::warn!("{}: the shim cannot be killed: {error}", socket.display());
            return false;
        }
    }
    while UnixStream::connect(socket).is_ok() {
        sleep(POLL_INTERVAL);
    }
    true
}

/// Starts `clean-up`, with none of what containerd waits for.
fn finish_in_background(args: &Args) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("this program's path")?;
    let mut command = Command::new(program);
    command
        .args(["-namespace", &args.namespace, "-id", &args.id])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    command.arg("clean-up").spawn().context("clean-up")?;
    Ok(())
}
