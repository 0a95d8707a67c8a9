//! `delete`: cleans up after a shim that is gone, or that containerd has given up.
//!
//! ```text
//!   shim answers ──▶ it is told to end, and does the rest itself
//!   shim is gone ──▶ what it left is removed ──┐ takes too long
//!   shim hangs ────────────────────────────────┴───────────────▶ `clean-up`, in the background:
//!                                                    kills the shim, removes what it left
//! ```

use std::io::Write;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use containerd_shim_protos::api::{DeleteResponse, ShutdownRequest};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::{Client, TaskClient, ttrpc};

use crate::args::Args;
use crate::bundle;
use crate::cgroup::{self, IN_THE_END};
use crate::listener::{self, Dialled};
use crate::process::{KILLED, timestamp};

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
    match listener::dial(&socket) {
        Dialled::Nobody => {}
        Dialled::Connected(shim) => {
            return is_told_to_end(shim, answer) || !listener::is_there(&socket);
        }
        Dialled::Full => return false,
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
fn is_told_to_end(shim: UnixStream, limit: Duration) -> bool {
    let request = ShutdownRequest {
        now: true,
        ..Default::default()
    };
    let nanoseconds = i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX);
    // The client owns the descriptor.
    Client::new(shim.into_raw_fd()).is_ok_and(|client| {
        let context = ttrpc::context::with_timeout(nanoseconds);
        TaskClient::new(client).shutdown(context, &request).is_ok()
    })
}

/// Kills the shim that listens on `socket`, and waits until nobody does.
fn kill(socket: &Path) -> bool {
    match listener::kill(socket) {
        Ok(false) => {}
        Ok(true) => log::warn!(
            "{}: the shim did not answer and was killed",
            socket.display()
        ),
        Err(error) => {
            log::warn!("{}: the shim cannot be killed: {error}", socket.display());
            return false;
        }
    }
    while listener::is_there(socket) {
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
