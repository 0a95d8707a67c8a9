//! The monitor's socket: one thread accepts, one thread answers each connection.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::geteuid;

use super::plan::ContainerPlan;
use super::protocol::{Ask, ContainerUse, PodStats, RefusalKind, Reply, Request, SOCKET, VERSION};
use super::record::{ContainerPhase, ExitRecord};
use super::shared::{Shared, State};
use super::{STACK, attach, exec, files, ports, resize, supervise};
use crate::packet;
use crate::pod::Pod;
use crate::timestamp::Timestamp;

/// Most connections at a time.
const MAX_CONNECTIONS: usize = 128;
/// How long a client may take to say what it wants.
const ASK_PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether a client that waits is still there.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// How long to wait where no connection can be taken, for want of descriptors as a rule.
const RETRY: Duration = Duration::from_millis(100);
/// How long the last answers may take.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
const SIGKILL: u32 = 9;

/// Answers clients until it is stopped.
pub(super) struct Server {
    quit: OwnedFd,
    acceptor: Option<JoinHandle<()>>,
    busy: Arc<AtomicUsize>,
}

impl Server {
    pub fn start(shared: &Arc<Shared>) -> io::Result<Self> {
        let listener = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        let path = shared.dir.path().join(SOCKET);
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path)?)?;
        rustix::fs::chmod(&path, Mode::RUSR | Mode::WUSR)?;
        rustix::net::listen(&listener, 64)?;
        let quit = eventfd(0, EventfdFlags::CLOEXEC)?;
        let busy = Arc::new(AtomicUsize::new(0));
        let acceptor = {
            let (shared, busy) = (Arc::clone(shared), Arc::clone(&busy));
            let quit = quit.try_clone()?;
            let thread = std::thread::Builder::new()
                .name("requests".into())
                .stack_size(STACK);
            thread.spawn(move || accept(&shared, &listener, &quit, &busy))?
        };
        Ok(Self {
            quit,
            acceptor: Some(acceptor),
            busy,
        })
    }

    /// Takes no more connections, and gives those that wait the time to hear the end.
    pub fn stop(&self) {
        let _ = rustix::io::write(&self.quit, &1u64.to_ne_bytes());
        let began = Instant::now();
        while self.busy.load(Ordering::Acquire) > 0 && began.elapsed() < LAST_ANSWERS {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.quit, &1u64.to_ne_bytes());
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(shared: &Arc<Shared>, listener: &OwnedFd, quit: &OwnedFd, busy: &Arc<AtomicUsize>) {
    loop {
        let mut set = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(quit, PollFlags::IN),
        ];
        let _ = poll(&mut set, None);
        if !set[1].revents().is_empty() {
            return;
        }
        let Some(socket) = take(listener) else {
            continue;
        };
        // Another thread's connection may end at any time: one too few is no harm.
        if busy.load(Ordering::Acquire) >= MAX_CONNECTIONS {
            let message = format!("{MAX_CONNECTIONS} requests are waiting already");
            let _ = packet::send(&socket, &Reply::refused(RefusalKind::NotNow, message), &[]);
            continue;
        }
        busy.fetch_add(1, Ordering::AcqRel);
        let (shared, counted) = (Arc::clone(shared), Arc::clone(busy));
        let thread = std::thread::Builder::new()
            .name("request".into())
            .stack_size(STACK);
        let spawned = thread.spawn(move || {
            serve(&shared, socket);
            counted.fetch_sub(1, Ordering::AcqRel);
        });
        if spawned.is_err() {
            busy.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// A connection, if there is one that can be taken.
fn take(listener: &OwnedFd) -> Option<OwnedFd> {
    match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
        Ok(socket) => Some(socket),
        // Who has called may be gone again.
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => None,
        Err(error) => {
            log::warn!("a request cannot be taken: {error}");
            std::thread::sleep(RETRY);
            None
        }
    }
}

fn serve(shared: &Arc<Shared>, socket: OwnedFd) {
    let request = match hear(&socket) {
        Ok(Some(request)) => request,
        Ok(None) => return,
        Err(refusal) => {
            let _ = packet::send(&socket, &refusal, &[]);
            return;
        }
    };
    let reply = match request {
        Request::Exec(request) => {
            exec::serve(shared, socket, &request);
            return;
        }
        Request::Attach { container, stdin } => {
            attach::serve(shared, socket, container.as_deref(), stdin);
            return;
        }
        Request::Files(request) => {
            files::serve(shared, socket, &request);
            return;
        }
        Request::Dial { port } => return ports::serve(shared, &socket, port),
        Request::Signal { container, signal } => signal_containers(shared, container, signal),
        Request::Stop { grace_ms } => {
            supervise::stop(shared, grace_ms.map(Duration::from_millis));
            Reply::Done
        }
        Request::Destroy => {
            shared.destroy();
            shared.wait_until(None, |state| state.is_over);
            Reply::Done
        }
        Request::Wait { container } => match wait(shared, &socket, container.as_deref()) {
            Some(reply) => reply,
            None => return,
        },
        Request::Stats => stats(shared).unwrap_or_else(|refusal| refusal),
        Request::Resize(request) => {
            resize::resize(shared, request).unwrap_or_else(|refusal| refusal)
        }
        Request::Size => resize::size(shared).unwrap_or_else(|refusal| refusal),
    };
    let _ = packet::send(&socket, &reply, &[]);
}

/// Who asks, and for what; `None` when it is gone or has nothing to say to us.
fn hear(socket: &OwnedFd) -> Result<Option<Request>, Reply> {
    let peer = socket_peercred(socket).map(|peer| peer.uid);
    if !peer.is_ok_and(|uid| uid.is_root() || uid == geteuid()) {
        return Ok(None);
    }
    let limit = |limit| set_socket_timeout(socket, Timeout::Recv, limit);
    if limit(Some(ASK_PATIENCE)).is_err() {
        return Ok(None);
    }
    let malformed = |error: io::Error| {
        Reply::refused(
            RefusalKind::Invalid,
            format!("the request cannot be understood: {error}"),
        )
    };
    // The version first: the rest may have another form.
    let heard = packet::receive::<serde_json::Value>(socket).map_err(malformed)?;
    let Some((any, _)) = heard else {
        return Ok(None);
    };
    if any["version"] != VERSION {
        let theirs = &any["version"];
        let message = format!(
            "the pod's monitor speaks version {VERSION} and this podvmm version {theirs}; use the podvmm that started the pod"
        );
        return Err(Reply::refused(RefusalKind::Version, message));
    }
    let ask: Ask = serde_json::from_value(any).map_err(|error| malformed(error.into()))?;
    let _ = limit(None);
    Ok(Some(ask.request))
}

/// The pod and one of its containers, if there is a VM.
pub(super) fn running<'a>(
    shared: &'a Shared,
    container: Option<&str>,
) -> Result<(Arc<Pod>, &'a ContainerPlan), Reply> {
    let plan = match container {
        Some(name) => shared.container(name),
        None => shared.main(),
    };
    let plan = plan.ok_or_else(|| {
        let names: Vec<_> = shared.containers().iter().map(|c| &*c.name).collect();
        let message = format!(
            "there is no container {:?}; the pod has {}",
            container.unwrap_or_default(),
            names.join(", ")
        );
        Reply::refused(RefusalKind::NotFound, message)
    })?;
    let pod = shared.lock().pod.clone();
    let pod =
        pod.ok_or_else(|| Reply::refused(RefusalKind::NotNow, "the pod has no VM at the moment"))?;
    Ok((pod, plan))
}

fn signal_containers(shared: &Arc<Shared>, container: Option<String>, signal: u32) -> Reply {
    let (pod, plan) = match running(shared, container.as_deref()) {
        Ok(found) => found,
        Err(refusal) => return refusal,
    };
    let is_whole_pod = container.is_none();
    let names: Vec<_> = shared.change(|state| {
        // Who kills a pod does not want it to come back.
        state.no_more_starts |= is_whole_pod && signal == SIGKILL;
        let containers = state.record.containers.iter();
        let meant = containers.filter(|record| {
            record.phase == ContainerPhase::Running && (is_whole_pod || record.name == plan.name)
        });
        meant.map(|record| record.name.clone()).collect()
    });
    if names.is_empty() {
        return Reply::refused(RefusalKind::NotNow, "no container is running");
    }
    for name in names {
        if let Err(error) = pod.container(&name).process("").signal(signal, false) {
            return exec::refusal(error);
        }
    }
    Reply::Done
}

/// `None` when the client has gone away.
fn wait(shared: &Shared, socket: &OwnedFd, container: Option<&str>) -> Option<Reply> {
    if let Some(name) = container
        && shared.container(name).is_none()
    {
        let message = format!("there is no container {name:?}");
        return Some(Reply::refused(RefusalKind::NotFound, message));
    }
    let is_so = |state: &State| {
        state.is_over
            || container.is_some_and(|name| {
                let record = state.record.container(name);
                record.is_some_and(|record| record.phase == ContainerPhase::Exited)
            })
    };
    while !shared.wait_until(Some(LOOK), is_so) {
        if packet::peer_is_gone(socket) {
            return None;
        }
    }
    let state = shared.lock();
    let exit = container.and_then(|name| state.record.container(name)?.exit);
    Some(Reply::Exited(exit.unwrap_or(ExitRecord {
        code: state.record.exit_code(),
        signal: None,
        oom_killed: false,
        at: Timestamp::now(),
    })))
}

fn stats(shared: &Shared) -> Result<Reply, Reply> {
    let (pod, _) = running(shared, None)?;
    let answer = pod.all_stats().map_err(exec::refusal)?;
    let guest = answer.guest.get_or_default();
    let record = shared.lock().record.clone();
    let containers = answer.containers.iter().map(|container| {
        let memory = container.memory.get_or_default();
        let inactive = memory.stat.get("inactive_file").copied().unwrap_or(0);
        let known = record.container(&container.container_id);
        ContainerUse {
            name: container.container_id.clone(),
            cpu_usec: container.cpu.get_or_default().usage_usec,
            memory: memory.current.saturating_sub(inactive),
            memory_limit: Some(memory.limit).filter(|limit| *limit != u64::MAX && *limit != 0),
            pids: container.pids.get_or_default().current,
            read_bytes: container.io.iter().map(|io| io.rbytes).sum(),
            written_bytes: container.io.iter().map(|io| io.wbytes).sum(),
            restarts: known.map_or(0, |known| known.restarts),
            oom_kills: known.map_or(0, |known| known.oom_kills),
        }
    });
    Ok(Reply::Stats(PodStats {
        cpu_usec: guest.cpu.get_or_default().usage_usec,
        memory_total: guest.memory_total,
        memory_available: guest.memory_available,
        cpus: guest.online_cpus,
        containers: containers.collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_taken_is_not_tried_again_at_once() {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let began = Instant::now();
        // It does not listen, and poll says at once that there is something about it.
        assert!(take(&socket.unwrap()).is_none());
        assert!(began.elapsed() >= RETRY);
    }
}
