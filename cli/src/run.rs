//! `podvmm run`: one command in one container in one VM.

use std::io::{self, IsTerminal};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use log::LevelFilter;
use sandbox::config::{ROOTFS, default_root};
use sandbox::logs::LogLimits;
use sandbox::monitor::detach::{DetachError, detach};
use sandbox::monitor::outlet::Connected;
use sandbox::monitor::{
    BlockPlan, ContainerPlan, Ended, Mode, Monitor, MonitorError, NetworkPlan, NetworkSource,
    Outlet, PodPlan, SharePlan,
};
use sandbox::net::cni::CniPlan;
use sandbox::oci::{Changes, Mount};
use sandbox::{ContainerConfig, Process, StartFailure, Stdio, User};
use vmm::{MemorySize, VcpuCount};

use crate::OWN_FAILURE;
use crate::args::{Net, Run};
use crate::check::print;
use crate::image::{Process as Runs, Root};
use crate::manifest;
use crate::names;
use crate::pumps::{self, Streams};
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
pub fn run(args: &Run, root: Option<&Path>) -> anyhow::Result<u8> {
    if args.interactive && args.tty && !args.detach && !io::stdin().is_terminal() {
        bail!("-t: standard input is not a terminal; leave -t out, or use -t without -i");
    }
    // Until the pod is there, a signal simply ends this process.
    if let Some(file) = &args.file {
        let data = absolute(&args.data.clone().unwrap_or_else(manifest::default_data))?;
        let mut planned = manifest::run::plan(file, &args.reading, &args.image, &data)?;
        of_any_pod(&mut planned.plan, args, root)?;
        return leave_alone(&planned.plan, &planned.locks());
    }
    let container = Root::of(args)?;
    let plan = plan(args, root, &container)?;
    if args.detach {
        return leave_alone(&plan, container.lock().as_slice());
    }
    let signals = Signals::watch(args.timeout).context("signals cannot be handled")?;
    stay_with(plan, args.interactive, &signals)
}

