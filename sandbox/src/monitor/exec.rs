//! One more command in a container, for a client that holds its streams.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::STACK;
use super::plan::ContainerPlan;
use super::protocol::{ExecRequest, RefusalKind, Reply, Steer};
use super::record::ContainerPhase;
use super::shared::Shared;
use crate::container::{ContainerError, Process, ProcessHandle, Refusal};
use crate::logging::one_line;
use crate::oci::{self, Stdio, User};
use crate::packet;
use crate::pod::Pod;

/// Runs what `request` asks for, and steers it until the client is gone and the command has ended.
pub(super) fn serve(shared: &Arc<Shared>, socket: OwnedFd, request: &ExecRequest) {
    match start(shared, request) {
        Ok(process) => attend(process, socket),
        Err(refusal) => drop(packet::send(&socket, &refusal, &[])),
    }
}

/// Hands a process's streams over, steers it until it has ended, and waits for the client to be gone.
pub(super) fn attend(process: Process, socket: OwnedFd) {
    let handle = process.handle();
    let streams = [&process.stdout, &process.stderr, &process.stdin];
    let fds: Vec<BorrowedFd<'_>> = streams
        .into_iter()
        .filter_map(|stream| stream.as_ref().map(AsFd::as_fd))
        .collect();
    let is_sent = packet::send(&socket, &Reply::Started, &fds).is_ok();
    drop(process);
    let socket = Arc::new(socket);
    let steering = is_sent.then(|| {
        let (handle, socket) = (handle.clone(), Arc::clone(&socket));
        let thread = std::thread::Builder::new()
            .name("steer".into())
            .stack_size(STACK);
        thread.spawn(move || steer(&handle, &socket))
    });
    match handle.wait_and_forget() {
        Ok(exit) => {
            let _ = packet::send(&*socket, &Reply::Exited(exit.into()), &[]);
        }
        Err(_) => {
            let _ = handle.remove();
            let message = "the pod ended before the command did";
            let gone = Reply::refused(RefusalKind::NotNow, message);
            let _ = packet::send(&*socket, &gone, &[]);
            // Nothing more is to be had: neither side waits for the other.
            let _ = rustix::net::shutdown(&*socket, rustix::net::Shutdown::Both);
        }
    }
    // The client closes when it has read all output.
    if let Some(Ok(steering)) = steering {
        let _ = steering.join();
    }
}

pub(super) fn steer(process: &ProcessHandle, socket: &OwnedFd) {
    while let Ok(Some((steer, _))) = packet::receive::<Steer>(socket) {
        let outcome = match steer {
            Steer::Signal(signal) => process.signal(signal, false),
            Steer::Resize { rows, cols } => process.resize(rows, cols),
        };
        if let Err(error) = outcome {
            log::debug!("exec: {error}");
        }
    }
}

/// A name for one more process.
pub(super) fn new_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    format!("exec-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A container that runs, and its pod.
pub(super) fn running_container<'a>(
    shared: &'a Shared,
    container: Option<&str>,
) -> Result<(Arc<Pod>, &'a ContainerPlan, u32), Reply> {
    let (pod, plan) = super::server::running(shared, container)?;
    let run = {
        let state = shared.lock();
        let record = state.record.container(&plan.name);
        let record = record.filter(|record| record.phase == ContainerPhase::Running);
        record.map(|record| record.restarts)
    };
    let run = run.ok_or_else(|| {
        let message = format!("container {} is not running", plan.name);
        Reply::refused(RefusalKind::NotNow, message)
    })?;
    Ok((pod, plan, run))
}

fn start(shared: &Arc<Shared>, request: &ExecRequest) -> Result<Process, Reply> {
    let (pod, plan, _) = running_container(shared, request.container.as_deref())?;
    if request.args.is_empty() {
        return Err(Reply::refused(RefusalKind::Invalid, "no command was given"));
    }
    let id = new_id();
    let stdio = match request.terminal {
        Some((rows, cols)) => Stdio::Terminal { rows, cols },
        None => Stdio::pipes(request.stdin),
    };
    let spec = process_spec(plan, request).to_string();
    let container = pod.container(&plan.name);
    let mut process = container
        .run(&id, spec.as_bytes(), stdio)
        .map_err(refusal)?;
    if !request.stdin {
        // A terminal has an input whether it is wanted or not.
        process.stdin = None;
    }
    Ok(process)
}

/// The container's own `process` with what the request changes.
pub(super) fn process_spec(plan: &ContainerPlan, request: &ExecRequest) -> Value {
    let mut process = plan.spec["process"].clone();
    process["args"] = json!(request.args);
    process["terminal"] = json!(request.terminal.is_some());
    if let Some(workdir) = &request.workdir {
        process["cwd"] = json!(workdir);
    }
    if let Some(User { uid, gid }) = request.user {
        process["user"] = json!({ "uid": uid, "gid": gid });
        oci::set_capabilities_of(&mut process, uid);
    }
    let own = process["env"].as_array().cloned().unwrap_or_default();
    let mut env: Vec<String> = own
        .iter()
        .filter_map(|variable| variable.as_str().map(str::to_owned))
        .collect();
    if request.terminal.is_some() && !env.iter().any(|variable| variable.starts_with("TERM=")) {
        env.push("TERM=xterm".into());
    }
    for variable in &request.env {
        oci::set_variable(&mut env, variable);
    }
    process["env"] = json!(env);
    process
}

/// What a failed call means to the client.
pub(super) fn refusal(error: ContainerError) -> Reply {
    let kind = match (&error, error.refusal()) {
        (ContainerError::Start { kind, .. }, _) => RefusalKind::Start(*kind),
        (_, Some(Refusal::Invalid)) => RefusalKind::Invalid,
        (_, Some(Refusal::NotFound)) => RefusalKind::NotFound,
        (_, Some(Refusal::NotNow)) => RefusalKind::NotNow,
        _ => RefusalKind::Failed,
    };
    Reply::refused(kind, one_line(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::ContainerConfig;

    fn plan() -> ContainerPlan {
        let mut config = ContainerConfig::command(["sleep", "9"]);
        config.env = vec!["A=1".into(), "B=2".into()];
        config.workdir = "/srv".into();
        ContainerPlan::new(&config)
    }

    #[test]
    fn what_is_not_said_is_as_the_container_has_it() {
        let request = ExecRequest {
            args: vec!["id".into()],
            ..ExecRequest::default()
        };
        let own = plan();
        let process = process_spec(&own, &request);
        assert_eq!(process["args"], json!(["id"]));
        assert_eq!(process["terminal"], false);
        for field in ["cwd", "user", "env", "capabilities"] {
            assert_eq!(process[field], own.spec["process"][field], "{field}");
        }
    }

    #[test]
    fn what_is_said_counts() {
        let request = ExecRequest {
            args: vec!["sh".into()],
            env: vec!["B=3".into(), "C=4".into()],
            workdir: Some("/tmp".into()),
            user: Some(User { uid: 7, gid: 8 }),
            terminal: Some((24, 80)),
            ..ExecRequest::default()
        };
        let process = process_spec(&plan(), &request);
        assert_eq!(process["cwd"], "/tmp");
        assert_eq!(process["user"], json!({"uid": 7, "gid": 8}));
        assert_eq!(process["capabilities"]["effective"], json!([]));
        assert_eq!(process["terminal"], true);
        let env: Vec<_> = process["env"].as_array().unwrap().iter().collect();
        for variable in ["A=1", "B=3", "C=4", "TERM=xterm"] {
            assert!(env.contains(&&json!(variable)), "{variable}: {env:?}");
        }
        assert!(!env.contains(&&json!("B=2")));
    }
}
