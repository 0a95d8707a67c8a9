//! The command lines of the verbs for pods that exist.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueHint;
use clap_complete::Shell;
use sandbox::User;
use sandbox::timestamp::Timestamp;
use vmm::{MemorySize, VcpuCount};

use super::values::{absolute, duration, user, variable, vcpus};
use super::{Root, Variable};

/// A pod, or one of its containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub pod: String,
    pub container: Option<String>,
}

impl Target {
    fn parse(text: &str) -> Result<Self, String> {
        let (pod, container) = match text.split_once('/') {
            Some((pod, container)) => (pod, Some(container.to_owned())),
            None => (text, None),
        };
        if pod.is_empty() || container.as_deref() == Some("") {
            return Err(format!("`{text}` is no pod; write POD or POD/CONTAINER"));
        }
        Ok(Self {
            pod: pod.to_owned(),
            container,
        })
    }
}

/// Lists pods.
#[derive(Debug, clap::Args)]
pub struct Ps {
    #[command(flatten)]
    pub root: Root,
    /// Lists pods that have ended or died, too
    #[arg(short, long)]
    pub all: bool,
    /// Prints names only
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,
    /// Prints JSON
    #[arg(long)]
    pub json: bool,
}

const EXEC_EXAMPLES: &str = "\
Examples:
  podvmm exec web -- ps                 in the pod's first container
  podvmm exec -it web/proxy -- sh       a shell in the container proxy

Exit status: the command's own; 128+N if signal N ended it; 125 when podvmm failed; 126 when the
command cannot be executed; 127 when it is not found.";

/// Runs a command in a container.
#[derive(Debug, clap::Args)]
#[command(after_help = EXEC_EXAMPLES)]
pub struct Exec {
    #[command(flatten)]
    pub root: Root,
    /// Passes standard input on
    #[arg(short, long)]
    pub interactive: bool,
    /// Gives the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Sets a variable besides the container's; NAME alone takes the value from podvmm's environment
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    pub env: Vec<Variable>,
    /// Working directory in the container [default: the container's]
    #[arg(short, long, value_name = "DIR", value_parser = absolute)]
    pub workdir: Option<String>,
    /// Runs the command as this user and group, by number [default: the container's]
    #[arg(short, long, value_name = "UID[:GID]", value_parser = user)]
    pub user: Option<User>,
    /// The pod, and which of its containers [default: the first]
    #[arg(value_name = "POD[/CONTAINER]", value_parser = Target::parse)]
    pub target: Target,
    /// Command and arguments to run
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

const ATTACH_EXAMPLES: &str = "\
Examples:
  podvmm attach web                     the pod's first container
  podvmm attach --no-stdin web/proxy    only looks

With a terminal, ctrl-p ctrl-q leaves, and the container goes on. Without one, signals are passed on,
and a second one within 3 s leaves.

Exit status: the container's; 0 after ctrl-p ctrl-q; 125 when podvmm failed.";

/// Joins a container's streams.
#[derive(Debug, clap::Args)]
#[command(after_help = ATTACH_EXAMPLES)]
pub struct Attach {
    #[command(flatten)]
    pub root: Root,
    /// Passes no input on
    #[arg(long)]
    pub no_stdin: bool,
    /// The pod, and which of its containers [default: the first]
    #[arg(value_name = "POD[/CONTAINER]", value_parser = Target::parse)]
    pub target: Target,
}

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// A path in a container.
    Pod(Target, String),
    /// A path of this machine.
    Local(PathBuf),
    /// Standard input or output.
    Stream,
}

impl Side {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::Stream);
        }
        let (target, path) = match text.split_once(':') {
            // Names of pods have neither, as docker's have not.
            Some((target, path)) if !text.starts_with(['/', '.']) => (target, path),
            _ if text.is_empty() => return Err("it is empty".into()),
            _ => return Ok(Self::Local(text.into())),
        };
        if path.is_empty() || path.contains('\0') {
            return Err(format!("`{text}` has no path; write POD:PATH"));
        }
        // From the root on: what a container's working directory is matters to its command alone.
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self::Pod(Target::parse(target)?, format!("{slash}{path}")))
    }
}

const CP_EXAMPLES: &str = "\
Examples:
  podvmm cp web:/etc/passwd .           into this directory
  podvmm cp ./site web/proxy:/srv       as /srv/site if /srv is there, otherwise as /srv
  podvmm cp ./site/. web:/srv           what is in site
  podvmm cp web:/var/log - | tar -t     as a tar archive

Nothing is needed in the container's image. Links are copied as they are; devices, pipes and sockets are
left out. Files are the user's on this machine, and root's in a container.";

/// Copies files.
#[derive(Debug, clap::Args)]
#[command(after_help = CP_EXAMPLES)]
pub struct Cp {
    #[command(flatten)]
    pub root: Root,
    /// POD[/CONTAINER]:PATH, or a path of this machine, or - for a tar archive on standard input
    #[arg(value_name = "FROM", value_parser = Side::parse)]
    pub from: Side,
    /// Likewise, with - for standard output
    #[arg(value_name = "TO", value_parser = Side::parse)]
    pub to: Side,
}

