//! The process in the background that serves one pod.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use containerd_shim_protos::shim_async::create_task;
use containerd_shim_protos::ttrpc::r#async::Server;
use containerd_shim_protos::ttrpc::r#async::transport::{Listener, Socket};
use futures_util::stream;
use tokio::net::{UnixListener as TokioListener, UnixStream};

use crate::args::Args;
use crate::bundle;
use crate::pod::Pod;
use crate::service::Service;

/// Threads that wait for the guest at a time.
const BLOCKING_THREADS: usize = 64;
/// How long an idle one of them stays.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
const STACK: usize = 256 * 1024;
/// Connections that wait to be accepted, at most.
const BACKLOG: i32 = 128;
/// How long to wait where no connection can be accepted, for want of descriptors as a rule.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// How long the answer to containerd's last call may take.
const LAST_ANSWER: Duration = Duration::from_millis(100);

/// Serves calls on the socket that is standard input, until containerd says that it is over.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let level = args.debug.then_some(log::LevelFilter::Debug);
    sandbox::logging::init("podvmm-shim", Some(level.unwrap_or(log::LevelFilter::Info)));
    let listener = rustix::stdio::stdin()
        .try_clone_to_owned()
        .map(UnixListener::from)
        .context("standard input is no socket: containerd starts this program")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(KEEP_ALIVE)
        .thread_stack_size(STACK)
        .build()
        .context("the shim's event loop")?;
    let done = runtime.block_on(serve(args, listener));
    // A call to a guest that does not answer is not waited for.
    runtime.shutdown_background();
    let _ = std::fs::remove_file(bundle::socket(&args.namespace, &args.id));
    done
}

async fn serve(args: &Args, listener: UnixListener) -> anyhow::Result<()> {
    // Whoever connects is told who listens, which until now is the process that made the socket.
    rustix::net::listen(&listener, BACKLOG).context("the shim's socket")?;
    listener
        .set_nonblocking(true)
        .context("the shim's socket")?;
    let listener = TokioListener::from_std(listener)
        .context("standard input is no socket: containerd starts this program")?;
    let connections = stream::unfold(listener, async |listener| {
        let connection = accept(&listener).await;
        Some((Ok(Socket::new(connection)), listener))
    });
    let (pod, news) = Pod::new(args.clone());
    let listening = tokio::spawn(Arc::clone(&pod).listen(news));
    let service = create_task(Arc::new(Service::new(Arc::clone(&pod))));
    let mut server = Server::new()
        .add_listener(Listener::new(Box::pin(connections)))
        .register_service(service);
    server.start().await.context("the task service")?;
    pod.over.notified().await;
    tokio::time::sleep(LAST_ANSWER).await;
    pod.leave().await;
    pod.publisher.close().await;
    listening.abort();
    Ok(())
}

/// The next connection. The server would try again at once what fails, and say so each time.
async fn accept(listener: &TokioListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((connection, _)) => return connection,
            Err(error) => log::warn!("a call cannot be taken: {error}"),
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}
