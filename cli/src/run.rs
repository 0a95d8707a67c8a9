//! `podvmm run`: one command in one container in one VM.

use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::time::Instant;

use anyhow::{Context, bail};
use sandbox::oci::Mount;
use sandbox::{
    ContainerConfig, ContainerError, Netns, Network, Pod, PodConfig, PodError, Share, StartFailure,
    Stdio, User,
};

use crate::OWN_FAILURE;
use crate::args::{Net, Run};
use crate::image::{Process, Root};
use crate::pumps::Pumps;
use crate::signals::{Interruption, Signals};
use crate::terminal::{self, RawMode};

/// Status of a pod that `--timeout` ended, as timeout(1) has it.
const TIMED_OUT: u8 = 124;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// The pod was ended from outside before its command was.
#[derive(Debug)]
struct Interrupted(Interruption);

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Interruption::Signal(signal) => write!(f, "ended by signal {signal}"),
            Interruption::Timeout => write!(f, "--timeout: the time is over; the pod was ended"),
        }
    }
}

impl std::error::Error for Interrupted {}

/// Runs the command and gives its status.
pub fn run(args: Run) -> anyhow::Result<u8> {
    if args.interactive && args.tty && !std::io::stdin().is_terminal() {
        bail!("-t: standard input is not a terminal; leave -t out, or use -t without -i");
    }
    // Until the pod is there, a signal simply ends this process.
    let root = Root::of(&args)?;
    let signals = Signals::watch(args.timeout).context("signals cannot be handled")?;
    let mut config = pod_config(&args, &root)?;
    config.log = Some(log::max_level()).filter(|level| *level != log::LevelFilter::Off);
    config.cancel = Some(signals.cancellation()?);
    let container = container_config(&args, &config, root.process(&args)?);
    let started = Instant::now();
    let mut pod = Pod::start(config).map_err(|error| interrupted_or(error, &signals))?;
    log::info!(
        "agent ready after {:?}, guest kernel {}",
        started.elapsed(),
        pod.kernel_release()
    );
    for gap in pod.jail_gaps() {
        eprintln!("podvmm: warning: the jail of the VMM process is incomplete: {gap}");
    }
    signals.pod_started(pod.killer()?);
    let outcome = run_container(&pod, &container, args.interactive, &signals);
    match outcome {
        Ok(status) => {
            pod.stop()?;
            Ok(status)
        }
        Err(error) => Err(explain(error, &mut pod, &signals)),
    }
}

/// The status that `error` is told as.
pub fn status_of(error: &anyhow::Error) -> u8 {
    if let Some(Interrupted(interruption)) = error.downcast_ref() {
        return match interruption {
            Interruption::Signal(signal) => u8::try_from(128 + signal).unwrap_or(OWN_FAILURE),
            Interruption::Timeout => TIMED_OUT,
        };
    }
    let start = error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(ContainerError::Start { kind, .. }) => Some(*kind),
        _ => None,
    });
    match start {
        Some(StartFailure::NotFound) => NOT_FOUND,
        Some(StartFailure::NotExecutable) => NOT_EXECUTABLE,
        Some(StartFailure::Other) | None => OWN_FAILURE,
    }
}

fn run_container(
    pod: &Pod,
    config: &ContainerConfig,
    interactive: bool,
    signals: &Signals,
) -> anyhow::Result<u8> {
    let mut container = pod.create_container(config)?;
    let raw = match config.stdio {
        Stdio::Terminal { .. } if interactive => RawMode::enter(),
        Stdio::Terminal { .. } | Stdio::Pipes { .. } => None,
    };
    if !interactive {
        // A terminal has an input whether it is wanted or not.
        container.stdin = None;
    }
    let pumps = Pumps::start(&mut container)?;
    container.start()?;
    signals.container_started(container.handle());
    let exit = container.wait()?;
    pumps.finish();
    drop(raw);
    if exit.oom_killed {
        eprintln!("podvmm: the container ran out of memory; give it more with --mem");
    }
    Ok(exit.code)
}

/// Why the connection to the agent broke, where something better is known than that it did.
fn explain(error: anyhow::Error, pod: &mut Pod, signals: &Signals) -> anyhow::Error {
    if let Some(interruption) = signals.interruption() {
        return Interrupted(interruption).into();
    }
    let broken = error.downcast_ref().is_some_and(|error| match error {
        PodError::Container(error) => !error.is_refusal(),
        _ => false,
    }) || error
        .downcast_ref()
        .is_some_and(|error: &ContainerError| !error.is_refusal());
    match broken.then(|| pod.failure()).flatten() {
        Some(cause) => anyhow::Error::new(cause),
        None => error,
    }
}

fn interrupted_or(error: PodError, signals: &Signals) -> anyhow::Error {
    match signals.interruption() {
        Some(interruption) => Interrupted(interruption).into(),
        None => error.into(),
    }
}

fn pod_config(args: &Run, root: &Root) -> anyhow::Result<PodConfig> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => random_name()?,
    };
    let mut config = PodConfig::new(name);
    config.vcpus = args.cpus;
    config.memory = args.mem;
    config.hostname = args.hostname.clone().unwrap_or_default();
    config.assets.kernel.clone_from(&args.kernel);
    config.assets.initrd.clone_from(&args.initrd);
    if let Some(root) = &args.root {
        config.root.clone_from(root);
    }
    if let Net::Netns(path) = &args.net {
        let mut network = Network::new(Netns::open(path)?);
        network.allow_metadata = args.allow_metadata;
        config.network = Some(network);
    }
    config.net_limit = args.net_rate;
    config.disk_limit = args.disk_rate;
    config.jail = args.jail;
    config.seccomp = args.seccomp;
    config.cgroup.clone_from(&args.cgroup);
    config.rootfs(root.path(), args.rootfs_rw)?;
    for (index, volume) in args.volumes.iter().enumerate() {
        let name = volume_name(index);
        config.shares.push(Share::open(
            "--volume",
            &name,
            &volume.source,
            volume.read_only,
        )?);
    }
    if let Some(path) = &args.console {
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(path);
        config.console =
            Some(file.with_context(|| format!("--console {}: cannot be written", path.display()))?);
    }
    Ok(config)
}

fn volume_name(index: usize) -> String {
    format!("volume-{index}")
}

fn random_name() -> anyhow::Result<String> {
    let mut bytes = [0u8; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("no random numbers for the pod's name")?;
    Ok(format!("pod-{:08x}", u32::from_le_bytes(bytes)))
}

fn container_config(args: &Run, pod: &PodConfig, process: Process) -> ContainerConfig {
    let mut config = ContainerConfig::command(process.run.args);
    config.env = process.run.env;
    config.workdir = process.run.workdir;
    config.user = User {
        uid: process.identity.uid,
        gid: process.identity.gid,
    };
    config.groups = process.identity.groups;
    config.hostname.clone_from(if pod.hostname.is_empty() {
        &pod.name
    } else {
        &pod.hostname
    });
    config.rootfs_writable = args.rootfs_rw;
    config.stdio = if args.tty {
        let (rows, cols) = terminal::size();
        Stdio::Terminal { rows, cols }
    } else {
        Stdio::pipes(args.interactive)
    };
    config.mounts = args
        .volumes
        .iter()
        .enumerate()
        .map(|(index, volume)| Mount {
            share: volume_name(index),
            destination: volume.destination.clone(),
            read_only: volume.read_only,
        })
        .collect();
    config
}