/// Starts the pod in a process of its own, which keeps its images in use.
fn leave_alone(plan: &PodPlan, images: &[BorrowedFd<'_>]) -> anyhow::Result<u8> {
    let program = std::env::current_exe().context("podvmm's own program cannot be found")?;
    let mut command = Command::new(program);
    let level = log::max_level();
    if level == LevelFilter::Off {
        command.stderr(std::process::Stdio::null());
    } else {
        command.args(["--log-level", level.as_str()]);
    }
    let detached = detach(command.arg("monitor"), plan, images)?;
    warn_of_gaps(&detached.gaps);
    print(&format!("{}\n", plan.name))?;
    Ok(0)
}

/// Runs the pod in this process.
fn stay_with(plan: PodPlan, interactive: bool, signals: &Signals) -> anyhow::Result<u8> {
    let outlet = Arc::new(TerminalOutlet {
        interactive,
        raw: Mutex::default(),
    });
    let name = plan.containers[0].name.clone();
    let mut monitor = Monitor::new(plan, Arc::clone(&outlet) as _, Mode::Foreground)?;
    monitor.log(Some(log::max_level()).filter(|level| *level != LevelFilter::Off));
    let handle = monitor.handle();
    signals.pod_created(handle.clone());
    let began = Instant::now();
    if let Err(error) = monitor.start() {
        outlet.leave_raw_mode();
        return Err(match signals.interruption() {
            Some(interruption) => Interrupted(interruption).into(),
            None => error.into(),
        });
    }
    let record = handle.record();
    log::info!(
        "container runs after {:?}, guest kernel {}",
        began.elapsed(),
        record.kernel.as_deref().unwrap_or("unknown")
    );
    warn_of_gaps(&record.jail_gaps);
    if let Some(container) = handle.container(&name) {
        signals.container_started(container.process(""));
    }
    let ended = monitor.wait();
    outlet.leave_raw_mode();
    tell(ended, signals)
}

fn tell(ended: Ended, signals: &Signals) -> anyhow::Result<u8> {
    let Ended { record, failure } = ended;
    if let Some(interruption) = signals.interruption() {
        return Err(Interrupted(interruption).into());
    }
    if let Some(failure) = failure {
        return Err(failure.into());
    }
    if let Some(reason) = record.reason {
        bail!("{reason}");
    }
    let mut exits = record.containers.iter().filter_map(|c| c.exit);
    if exits.any(|exit| exit.oom_killed) {
        eprintln!("podvmm: the container ran out of memory; give it more with --mem");
    }
    Ok(record.exit_code())
}

fn warn_of_gaps(gaps: &[String]) {
    for gap in gaps {
        eprintln!("podvmm: warning: the jail of the VMM process is incomplete: {gap}");
    }
}

/// Connects a container to this process's standard streams.
struct TerminalOutlet {
    interactive: bool,
    raw: Mutex<Option<RawMode>>,
}

impl Outlet for TerminalOutlet {
    fn connect(&self, plan: &ContainerPlan, process: &mut Process) -> io::Result<Connected> {
        if self.interactive && plan.terminal.is_some() {
            *self.raw.lock().unwrap_or_else(PoisonError::into_inner) = RawMode::enter();
        }
        // A terminal has an input whether it is wanted or not.
        let stdin = process.stdin.take().filter(|_| self.interactive);
        let outputs = pumps::start(Streams {
            stdin,
            stdout: process.stdout.take(),
            stderr: process.stderr.take(),
        })?;
        Ok(Connected {
            outputs,
            input: None,
        })
    }
}

impl TerminalOutlet {
    fn leave_raw_mode(&self) {
        drop(
            self.raw
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
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
    let detached = match error.downcast_ref() {
        Some(DetachError::Start { start, .. }) => *start,
        _ => None,
    };
    let attached = error.downcast_ref().and_then(MonitorError::start_failure);
    status_of_start(detached.or(attached))
}

/// The status of a command that could not be executed, as shells have it.
pub fn status_of_start(failure: Option<StartFailure>) -> u8 {
    match failure {
        Some(StartFailure::NotFound) => NOT_FOUND,
        Some(StartFailure::NotExecutable) => NOT_EXECUTABLE,
        Some(StartFailure::Other) | None => OWN_FAILURE,
    }
}

/// How large the VM can become.
fn maximum(args: &Run) -> anyhow::Result<(VcpuCount, MemorySize)> {
    let (cpus, mem) = (args.cpus, args.mem);
    let (max_cpus, max_mem) = (args.max_cpus.unwrap_or(cpus), args.max_mem.unwrap_or(mem));
    if max_cpus.get() < cpus.get() {
        bail!(
            "--max-cpus {}: is less than --cpus {}; leave it out, or name more",
            max_cpus.get(),
            cpus.get()
        );
    }
    if max_mem.bytes() < mem.bytes() {
        bail!(
            "--max-mem {}: is less than the {} bytes of --mem; leave it out, or name more",
            max_mem.bytes(),
            mem.bytes()
        );
    }
    Ok((max_cpus, max_mem))
}

fn plan(args: &Run, root: Option<&Path>, of_container: &Root) -> anyhow::Result<PodPlan> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => random_name()?,
    };
    let mut plan = PodPlan::new(name);
    of_any_pod(&mut plan, args, root)?;
    plan.vcpus = args.cpus;
    plan.memory = args.mem;
    (plan.max_vcpus, plan.max_memory) = maximum(args)?;
    plan.hostname = args.hostname.clone().unwrap_or_default();
    plan.grace = Duration::from_secs(args.stop_timeout);
    let changes = if args.rootfs_rw {
        Changes::Host
    } else {
        Changes::Guest
    };
    plan.rootfs(ROOTFS, &absolute(of_container.path())?, changes);
    for (index, volume) in args.volumes.iter().enumerate() {
        plan.shares.push(SharePlan {
            name: volume_name(index),
            path: absolute(&volume.source)?,
            read_only: volume.read_only,
            is_rootfs: false,
        });
    }
    let process = of_container.process(args)?;
    let stop_signal = process.run.stop_signal;
    let mut container = ContainerPlan::new(&container_config(args, &plan, process));
    container.stop_signal = stop_signal;
    container.restart = args.restart;
    container.stdin = args.interactive;
    for device in &args.devices {
        container.blocks.push(BlockPlan {
            source: absolute(&device.source)?,
            path: device.path.clone(),
            read_only: device.read_only,
        });
    }
    names::add(&mut plan, &mut container, args, of_container.path());
    plan.containers = vec![container];
    Ok(plan)
}

/// What the arguments say of a pod, wherever its containers come from.
fn of_any_pod(plan: &mut PodPlan, args: &Run, root: Option<&Path>) -> anyhow::Result<()> {
    plan.root = absolute(root.unwrap_or(&default_root()))?;
    plan.kernel = args.kernel.as_deref().map(absolute).transpose()?;
    plan.initrd = args.initrd.as_deref().map(absolute).transpose()?;
    plan.console = args.console.as_deref().map(absolute).transpose()?;
    plan.cgroup = args.cgroup.as_deref().map(absolute).transpose()?;
    plan.jail = args.jail;
    plan.seccomp = args.seccomp;
    plan.network = network(args)?;
    plan.publish.extend(&args.publish);
    plan.net_limit = args.net_rate;
    plan.disk_limit = args.disk_rate;
    plan.log = LogLimits {
        max_size: args.log_max_size,
        max_files: args.log_max_files,
    };
    plan.remove = args.rm;
    Ok(())
}

fn network(args: &Run) -> anyhow::Result<Option<NetworkPlan>> {
    let source = match &args.net {
        Net::None => return Ok(None),
        Net::Netns(path) => NetworkSource::Netns(absolute(path)?),
        Net::Cni(network) => {
            let mut cni = CniPlan {
                network: network.clone(),
                conf_dir: absolute(&args.cni_conf_dir)?,
                ..CniPlan::default()
            };
            if !args.cni_bin_dir.is_empty() {
                let dirs = args.cni_bin_dir.iter().map(|dir| absolute(dir));
                cni.bin_dirs = dirs.collect::<anyhow::Result<_>>()?;
            }
            NetworkSource::Cni(cni)
        }
    };
    Ok(Some(NetworkPlan {
        source,
        allow_metadata: args.allow_metadata,
    }))
}

/// The path from `/` on: the pod's monitor is elsewhere.
fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path)
        .with_context(|| format!("{}: has no place in this directory", path.display()))
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

fn container_config(args: &Run, pod: &PodPlan, process: Runs) -> ContainerConfig {
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