/// From when on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since(pub Timestamp);

fn since(text: &str) -> Result<Since, String> {
    if let Ok(time) = text.parse() {
        return Ok(Since(time));
    }
    let ago: Duration = duration(text).map_err(|_| {
        format!("`{text}` is no time; write 10m for ten minutes ago, or 2026-11-24T12:35:47Z")
    })?;
    Ok(Since(Timestamp::now().before(ago)))
}

/// How many lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail(pub usize);

fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" | "-1" => Ok(Tail(usize::MAX)),
        _ => text
            .parse()
            .map(Tail)
            .map_err(|_| format!("`{text}` is no number of lines; write 100, or all")),
    }
}

/// Prints a log.
#[derive(Debug, clap::Args)]
pub struct Logs {
    #[command(flatten)]
    pub root: Root,
    /// Goes on with what is written from now on, until the container has ended
    #[arg(short, long)]
    pub follow: bool,
    /// Begins with what was written at this time, or so long ago: 2026-11-24T12:35:47Z, 10m
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<Since>,
    /// Begins so many lines before the end
    #[arg(short = 'n', long, value_name = "N", default_value = "all", allow_hyphen_values = true, value_parser = tail)]
    pub tail: Tail,
    /// Puts the time before each line
    #[arg(short, long)]
    pub timestamps: bool,
    /// Prints each line as a JSON object
    #[arg(long, conflicts_with = "timestamps")]
    pub json: bool,
    /// The pod, and which of its containers [default: the first]
    #[arg(value_name = "POD[/CONTAINER]", value_parser = Target::parse)]
    pub target: Target,
}

/// Shows numbers.
#[derive(Debug, clap::Args)]
pub struct Stats {
    #[command(flatten)]
    pub root: Root,
    /// Prints them once
    #[arg(long)]
    pub no_stream: bool,
    /// Prints JSON, an object for each pod and time
    #[arg(long)]
    pub json: bool,
    /// Of these pods [default: of all that run]
    #[arg(value_name = "POD")]
    pub pods: Vec<String>,
}

/// Prints everything.
#[derive(Debug, clap::Args)]
pub struct Inspect {
    #[command(flatten)]
    pub root: Root,
    /// It is JSON in any case
    #[arg(long, hide = true)]
    pub json: bool,
    /// The pods
    #[arg(required = true, value_name = "POD")]
    pub pods: Vec<String>,
}

/// Waits for ends.
#[derive(Debug, clap::Args)]
pub struct Wait {
    #[command(flatten)]
    pub root: Root,
    /// Prints JSON, an object for each
    #[arg(long)]
    pub json: bool,
    /// The pods, or single containers
    #[arg(required = true, value_name = "POD[/CONTAINER]", value_parser = Target::parse)]
    pub targets: Vec<Target>,
}

/// Ends pods.
#[derive(Debug, clap::Args)]
pub struct Stop {
    #[command(flatten)]
    pub root: Root,
    /// Seconds that the containers are given [default: as `run --stop-timeout` said]
    #[arg(short, long, value_name = "SECONDS")]
    pub time: Option<u64>,
    /// The pods
    #[arg(required = true, value_name = "POD")]
    pub pods: Vec<String>,
}

const UPDATE_EXAMPLES: &str = "\
Examples:
  podvmm run -d --name web --cpus 1 --max-cpus 4 --mem 512M --max-mem 4G --rootfs DIR -- httpd -f
  podvmm update --cpus 4 --mem 2G web             more, at once
  podvmm update --cpus 1 --mem 512M web           less: memory that is in use stays until it is free
  podvmm inspect web                              size: what it has, and may have

A pod grows up to what it was started with --max-cpus and --max-mem for. Memory comes and goes in blocks
of 2 MiB. No pod has less of it than it was started with.";

/// Makes pods larger or smaller.
#[derive(Debug, clap::Args)]
#[command(after_help = UPDATE_EXAMPLES)]
#[group(id = "what", required = true, multiple = true, args = ["cpus", "mem"])]
pub struct Update {
    #[command(flatten)]
    pub root: Root,
    /// vCPUs that are online in the virtual machine
    #[arg(long, value_name = "N", value_parser = vcpus)]
    pub cpus: Option<VcpuCount>,
    /// Memory of the virtual machine: 256M, 2G, 512Mi, 2Gi or bytes
    #[arg(long, value_name = "SIZE", value_parser = sandbox::config::parse_memory)]
    pub mem: Option<MemorySize>,
    /// The pods
    #[arg(required = true, value_name = "POD")]
    pub pods: Vec<String>,
}

