//! The command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use host_check::Purpose;
use log::LevelFilter;
use sandbox::forward::PortPlan;
use sandbox::monitor::Restart;
use sandbox::net::cni;
use sandbox::{JailMode, RateLimit, SeccompMode};
use vmm::{MemorySize, VcpuCount};

use crate::image::args::{Image, RunArgs};
use crate::install::args::{Install, Uninstall};
use crate::manifest::Reading;
use values::{
    absolute, duration, hostname, log_level, rate_limit, restart, seconds, user_or_name, variable,
};

mod ports;
mod values;
mod verbs;

pub use ports::PortForward;
pub use values::{Device, Net, Variable, Volume, vcpus};
pub use verbs::{
    Attach, Completions, Cp, Exec, Inspect, Kill, Logs, Man, Ps, Rm, Side, Stats, Stop, Target,
    Update, Version, Wait,
};

/// Give every pod its own virtual machine.
#[derive(Debug, Parser)]
#[command(
    name = "podvmm",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub struct Args {
    /// Writes a log to standard error: error, warn, info, debug or trace
    #[arg(long, global = true, value_name = "LEVEL", value_parser = log_level)]
    pub log_level: Option<LevelFilter>,
    #[command(subcommand)]
    pub command: Command,
}

impl Args {
    /// Reads a command line, its program's name first.
    pub fn read<T: Into<OsString> + Clone>(
        line: impl IntoIterator<Item = T>,
    ) -> Result<Self, clap::Error> {
        let mut command = Self::command_line();
        let mut matches = command.try_get_matches_from_mut(line)?;
        Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
    }

