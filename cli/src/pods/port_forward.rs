//! `podvmm port-forward`: ports of this host that lead to a pod's, until Ctrl-C.

use std::io::{Write, stdout};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc;

use anyhow::{Context, bail};
use sandbox::forward::{self, Dial, Forwarder, PortPlan};
use sandbox::monitor::{ClientError, PodClient};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::args::PortForward;

/// What is waited for.
enum Event {
    /// The user has had enough.
    Asked,
    /// Nothing is left to forward to.
    PodGone,
}

pub fn port_forward(args: &PortForward, root: Option<&Path>) -> anyhow::Result<u8> {
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT]);
    let signals = signals.context("signals cannot be handled")?;
    let view = super::alive(&super::store(root), &args.pod)?;
    let sockets = forward::listen(&plans(args))?;
    for socket in &sockets {
        let host = socket.socket.local_addr()?;
        say(format_args!("Forwarding from {host} -> {}", socket.port))?;
    }
    let _forwarder = Forwarder::start(sockets, ToMonitor(view.client()))
        .context("no thread for the forwarding")?;
    let event = wait(signals, view.client())?;
    match event {
        Event::Asked => Ok(0),
        Event::PodGone => bail!("pod {} has ended", view.name),
    }
}

/// Every port at every address.
fn plans(args: &PortForward) -> Vec<PortPlan> {
    let addresses = args.address.iter().flat_map(|address| &address.0);
    let pairs = addresses.flat_map(|address| {
        let ports = args.ports.iter();
        ports.map(|pair| PortPlan {
            address: Some(*address),
            host: pair.local,
            pod: pair.remote,
        })
    });
    pairs.collect()
}

/// Waits until there is a reason to end.
fn wait(mut signals: Signals, pod: PodClient) -> anyhow::Result<Event> {
    let (tell, told) = mpsc::channel();
    let asked = tell.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if signals.forever().next().is_some() {
                let _ = asked.send(Event::Asked);
            }
        })
        .context("no thread for signals")?;
    std::thread::Builder::new()
        .name("pod".into())
        .spawn(move || {
            // Whatever the answer, there is no pod to forward to afterwards.
            let _ = pod.wait(None);
            let _ = tell.send(Event::PodGone);
        })
        .context("no thread that watches the pod")?;
    told.recv().context("no thread waits for the end")
}

/// Asks the pod's monitor for each connection.
struct ToMonitor(PodClient);

impl Dial for ToMonitor {
    type Error = ClientError;

    fn dial(&self, port: u16) -> Result<std::os::unix::net::UnixStream, ClientError> {
        self.0.dial(port)
    }

    fn connecting(&self, host: SocketAddr) {
        // Nobody may be left to read it, which is no reason to stop.
        let _ = say(format_args!("Handling connection for {}", host.port()));
    }

    fn failed(&self, port: u16, error: ClientError) {
        let error = anyhow::Error::from(error);
        eprintln!("podvmm: port {port} of the pod: {error:#}");
    }
}

fn say(line: std::fmt::Arguments<'_>) -> std::io::Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
