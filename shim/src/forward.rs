//! Port forwarding: what is said to localhost in the pod's network namespace goes to the guest's.
//!
//! containerd dials `localhost` in there, as if the pod's servers listened on the node.

use std::net::TcpListener as StdTcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sandbox::net::Localhost;
use sandbox::{Netns, Pod as Vm};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::AbortHandle;

use crate::pod::blocking;

/// How long to wait where no connection can be accepted, for want of descriptors as a rule.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Forwards what comes to the localhost of the network namespace at `path`, until it is aborted. It holds
/// the namespace.
pub fn start(path: &Path, vm: &Arc<Vm>) -> anyhow::Result<AbortHandle> {
    let (listener, attached) = Localhost::listen(&Netns::open(path)?)?.into_parts();
    listener.set_nonblocking(true)?;
    let task = tokio::spawn(forward(listener, attached, Arc::clone(vm)));
    Ok(task.abort_handle())
}

async fn forward(listener: StdTcpListener, _attached: OwnedFd, vm: Arc<Vm>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return log::warn!("port forwarding: {error}"),
    };
    loop {
        match listener.accept().await {
            Ok((connection, _)) => {
                let vm = Arc::clone(&vm);
                tokio::spawn(async move {
                    if let Err(error) = carry(connection, vm).await {
                        log::debug!("port forwarding: {error:#}");
                    }
                });
            }
            Err(error) => {
                log::debug!("port forwarding: {error}");
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
}

/// Carries one connection into the guest and back.
async fn carry(mut connection: TcpStream, vm: Arc<Vm>) -> anyhow::Result<()> {
    let port = connection.local_addr()?.port();
    match dial(port, vm).await {
        Ok(mut guest) => {
            copy_bidirectional(&mut connection, &mut guest).await?;
            Ok(())
        }
        Err(error) => {
            // The kernel has accepted for us what the guest refuses: take it back by a reset.
            let _ = connection.set_zero_linger();
            Err(error).with_context(|| format!("port {port}"))
        }
    }
}

async fn dial(port: u16, vm: Arc<Vm>) -> anyhow::Result<UnixStream> {
    let guest = blocking(move || vm.dial_localhost(port)).await??;
    guest.set_nonblocking(true)?;
    Ok(UnixStream::from_std(guest)?)
}