    /// The command line as it is read. What follows an option is its value also if it is `-1`: the option
    /// then says what is wrong with it.
    pub fn command_line() -> clap::Command {
        fn with_negative_values(command: clap::Command) -> clap::Command {
            command
                .mut_args(|arg| {
                    let is_option_with_value =
                        !arg.is_positional() && arg.get_action().takes_values();
                    arg.allow_negative_numbers(is_option_with_value)
                })
                .mut_subcommands(with_negative_values)
        }
        with_negative_values(Self::command())
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs a command in a container inside its own virtual machine
    Run(Box<Run>),
    /// Lists pods: those that run, or all
    Ps(Ps),
    /// Runs one more command in a container of a pod that runs
    Exec(Exec),
    /// Shows what a container writes from now on, and passes input on to it
    Attach(Attach),
    /// Copies files into a container, or out of it
    Cp(Cp),
    /// Prints what a container has written
    Logs(Logs),
    /// Forwards ports of this host to a pod's, until Ctrl-C
    PortForward(PortForward),
    /// Shows what pods use of their virtual machines
    Stats(Stats),
    /// Prints everything that is known of pods, as JSON
    Inspect(Inspect),
    /// Waits until pods have ended, and prints their exit statuses
    Wait(Wait),
    /// Asks pods to end, and ends those that do not
    Stop(Stop),
    /// Gives pods that run more or fewer vCPUs, more or less memory
    Update(Update),
    /// Sends a signal to the containers of pods
    Kill(Kill),
    /// Removes what is left of pods that have ended
    Rm(Rm),
    /// Brings, lists and removes images
    Image(Image),
    /// Says whether this machine can run pods and, if not, exactly why and what to do
    Check(Check),
    /// Puts podvmm on this machine, as a runtime of containerd
    Install(Install),
    /// Takes out what `podvmm install` has put in place
    Uninstall(Uninstall),
    /// Looks at Kubernetes Pod manifests
    #[command(subcommand)]
    Manifest(crate::manifest::Command),
    /// Prints versions
    Version(Version),
    /// Prints a script that completes podvmm's command lines in a shell
    Completions(Completions),
    /// Writes manual pages to a directory
    #[command(hide = true)]
    Man(Man),
    /// Is a pod's monitor; `run -d` starts it
    #[command(hide = true)]
    Monitor,
}

/// Where pods are.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Root {
    /// Directory for the runtime state of pods [default: /run/podvmm for root, else podvmm in
    /// XDG_RUNTIME_DIR or /tmp/podvmm-UID]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

impl Root {
    /// The directory, if it was named.
    pub fn path(&self) -> Option<&Path> {
        self.root.as_deref()
    }
}

const CHECK_EXAMPLES: &str = "\
Examples:
  podvmm check                        what is wrong here, and what to do
  podvmm check --for node --strict    fit for tenants who share nothing?
  podvmm check --explain kvm.device   the long story of one check
  kubectl label node NODE --overwrite $(podvmm check --for node --labels)
  podvmm check --json | jq '.checks[] | select(.status == \"fail\")'

Nothing is changed, and no network is used. As root it sees more.

Exit status: 0 ready, 1 not ready, 2 wrong usage or an internal error.";

#[derive(Debug, clap::Args)]
#[command(after_help = CHECK_EXAMPLES)]
pub struct Check {
    /// Prints everything as JSON; docs/host-check.schema.json describes it
    #[arg(long)]
    pub json: bool,
    /// Prints the labels of a node of Kubernetes, one a line
    #[arg(long, conflicts_with_all = ["json", "explain"])]
    pub labels: bool,
    /// Counts warnings as failures
    #[arg(long)]
    pub strict: bool,
    /// Explains one check, and what it found here
    #[arg(long, value_name = "ID", conflicts_with_all = ["json", "record"])]
    pub explain: Option<String>,
    /// What the machine is to be: cli, a machine where people run pods by hand; node, a node of
    /// Kubernetes; build, a machine that builds and tests in pods
    #[arg(long = "for", value_name = "PURPOSE", default_value = "cli")]
    pub purpose: Purpose,
    /// Writes what the checks saw to a new directory, to be sent to somebody who can help
    #[arg(long, value_name = "DIR", hide = true)]
    pub record: Option<PathBuf>,
    /// Checks a machine that was recorded, in place of this one
    #[arg(long, value_name = "DIR", hide = true, conflicts_with = "record")]
    pub recorded: Option<PathBuf>,
}

const RUN_EXAMPLES: &str = "\
Examples:
  podvmm run --rootfs / -- uname -r               this host's userland, another kernel
  podvmm run --image debian:12 -it -- bash        an image, from docker.io if it is not here yet
  podvmm run --image ./app.tar                    what the image says is to be run
  podvmm run --rootfs DIR -it -- sh               a shell in a container
  podvmm run --cpus 2 --mem 512M --rootfs DIR -- make test
  podvmm run --rootfs DIR --volume ./src:/src:ro -- ls /src
  podvmm run --rootfs DIR --device ./disk.img:/dev/xvda -- dd if=/dev/xvda of=/dev/null
  podvmm run -f pod.yaml                          a Kubernetes Pod; see ps, logs, exec, stop, rm
  podvmm run -d --name web --rootfs DIR -- httpd -f      stays; see ps, logs, exec, stop, rm

Exit status: the command's own; 128+N if signal N ended it; 124 when --timeout ended it; \
125 when podvmm failed; 126 when the command cannot be executed; 127 when it is not found.";

/// Headings of the options of `run`. A flattened group's heading goes on to what follows it, so every
/// option names its own.
pub mod heading {
    /// That of `--help`.
    pub const GENERAL: Option<&str> = None;
    pub const MANIFEST: &str = "Pod of a manifest";
    pub const MACHINE: &str = "Virtual machine";
    pub const FILES: &str = "Root and volumes";
    pub const IMAGE: &str = "Image";
    pub const COMMAND: &str = "Command";
    pub const NETWORK: &str = "Network";
    pub const ISOLATION: &str = "Isolation and limits";
}

#[derive(Debug, clap::Args)]
#[command(after_help = RUN_EXAMPLES)]
#[group(id = "stays", multiple = true, args = ["detach", "file"])]
pub struct Run {
    /// Runs the pod of a Kubernetes manifest, and leaves it to itself: name, size, images and commands
    /// are the manifest's. - is standard input
    #[arg(
        short,
        long,
        value_name = "FILE",
        conflicts_with_all = ["name", "rootfs", "image", "entrypoint", "pull", "cpus", "mem", "volumes", "devices", "env",
            "workdir", "user", "hostname", "interactive", "tty", "timeout", "restart", "command"],
        help_heading = heading::MANIFEST
    )]
    pub file: Option<PathBuf>,
    #[command(flatten, next_help_heading = heading::MANIFEST)]
    pub reading: Reading,
    /// Where the pod's emptyDir volumes are kept until it is removed [default: /var/lib/podvmm/pods as root,
    /// else below XDG_DATA_HOME or ~/.local/share]
    #[arg(
        long,
        value_name = "DIR",
        requires = "file",
        help_heading = heading::MANIFEST
    )]
    pub data: Option<PathBuf>,
    /// Names the pod [default: pod- and a random suffix]
    #[arg(long, help_heading = heading::GENERAL)]
    pub name: Option<String>,
    /// Leaves the pod to itself once its command runs, and prints its name
    #[arg(short, long, conflicts_with = "timeout", help_heading = heading::GENERAL)]
    pub detach: bool,
    /// Removes the pod when it has ended, as is done without -d and -f in any case
    #[arg(long, help_heading = heading::GENERAL)]
    pub rm: bool,
    /// With -d: starts the command again when it has ended: no, on-failure or always
    #[arg(long, value_name = "POLICY", default_value = "no", value_parser = restart, requires = "detach", help_heading = heading::GENERAL)]
    pub restart: Restart,
    /// With -d or -f: bytes of a log file, until the next one begins
    #[arg(long, value_name = "SIZE", default_value = "4M", value_parser = sandbox::config::parse_bytes, requires = "stays", help_heading = heading::GENERAL)]
    pub log_max_size: u64,
    /// With -d or -f: log files that are kept
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=100), requires = "stays", help_heading = heading::GENERAL)]
    pub log_max_files: u32,
    /// How long the command is given to end when the pod is stopped
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds, help_heading = heading::GENERAL)]
    pub stop_timeout: u64,
    /// vCPUs of the virtual machine
    #[arg(long, value_name = "N", default_value = "1", value_parser = vcpus, help_heading = heading::MACHINE)]
    pub cpus: VcpuCount,
    /// Memory of the virtual machine: 256M, 2G, 512Mi, 2Gi or bytes
    #[arg(long, value_name = "SIZE", default_value = "2G", value_parser = sandbox::config::parse_memory, help_heading = heading::MACHINE)]
    pub mem: MemorySize,
    /// vCPUs that `podvmm update` can give it while it runs; the guest keeps data for each [default: as --cpus]
    #[arg(long, value_name = "N", value_parser = vcpus, help_heading = heading::MACHINE)]
    pub max_cpus: Option<VcpuCount>,
    /// Memory that `podvmm update` can give it while it runs [default: as --mem]
    #[arg(long, value_name = "SIZE", value_parser = sandbox::config::parse_memory, help_heading = heading::MACHINE)]
    pub max_mem: Option<MemorySize>,
    /// Directory that becomes the container's root; changes stay in the guest and vanish with it
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with = "image",
        help_heading = heading::FILES
    )]
    pub rootfs: Option<PathBuf>,
    /// Lets the container change the root directory on the host
    #[arg(long, conflicts_with = "image", help_heading = heading::FILES)]
    pub rootfs_rw: bool,
    #[command(flatten)]
    pub image: RunArgs,
    /// Shares a host file or directory: SRC:DST, or SRC:DST:ro to refuse changes
    #[arg(short, long = "volume", value_name = "SRC:DST[:ro]", value_parser = Volume::parse, help_heading = heading::FILES)]
    pub volumes: Vec<Volume>,
    /// Gives a block device or disk image of the host as a block device: HOST, or HOST:CONTAINER for
    /// another path inside; :r at the end refuses changes
    #[arg(long = "device", value_name = "HOST[:CONTAINER[:PERMISSIONS]]", value_parser = Device::parse, help_heading = heading::FILES)]
    pub devices: Vec<Device>,
    /// The pod's network: none; cni or cni=NAME for what CNI plugins make, by the first configuration or
    /// the one of that name; netns:PATH for what a network namespace has been given, such as
    /// netns:/run/netns/NAME. All but none need root
    #[arg(long, value_name = "none|cni[=NAME]|netns:PATH", default_value = "none", value_parser = Net::parse, help_heading = heading::NETWORK)]
    pub net: Net,
    /// With --net cni: the directory of configurations; where it has none, pods get addresses of
    /// 10.223.0.0/16 that the host translates
    #[arg(long, value_name = "DIR", default_value = cni::CONF_DIR, help_heading = heading::NETWORK)]
    pub cni_conf_dir: PathBuf,
    /// With --net cni: a directory of plugins; can be given several times [default: /usr/lib/cni and
    /// /opt/cni/bin]
    #[arg(long, value_name = "DIR", help_heading = heading::NETWORK)]
    pub cni_bin_dir: Vec<PathBuf>,
    /// Lets a port of this host lead to one of the pod, as long as the pod runs: HOST:CONTAINER,
    /// IP:HOST:CONTAINER, or CONTAINER alone for a free one (see ps). TCP, at all of this host's addresses
    /// unless one is named; the pod needs no network for it
    #[arg(short, long, value_name = "[[IP:][HOST]:]CONTAINER", value_parser = ports::publish, help_heading = heading::NETWORK)]
    pub publish: Vec<PortPlan>,
    /// Lets the pod reach the metadata service of a cloud (169.254.169.254), which gives credentials of
    /// this machine to whoever asks from it
    #[arg(long, help_heading = heading::NETWORK)]
    pub allow_metadata: bool,
    /// Limits what each network interface sends, and what it receives, in a second: 10M bytes, or
    /// 10M,5000 for as many packets as well, or ,5000
    #[arg(long, value_name = "BYTES[,PACKETS]", default_value = "", hide_default_value = true, value_parser = rate_limit, help_heading = heading::ISOLATION)]
    pub net_rate: RateLimit,
    /// Limits what the pod reads and writes of root and volumes in a second: 50M bytes, or 50M,2000 for
    /// as many requests as well, or ,2000; each --device may do as much again
    #[arg(long, value_name = "BYTES[,REQUESTS]", default_value = "", hide_default_value = true, value_parser = rate_limit, help_heading = heading::ISOLATION)]
    pub disk_rate: RateLimit,
    /// Sets a variable; NAME alone takes the value from podvmm's environment
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = variable, help_heading = heading::COMMAND)]
    pub env: Vec<Variable>,
    /// Working directory in the container [default: the image's, else /]
    #[arg(short, long, value_name = "DIR", value_parser = absolute, help_heading = heading::COMMAND)]
    pub workdir: Option<String>,
    /// Runs the command as this user and group, by number or by a name in the root's /etc/passwd and
    /// /etc/group [default: the image's, else root]
    #[arg(short, long, value_name = "USER[:GROUP]", value_parser = user_or_name, help_heading = heading::COMMAND)]
    pub user: Option<String>,
    /// Host name of the guest [default: the pod's name]
    #[arg(long, value_name = "NAME", value_parser = hostname, help_heading = heading::COMMAND)]
    pub hostname: Option<String>,
    /// Passes standard input on
    #[arg(short, long, help_heading = heading::GENERAL)]
    pub interactive: bool,
    /// Gives the command a terminal
    #[arg(short, long, help_heading = heading::GENERAL)]
    pub tty: bool,
    /// Guest kernel: ELF vmlinux or bzImage [default: found in PODVMM_GUEST_DIR, beside podvmm, or
    /// in /usr/lib/podvmm]
    #[arg(long, value_name = "PATH", help_heading = heading::MACHINE)]
    pub kernel: Option<PathBuf>,
    /// Guest initramfs with the agent [default: found like the kernel]
    #[arg(long, value_name = "PATH", help_heading = heading::MACHINE)]
    pub initrd: Option<PathBuf>,
    /// Writes the guest kernel's console to a file, for debugging; slows the guest's start
    #[arg(long, value_name = "FILE", help_heading = heading::MACHINE)]
    pub console: Option<PathBuf>,
    /// Ends the pod after this time: 500ms, 30s, 5m, 1h
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = heading::GENERAL)]
    pub timeout: Option<Duration>,
    /// How much of a jail the VMM process must have: auto (what the host allows), full or off
    #[arg(long, value_name = "MODE", default_value = "auto", help_heading = heading::ISOLATION)]
    pub jail: JailMode,
    /// What a system call does that the VMM process has no reason to make: enforce (it ends the pod), log or off
    #[arg(long, value_name = "MODE", default_value = "enforce", help_heading = heading::ISOLATION)]
    pub seccomp: SeccompMode,
    /// Starts the VMM process in this cgroup (v2), a directory below /sys/fs/cgroup
    #[arg(long, value_name = "DIR", help_heading = heading::ISOLATION)]
    pub cgroup: Option<PathBuf>,
    #[command(flatten, next_help_heading = heading::GENERAL)]
    pub root: Root,
    /// Command and arguments to run [default: the image's]
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

