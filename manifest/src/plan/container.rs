//! One container.

use std::collections::HashMap;
use std::time::Duration;

use super::environment::{self, Variables};
use super::user::{ImageUser, User};
use super::{Context, ImageConfig, PlanError};
use crate::expand::{expand, unknown};
use crate::pod::{Container, Hook, Port, Probe, PullPolicy, Resources, SubPath, VolumeSource};

/// What the kernel takes of arguments and variables, with its usual stack limit of 8 MiB.
const MAX_TOGETHER: usize = 2 << 20;

/// What container engines set where nothing else does.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A container to be made.
#[derive(Clone, Debug)]
pub struct ContainerPlan {
    /// Name, unique in the pod.
    pub name: String,
    /// Image.
    pub image: String,
    /// When it is pulled.
    pub pull: PullPolicy,
    /// Program and arguments.
    pub args: Vec<String>,
    /// Variables as `NAME=value`.
    pub env: Vec<String>,
    /// Working directory; made if missing.
    pub cwd: String,
    /// User; names are looked up in the container's root.
    pub user: User,
    /// The five sets are made of these, such as `CAP_CHOWN`.
    pub capabilities: Vec<String>,
    /// Whether set-user-ID programs have no effect.
    pub no_new_privileges: bool,
    /// Whether the root cannot be written.
    pub read_only_root: bool,
    /// Whether parts of /proc are hidden or protected.
    pub masked_proc: bool,
    /// Whether system calls are filtered.
    pub seccomp: bool,
    /// Limits and requests.
    pub resources: Resources,
    /// What is mounted, a directory before what is mounted in it.
    pub mounts: Vec<Mount>,
    /// Ports.
    pub ports: Vec<Port>,
    /// Run beside the command once it has started.
    pub post_start: Option<Hook>,
    /// Run before the command is ended.
    pub pre_stop: Option<Hook>,
    /// Whether it has to be started again.
    pub liveness: Option<Probe>,
    /// Whether it can be used.
    pub readiness: Option<Probe>,
    /// Whether it has started.
    pub startup: Option<Probe>,
    /// Whether it has standard input.
    pub stdin: bool,
    /// Whether the input ends with its first user.
    pub stdin_once: bool,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Signal that asks it to end.
    pub stop_signal: Option<String>,
    /// File of its last words; one of `mounts`.
    pub termination_path: String,
    /// Whether the log's end stands for last words that are missing.
    pub termination_from_log: bool,
    /// How long it may take to end.
    pub grace: Duration,
}

/// Something mounted in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What.
    pub source: MountSource,
    /// Where.
    pub path: String,
    /// Whether it cannot be written.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// A volume, or a relative path in it.
    Volume {
        /// Name.
        name: String,
        /// Path, made as a directory if it is missing; empty is all of it.
        sub_path: String,
    },
    /// /etc/hosts of the pod.
    Hosts,
    /// /etc/hostname of the pod.
    Hostname,
    /// /etc/resolv.conf of the pod.
    ResolvConf,
    /// The file of the container's last words, empty at first.
    Termination,
}

pub fn plan(
    container: &Container,
    image: &ImageConfig,
    context: &Context<'_>,
) -> Result<ContainerPlan, PlanError> {
    let variables = environment::variables(container, context)?;
    let args = args(container, image, &variables)?;
    let env = env(image, variables.clone(), context);
    let together = args
        .iter()
        .chain(&env)
        .map(|text| text.len() + 9)
        .sum::<usize>();
    if together > MAX_TOGETHER {
        return Err(PlanError::TooMuch {
            container: container.name.clone(),
            limit: MAX_TOGETHER,
        });
    }
    let security = &container.security;
    let cwd = match (&container.working_dir, image.working_dir.as_str()) {
        (Some(dir), _) => dir.clone(),
        (None, "") => "/".into(),
        (None, dir) => dir.to_owned(),
    };
    Ok(ContainerPlan {
        name: container.name.clone(),
        image: container.image.clone(),
        pull: container.pull,
        args,
        env,
        cwd,
        user: user(container, image, context)?,
        capabilities: capabilities(&security.add, &security.drop),
        no_new_privileges: !security.allow_escalation,
        read_only_root: security.read_only_root,
        masked_proc: !security.unmasked_proc,
        seccomp: security.seccomp,
        resources: container.resources,
        mounts: mounts(container, &variables, context)?,
        ports: container.ports.clone(),
        post_start: container.post_start.clone(),
        pre_stop: container.pre_stop.clone(),
        liveness: container.liveness.clone(),
        readiness: container.readiness.clone(),
        startup: container.startup.clone(),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        stop_signal: image.stop_signal.clone(),
        termination_path: container.termination_path.clone(),
        termination_from_log: container.termination_from_log,
        grace: context.manifest.pod.grace,
    })
}

