//! The streams of a container's own command, for a client that wants to see and type.
//!
//! Output is what is written from now on. It goes to the log as before, and a client that does not read
//! holds the container up for a while, then loses its streams. The input is the container's own: the
//! client's bytes do not pass through here.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::protocol::{RefusalKind, Reply};
use super::shared::{Shared, State};
use super::{STACK, exec, server};
use crate::packet;

/// Gives the client the streams of `container`, and steers it until it has ended or the client is gone.
pub(super) fn serve(shared: &Arc<Shared>, socket: OwnedFd, container: Option<&str>, stdin: bool) {
    let (name, run) = match begin(shared, &socket, container, stdin) {
        Ok(begun) => begun,
        Err(refusal) => {
            let _ = packet::send(&socket, &refusal, &[]);
            return;
        }
    };
    let socket = Arc::new(socket);
    let pod = shared.lock().pod.clone();
    let steering = pod.map(|pod| {
        let (process, socket) = (pod.container(&name).process(""), Arc::clone(&socket));
        let thread = std::thread::Builder::new()
            .name("steer".into())
            .stack_size(STACK);
        thread.spawn(move || exec::steer(&process, &socket))
    });
    let is_so = |state: &State| state.is_over || !state.is_running(&name, run);
    while !shared.wait_until(Some(server::LOOK), is_so) {
        if packet::peer_is_gone(&*socket) {
            return;
        }
    }
    let exit = {
        let state = shared.lock();
        state.record.container(&name).and_then(|record| record.exit)
    };
    let reply = match exit {
        Some(exit) => Reply::Exited(exit),
        None => Reply::refused(
            RefusalKind::NotNow,
            "the pod ended before its container did",
        ),
    };
    let _ = packet::send(&*socket, &reply, &[]);
    if let Some(Ok(steering)) = steering {
        let _ = steering.join();
    }
}

/// Hands the streams over; gives the container's name and which run of it this is.
fn begin(
    shared: &Shared,
    socket: &OwnedFd,
    container: Option<&str>,
    stdin: bool,
) -> Result<(String, u32), Reply> {
    let refused = |message: String| Reply::refused(RefusalKind::NotNow, message);
    let (_, plan, run) = exec::running_container(shared, container)?;
    let mut streams = shared.outlet.attach(plan).map_err(|error| {
        refused(format!(
            "container {} cannot be attached: {error}",
            plan.name
        ))
    })?;
    if !stdin {
        streams.stdin = None;
    }
    let reply = Reply::Attached {
        terminal: plan.terminal.is_some(),
        stdin: streams.stdin.is_some(),
        stdin_once: plan.stdin_once,
    };
    let fds: Vec<BorrowedFd<'_>> = [Some(&streams.stdout), streams.stderr.as_ref()]
        .into_iter()
        .chain([streams.stdin.as_ref()])
        .flatten()
        .map(AsFd::as_fd)
        .collect();
    packet::send(socket, &reply, &fds).map_err(|error| refused(error.to_string()))?;
    Ok((plan.name.clone(), run))
}