impl Run {
    /// Whether there is something to run and a root for it; otherwise what to write.
    pub fn complete(&self) -> Result<(), String> {
        if self.file.is_some() {
            return Ok(());
        }
        if let Some(option) = self.reading.given() {
            return Err(format!(
                "{option} is for a manifest: name one with -f pod.yaml, or leave {option} out"
            ));
        }
        self.places()?;
        if self.rootfs.is_none() && self.image.source.is_none() {
            let missing = "no root for the container: name an image with --image debian:12, a directory with --rootfs DIR, or a manifest with -f pod.yaml";
            return Err(match self.command.split_first() {
                None => missing.to_owned(),
                Some((image, [])) => {
                    format!("{missing}. If `{image}` is an image: `podvmm run --image {image}`")
                }
                Some((image, command)) => format!(
                    "{missing}. If `{image}` is an image: `podvmm run --image {image} -- {}`",
                    command.join(" ")
                ),
            });
        }
        match self.command.first() {
            None if self.rootfs.is_some() => {
                Err("no command: write it at the end, as in -- sh".into())
            }
            Some(command) if command.is_empty() => {
                Err("COMMAND is empty; name a program of the container, as in -- sh".into())
            }
            _ => Ok(()),
        }
    }

    /// Whether each path in the container is given away once.
    fn places(&self) -> Result<(), String> {
        let volumes = self.volumes.iter().map(|v| ("--volume", &v.destination));
        let devices = self.devices.iter().map(|d| ("--device", &d.path));
        let mut places: Vec<(&str, PathBuf)> = Vec::new();
        for (option, path) in volumes.chain(devices) {
            // `/a/`, `/a/.` and `/a` are one place.
            let place: PathBuf = Path::new(path).components().collect();
            if let Some((other, _)) = places.iter().find(|(_, taken)| *taken == place) {
                return Err(format!(
                    "{option} {path}: {other} puts something else there; choose another path in the container"
                ));
            }
            places.push((option, place));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