/// By Kubernetes' table: a command takes the place of entry point and command of the image, arguments
/// alone that of its command.
fn args(
    container: &Container,
    image: &ImageConfig,
    variables: &Variables,
) -> Result<Vec<String>, PlanError> {
    let some = |list: &Option<Vec<String>>| list.clone().filter(|list| !list.is_empty());
    let (command, args) = (some(&container.command), some(&container.args));
    let expand_all = |list: Vec<String>| {
        let known = |name: &str| variables.get(name).map(String::as_str);
        let expanded = list.iter().map(|text| expand(text, known));
        expanded
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| PlanError::TooLong {
                container: container.name.clone(),
                what: "an argument".into(),
                source,
            })
    };
    // What the image says is not expanded.
    let (mut all, rest) = match (command, args) {
        (Some(command), args) => (expand_all(command)?, expand_all(args.unwrap_or_default())?),
        (None, Some(args)) => (image.entrypoint.clone(), expand_all(args)?),
        (None, None) => (image.entrypoint.clone(), image.cmd.clone()),
    };
    all.extend(rest);
    if all.first().is_none_or(String::is_empty) {
        return Err(PlanError::NoCommand {
            container: container.name.clone(),
        });
    }
    Ok(all)
}

/// The image's variables, with the manifest's in their place, and what every container has.
fn env(image: &ImageConfig, variables: Variables, context: &Context<'_>) -> Vec<String> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut places = HashMap::new();
    let mut set = |name: &str, value: &str| {
        let place = *places.entry(name.to_owned()).or_insert(env.len());
        match env.get_mut(place) {
            Some((_, old)) => value.clone_into(old),
            None => env.push((name.to_owned(), value.to_owned())),
        }
    };
    set("PATH", PATH);
    set("HOSTNAME", context.hostname);
    for variable in &image.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        set(name, value);
    }
    for (name, value) in &variables {
        set(name, value);
    }
    env.into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

fn user(
    container: &Container,
    image: &ImageConfig,
    context: &Context<'_>,
) -> Result<User, PlanError> {
    let pod = &context.manifest.pod;
    let of_image = ImageUser::parse(&image.user).map_err(|source| PlanError::User {
        container: container.name.clone(),
        source,
    })?;
    let mut groups = pod.supplemental_groups.clone();
    groups.extend(pod.fs_group);
    Ok(User {
        image: of_image,
        uid: container.security.user,
        gid: container.security.group,
        groups,
        image_groups: pod.image_groups,
        non_root: container.security.non_root,
    })
}

/// Capabilities that container engines leave to a container by default.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// `ALL` is carried out first, so that single ones can be taken away or given beside it.
fn capabilities(add: &[String], drop: &[String]) -> Vec<String> {
    let all = |list: &[String]| list.iter().any(|name| name == "ALL");
    let mut set: Vec<String> = match (all(add), all(drop)) {
        (true, _) => crate::pod::all_capabilities().collect(),
        (false, true) => Vec::new(),
        (false, false) => DEFAULT_CAPABILITIES.map(str::to_owned).to_vec(),
    };
    set.extend(add.iter().filter(|name| *name != "ALL").cloned());
    set.retain(|name| !drop.contains(name));
    set.sort();
    set.dedup();
    set
}

fn mounts(
    container: &Container,
    variables: &Variables,
    context: &Context<'_>,
) -> Result<Vec<Mount>, PlanError> {
    let mut mounts = Vec::new();
    // As the kubelet mounts them, whatever is asked for.
    let is_files = |name: &str| {
        let mut volumes = context.manifest.pod.volumes.iter();
        let volume = volumes.find(|volume| volume.name == name);
        volume.is_some_and(|volume| matches!(volume.source, VolumeSource::Files { .. }))
    };
    for mount in &container.mounts {
        let sub_path = match &mount.sub_path {
            SubPath::Whole => String::new(),
            SubPath::Path(path) => path.clone(),
            SubPath::Expression(path) => sub_path(container, path, variables)?,
        };
        mounts.push(Mount {
            source: MountSource::Volume {
                name: mount.volume.clone(),
                sub_path,
            },
            path: mount.path.clone(),
            read_only: mount.read_only || is_files(&mount.volume),
        });
    }
    let read_only = container.security.read_only_root;
    for (source, path, read_only) in [
        (MountSource::Hosts, "/etc/hosts", read_only),
        (MountSource::Hostname, "/etc/hostname", read_only),
        (MountSource::ResolvConf, "/etc/resolv.conf", read_only),
        (MountSource::Termination, &container.termination_path, false),
    ] {
        // A volume that the manifest has there is what its author wants.
        if mounts.iter().all(|mount| mount.path != path) {
            mounts.push(Mount {
                source,
                path: path.to_owned(),
                read_only,
            });
        }
    }
    mounts.sort_by_key(|mount| mount.path.matches('/').count());
    Ok(mounts)
}

fn sub_path(
    container: &Container,
    expression: &str,
    variables: &Variables,
) -> Result<String, PlanError> {
    let wrong = |reason: String| PlanError::SubPath {
        container: container.name.clone(),
        expression: expression.to_owned(),
        reason,
    };
    if let Some(name) = unknown(expression, |name| variables.contains_key(name)) {
        return Err(wrong(format!("there is no variable {name}")));
    }
    let known = |name: &str| variables.get(name).map(String::as_str);
    let path = expand(expression, known).map_err(|error| wrong(error.to_string()))?;
    let parts: Vec<_> = path
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    if path.starts_with('/') || parts.contains(&"..") {
        return Err(wrong(format!(
            "comes out as {path:?}, which leads out of the volume"
        )));
    }
    Ok(parts.join("/"))
}
