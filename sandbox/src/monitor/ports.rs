//! The pod's ports: those that are published while it runs, and those that a client asks for.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use super::protocol::{RefusalKind, Reply};
use super::record::PortRecord;
use super::shared::Shared;
use super::{MonitorError, exec};
use crate::container::ContainerError;
use crate::forward::{self, Dial, Forwarder, Listening};
use crate::logging::one_line;
use crate::packet;

/// The ports that the plan publishes.
#[derive(Default)]
pub(super) struct Ports(Mutex<State>);

#[derive(Default)]
struct State {
    taken: Vec<Listening>,
    forwarder: Option<Forwarder>,
}

impl Ports {
    /// Takes them, before there is a VM; who connects waits.
    pub fn take(&self, shared: &Shared) -> Result<(), MonitorError> {
        let taken = forward::listen(&shared.plan.publish)?;
        let records = taken.iter().filter_map(|listening| {
            let host = listening.socket.local_addr().ok()?;
            let pod = listening.port;
            Some(PortRecord { host, pod })
        });
        let records: Vec<_> = records.collect();
        if !records.is_empty() {
            shared.change(|state| state.record.ports = records);
        }
        self.lock().taken = taken;
        Ok(())
    }

    /// Lets connections through to the pod, which runs now.
    pub fn open(&self, shared: &Arc<Shared>) -> Result<(), MonitorError> {
        let mut state = self.lock();
        let taken = std::mem::take(&mut state.taken);
        if !taken.is_empty() {
            let dial = ToPod(Arc::clone(shared));
            state.forwarder = Some(Forwarder::start(taken, dial).map_err(MonitorError::Thread)?);
        }
        Ok(())
    }

    /// Gives them back, and ends what goes through them.
    pub fn close(&self) {
        let state = std::mem::take(&mut *self.lock());
        drop(state);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Dials the servers of the pod, while there is one.
struct ToPod(Arc<Shared>);

impl Dial for ToPod {
    type Error = Option<ContainerError>;

    fn dial(&self, port: u16) -> Result<UnixStream, Self::Error> {
        let pod = self.0.lock().pod.clone().ok_or(None)?;
        pod.dial_localhost(port).map_err(Some)
    }

    fn failed(&self, port: u16, error: Self::Error) {
        if let Some(error) = error {
            log::info!("published port {port}: {}", one_line(&error));
        }
    }
}

/// Connects a client to a port of the pod: it is given the connection itself.
pub(super) fn serve(shared: &Shared, socket: &OwnedFd, port: u16) {
    let pod = shared.lock().pod.clone();
    let outcome = match pod {
        Some(pod) => pod.dial_localhost(port).map_err(exec::refusal),
        None => Err(Reply::refused(
            RefusalKind::NotNow,
            "the pod has no VM at the moment",
        )),
    };
    let _ = match outcome {
        Ok(stream) => packet::send(socket, &Reply::Connected, &[stream.as_fd()]),
        Err(refusal) => packet::send(socket, &refusal, &[]),
    };
}