/// Sends signals.
#[derive(Debug, clap::Args)]
pub struct Kill {
    #[command(flatten)]
    pub root: Root,
    /// The signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = signal)]
    pub signal: u32,
    /// The pods, or single containers
    #[arg(required = true, value_name = "POD[/CONTAINER]", value_parser = Target::parse)]
    pub targets: Vec<Target>,
}

/// Removes pods.
#[derive(Debug, clap::Args)]
pub struct Rm {
    #[command(flatten)]
    pub root: Root,
    /// Ends pods that run, at once; that there is none is no error
    #[arg(short, long)]
    pub force: bool,
    /// Removes all pods
    #[arg(short, long, conflicts_with = "pods")]
    pub all: bool,
    /// The pods
    #[arg(required_unless_present = "all", value_name = "POD")]
    pub pods: Vec<String>,
}

/// Prints versions.
#[derive(Debug, clap::Args)]
pub struct Version {
    /// Prints JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints a script.
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// For which shell
    pub shell: Shell,
}

/// Writes pages.
#[derive(Debug, clap::Args)]
pub struct Man {
    /// Where to
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
}

const SIGNALS: [(&str, u32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

fn signal(text: &str) -> Result<u32, String> {
    if let Ok(number @ 1..=64) = text.parse() {
        return Ok(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let found = SIGNALS.iter().find(|(known, _)| *known == name);
    found
        .map(|(_, number)| *number)
        .ok_or_else(|| format!("`{text}` is no signal; write a name such as TERM, or 1 to 64"))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::args::{Args, Command};

    fn parse(line: &str) -> Result<Command, String> {
        let words = line.split_whitespace();
        Args::try_parse_from(words)
            .map(|args| args.command)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_has_no_contradiction() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_container_is_named_behind_its_pod() {
        let Ok(Command::Exec(exec)) = parse("podvmm exec -it web/proxy -- sh -c -e x") else {
            panic!("it is `exec`");
        };
        assert_eq!(exec.target.pod, "web");
        assert_eq!(exec.target.container.as_deref(), Some("proxy"));
        assert_eq!(exec.command, ["sh", "-c", "-e", "x"]);
        assert!(exec.interactive && exec.tty);
        let Ok(Command::Exec(exec)) = parse("podvmm exec web ls -l") else {
            panic!("it is `exec`");
        };
        assert_eq!((exec.target.container, exec.command.len()), (None, 2));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (line, word) in [
            ("exec web", "COMMAND"),
            ("exec web/ -- sh", "POD/CONTAINER"),
            ("exec -u root web sh", "--user"),
            ("logs", "POD"),
            ("logs --tail x web", "--tail"),
            ("logs --since yesterday web", "--since"),
            ("logs --json -t web", "--timestamps"),
            ("kill -s NONE web", "--signal"),
            ("kill -s 65 web", "--signal"),
            ("stop -t soon web", "--time"),
            ("rm", "POD"),
            ("rm -a web", "--all"),
            ("ps -q --json", "--json"),
            ("completions csh", "csh"),
            ("run -d --timeout 5s --rootfs / true", "--timeout"),
        ] {
            let error = parse(&format!("podvmm {line}")).unwrap_err();
            assert!(error.contains(word), "{line}: {error}");
        }
    }

    #[test]
    fn a_copy_has_a_pod_at_one_end() {
        let pod = |text: &str, path: &str| {
            Side::Pod(Target::parse(text).expect("it is a pod"), path.to_owned())
        };
        for (text, side) in [
            ("web:/etc", pod("web", "/etc")),
            ("web/proxy:a:b", pod("web/proxy", "/a:b")),
            ("./web:/etc", Side::Local("./web:/etc".into())),
            ("/a:b", Side::Local("/a:b".into())),
            ("a", Side::Local("a".into())),
            ("-", Side::Stream),
        ] {
            assert_eq!(Side::parse(text), Ok(side), "{text}");
        }
        for text in ["", "web:", ":/etc", "web/:/etc"] {
            assert!(Side::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("TERM", 15),
            ("sigterm", 15),
            ("9", 9),
            ("64", 64),
            ("Int", 2),
        ] {
            assert_eq!(signal(text), Ok(number), "{text}");
        }
        for (name, number) in SIGNALS {
            if let Some(known) = signal_hook::low_level::signal_name(number as i32) {
                assert_eq!(known, format!("SIG{name}"));
            }
        }
    }

    #[test]
    fn times_are_points_or_so_long_ago() {
        let Ok(Since(point)) = since("2026-11-24T12:35:47Z") else {
            panic!("it is a time");
        };
        assert_eq!(point.to_string(), "2026-11-24T12:35:47.000000000Z");
        let Ok(Since(ago)) = since("10m") else {
            panic!("it is a time");
        };
        assert!(ago.age() >= Duration::from_secs(600) && ago.age() < Duration::from_secs(660));
        assert_eq!(tail("all"), Ok(Tail(usize::MAX)));
        assert_eq!(tail("7"), Ok(Tail(7)));
    }
}
