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
use vmm::MemorySize;

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
    args.complete().map_err(anyhow::Error::msg)?;
    // Until the pod is there, a signal simply ends this process.
    if let Some(file) = &args.file {
        let data = absolute(&args.data.clone().unwrap_or_else(manifest::default_data))?;
        let mut planned = manifest::run::plan(file, &args.reading, &args.image, &data)?;
        of_any_pod(&mut planned.plan, args, root)?;
        maximum(&mut planned.plan, args)?;
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
    let detached =
        detach(command.arg("monitor"), plan, images).map_err(|error| of_container(error.into()))?;
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
            None => of_container(error.into()),
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
    status_of_start(start_failure(error))
}

/// Whether it was the command that could not be executed.
fn start_failure(error: &anyhow::Error) -> Option<StartFailure> {
    let detached = match error.downcast_ref() {
        Some(DetachError::Start { start, .. }) => *start,
        _ => None,
    };
    detached.or_else(|| error.downcast_ref().and_then(MonitorError::start_failure))
}

/// Tells whose file it is that is not there, or cannot be executed.
fn of_container(error: anyhow::Error) -> anyhow::Error {
    match start_failure(&error) {
        Some(failure) => error.context(words_of_start(failure)),
        None => error,
    }
}

/// What is said before the system's reason why a command could not be executed.
pub fn words_of_start(failure: StartFailure) -> &'static str {
    match failure {
        StartFailure::NotFound => "the container has no such program",
        StartFailure::NotExecutable => "the container cannot execute this",
        StartFailure::Other => "the container could not start the command",
    }
}

/// The status of a command that could not be executed, as shells have it.
pub fn status_of_start(failure: Option<StartFailure>) -> u8 {
    match failure {
        Some(StartFailure::NotFound) => NOT_FOUND,
        Some(StartFailure::NotExecutable) => NOT_EXECUTABLE,
        Some(StartFailure::Other) | None => OWN_FAILURE,
    }
}

/// How large the VM can become: as large as it is, unless more is asked for.
fn maximum(plan: &mut PodPlan, args: &Run) -> anyhow::Result<()> {
    let present = |option: &str, value: &str| match &args.file {
        Some(_) => format!("the {value} of the manifest's VM"),
        None => format!("{option} {value}"),
    };
    let (cpus, max_cpus) = (plan.vcpus, args.max_cpus.unwrap_or(plan.vcpus));
    if max_cpus.get() < cpus.get() {
        bail!(
            "--max-cpus {}: is less than {}; leave it out, or name more",
            max_cpus.get(),
            present("--cpus", &cpus.get().to_string())
        );
    }
    let (mem, max_mem) = (plan.memory, args.max_mem.unwrap_or(plan.memory));
    if max_mem.bytes() < mem.bytes() {
        bail!(
            "--max-mem {}: is less than {}; leave it out, or name more",
            size_text(max_mem),
            present("--mem", &size_text(mem))
        );
    }
    (plan.max_vcpus, plan.max_memory) = (max_cpus, max_mem);
    Ok(())
}

/// A size as it can be written.
fn size_text(size: MemorySize) -> String {
    match size.bytes() {
        bytes if bytes.is_multiple_of(1 << 20) => format!("{}M", bytes >> 20),
        bytes => bytes.to_string(),
    }
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
    maximum(&mut plan, args)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command};

    fn sizes(line: &[&str]) -> Result<(u32, u64), String> {
        let line = ["podvmm", "run", "--rootfs", "/"].iter().chain(line);
        let Command::Run(args) = Args::read(line.chain(&["true"])).unwrap().command else {
            panic!("it is `run`");
        };
        let mut plan = PodPlan::new("web");
        (plan.vcpus, plan.memory) = (args.cpus, args.mem);
        maximum(&mut plan, &args).map_err(|error| error.to_string())?;
        Ok((plan.max_vcpus.get().into(), plan.max_memory.bytes() >> 20))
    }

    #[test]
    fn a_maximum_is_no_less_than_what_there_is() {
        assert_eq!(sizes(&["--cpus", "2"]), Ok((2, 2048)));
        assert_eq!(
            sizes(&["--max-cpus", "3", "--max-mem", "3G"]),
            Ok((3, 3072))
        );
        assert_eq!(
            sizes(&["--cpus", "2", "--max-cpus", "1"]).unwrap_err(),
            "--max-cpus 1: is less than --cpus 2; leave it out, or name more"
        );
        assert_eq!(
            sizes(&["--mem", "512M", "--max-mem", "256M"]).unwrap_err(),
            "--max-mem 256M: is less than --mem 512M; leave it out, or name more"
        );
    }
}
