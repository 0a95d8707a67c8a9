//! What a container's processes have to do, checked and complete before anything is done.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use agent_protocol::MAX_SPEC_LEN;
use agent_protocol::names::{ContainerId, ExecId};
use agent_protocol::proto::{self, rootfs::Mode};
use rustix::process::{Resource, Rlimit};
use rustix::termios::Winsize;
use rustix::thread::CapabilitySet;
use serde::de::DeserializeOwned;

use super::filesystem::{self, DevicePlan, MountPlan};
use super::namespaces::Namespaces;
use super::seccomp::Filter;
use super::spec::{self, Spec};
use super::{capabilities, limits, paths};
use crate::archive;
use crate::rpc::Refusal;

/// A checked configuration.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) rootfs: RootfsPlan,
    pub(crate) namespaces: Namespaces,
    /// Name for the new UTS namespace.
    pub(crate) hostname: Option<String>,
    pub(crate) mounts: Vec<MountPlan>,
    pub(crate) devices: Vec<DevicePlan>,
    pub(crate) masked_paths: Vec<String>,
    pub(crate) readonly_paths: Vec<String>,
    /// Path below /proc/sys, and value.
    pub(crate) sysctls: Vec<(String, String)>,
    /// File of the container's cgroup, and value.
    pub(crate) limits: Vec<(String, String)>,
    pub(crate) terminal: Option<Winsize>,
    pub(crate) process: ProcessPlan,
}

/// A checked further process of a container.
#[derive(Debug)]
pub(crate) struct ExecPlan {
    pub(crate) terminal: Option<Winsize>,
    pub(crate) process: ProcessPlan,
}

/// What a further process has of its container, whatever its configuration.
#[derive(Debug, Default)]
pub(crate) struct Inheritance {
    /// Unless the configuration has one.
    pub(crate) oom_score_adj: i32,
    pub(crate) seccomp: Option<Rc<Filter>>,
}

/// The container's root directory.
#[derive(Debug)]
pub(crate) struct RootfsPlan {
    /// Relative to the share.
    pub(crate) path: String,
    pub(crate) mode: Mode,
    /// Whether the container sees it read-only, whatever lies below.
    pub(crate) readonly: bool,
}

/// The program and whom it runs as.
#[derive(Debug)]
pub(crate) struct ProcessPlan {
    pub(crate) arguments: Vec<CString>,
    pub(crate) environment: Vec<CString>,
    pub(crate) cwd: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: u32,
    pub(crate) capabilities: CapabilityPlan,
    pub(crate) rlimits: Vec<(Resource, Rlimit)>,
    pub(crate) no_new_privileges: bool,
    pub(crate) oom_score_adj: i32,
    pub(crate) seccomp: Option<Rc<Filter>>,
    /// What is executed in place of the first argument, if it is no file of the container.
    pub(crate) program: Option<OwnedFd>,
}

/// The five sets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CapabilityPlan {
    pub(crate) bounding: CapabilitySet,
    pub(crate) effective: CapabilitySet,
    pub(crate) inheritable: CapabilitySet,
    pub(crate) permitted: CapabilitySet,
    pub(crate) ambient: CapabilitySet,
}

impl Plan {
    /// Checks a CreateContainer request.
    pub(crate) fn new(request: &proto::CreateContainerRequest) -> Result<Self, Refusal> {
        let spec: Spec = parse("oci_spec_json", &request.oci_spec_json)?;
        refuse(spec.refused_field())?;
        let stdio = request.stdio.get_or_default();
        let filter = Filter::new(&request.seccomp_bpf, request.seccomp_flags)?;
        let inheritance = Inheritance {
            oom_score_adj: 0,
            seccomp: filter.map(Rc::new),
        };
        let namespaces = Namespaces::new(&spec.linux.namespaces, &request.pid_namespace_of)?;
        check_propagation(spec.linux.rootfs_propagation.as_deref())?;
        Ok(Self {
            rootfs: rootfs(request.rootfs.get_or_default(), spec.root.as_ref())?,
            hostname: hostname(spec.hostname, &namespaces)?,
            namespaces,
            mounts: spec
                .mounts
                .into_iter()
                .map(filesystem::mount)
                .collect::<Result<_, _>>()?,
            devices: spec
                .linux
                .devices
                .into_iter()
                .map(filesystem::device)
                .collect::<Result<_, _>>()?,
            masked_paths: paths::all_absolute("linux.maskedPaths", spec.linux.masked_paths)?,
            readonly_paths: paths::all_absolute("linux.readonlyPaths", spec.linux.readonly_paths)?,
            sysctls: sysctls(spec.linux.sysctl)?,
            limits: limits::files(&spec.linux.resources)?,
            terminal: terminal(&spec.process, stdio)?,
            process: process(spec.process, &inheritance)?,
        })
    }
}

impl ExecPlan {
    /// Checks an ExecProcess request.
    pub(crate) fn new(
        request: &proto::ExecProcessRequest,
        inheritance: &Inheritance,
    ) -> Result<Self, Refusal> {
        let spec: spec::Process = parse("process_json", &request.process_json)?;
        refuse(spec.refused_field())?;
        let terminal = terminal(&spec, request.stdio.get_or_default())?;
        let mut process = process(spec, inheritance)?;
        if request.archive {
            let program = archive::program();
            let program =
                program.map_err(|error| Refusal::internal(format!("archive: {error}")))?;
            process.program = Some(program);
        }
        Ok(Self { terminal, process })
    }
}

/// Checks a container's name.
pub(crate) fn container_id(name: &str) -> Result<ContainerId, Refusal> {
    ContainerId::try_from(name).map_err(Refusal::invalid)
}

/// Checks a further process's name.
pub(crate) fn exec_id(name: &str) -> Result<ExecId, Refusal> {
    ExecId::try_from(name).map_err(Refusal::invalid)
}

pub(super) fn refuse(field: Option<&'static str>) -> Result<(), Refusal> {
    match field {
        Some(field) => Err(Refusal::unimplemented(format!("{field} is not supported"))),
        None => Ok(()),
    }
}

fn terminal(process: &spec::Process, stdio: &proto::Stdio) -> Result<Option<Winsize>, Refusal> {
    if process.terminal != stdio.tty {
        return Err(Refusal::invalid(
            "process.terminal and stdio.tty must be equal",
        ));
    }
    match stdio.tty {
        true => window_size(stdio.rows, stdio.cols).map(Some),
        false => Ok(None),
    }
}

/// Checks a terminal's size; 0 is allowed and means unknown.
pub(crate) fn window_size(rows: u32, cols: u32) -> Result<Winsize, Refusal> {
    match (u16::try_from(rows), u16::try_from(cols)) {
        (Ok(ws_row), Ok(ws_col)) => Ok(Winsize {
            ws_row,
            ws_col,
            ws_xpixel: 0,
            ws_ypixel: 0,
        }),
        _ => Err(Refusal::invalid(format!(
            "terminal of {rows} rows and {cols} columns"
        ))),
    }
}

/// Checks kernel parameters and makes them paths below /proc/sys.
pub(crate) fn sysctls(
    parameters: impl IntoIterator<Item = (String, String)>,
) -> Result<Vec<(String, String)>, Refusal> {
    parameters
        .into_iter()
        .map(|(name, value)| {
            // A name with slashes may have dots in a component, such as an interface's name.
            let path = if name.contains('/') {
                name.clone()
            } else {
                name.replace('.', "/")
            };
            let allowed = |c: char| c.is_ascii_alphanumeric() || "_-./:".contains(c);
            let components_fine = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
            if path.len() > 256 || !path.chars().all(allowed) || !components_fine {
                return Err(Refusal::invalid(format!(
                    "sysctl {name:?} is not a parameter's name"
                )));
            }
            Ok((path, value))
        })
        .collect()
}

/// Parses `field` of a request.
pub(super) fn parse<T: DeserializeOwned>(field: &str, json: &[u8]) -> Result<T, Refusal> {
    if json.len() > MAX_SPEC_LEN {
        return Err(Refusal::invalid(format!(
            "{field} has {} bytes, at most {MAX_SPEC_LEN} are allowed",
            json.len()
        )));
    }
    serde_json::from_slice(json).map_err(|error| {
        let text = format!("{field}: {error}");
        let unknown = text.contains("unknown field");
        if unknown {
            Refusal::unimplemented(text)
        } else {
            Refusal::invalid(text)
        }
    })
}

fn rootfs(request: &proto::Rootfs, root: Option<&spec::Root>) -> Result<RootfsPlan, Refusal> {
    let mode = request
        .mode
        .enum_value()
        .map_err(|value| Refusal::invalid(format!("rootfs.mode {value} is unknown")))?;
    let path = paths::relative("rootfs.path", &request.path)?;
    Ok(RootfsPlan {
        path,
        mode,
        readonly: root.is_some_and(|root| root.readonly),
    })
}

/// The name for a UTS namespace of its own; a container without one has the pod's, and no other.
fn hostname(wanted: Option<String>, namespaces: &Namespaces) -> Result<Option<String>, Refusal> {
    let Some(name) = wanted.filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    if namespaces.has_own_uts() {
        return Ok(Some(name));
    }
    match rustix::system::uname().nodename().to_str() {
        Ok(pods) if pods == name => Ok(None),
        _ => Err(Refusal::invalid(
            "hostname differs from the pod's, whose uts namespace it is in",
        )),
    }
}

fn check_propagation(propagation: Option<&str>) -> Result<(), Refusal> {
    match propagation {
        // Nothing is mounted in the guest for containers to receive, so slave and private are one.
        None | Some("" | "private" | "rprivate" | "slave" | "rslave") => Ok(()),
        Some(other) => Err(Refusal::unimplemented(format!(
            "linux.rootfsPropagation {other:?}"
        ))),
    }
}

fn process(process: spec::Process, inheritance: &Inheritance) -> Result<ProcessPlan, Refusal> {
    if process.args.first().is_none_or(String::is_empty) {
        return Err(Refusal::invalid("process.args names no command"));
    }
    let umask = process.user.umask.unwrap_or(0o022);
    if umask > 0o777 {
        return Err(Refusal::invalid(format!("process.user.umask {umask:#o}")));
    }
    Ok(ProcessPlan {
        arguments: c_strings("process.args", process.args)?,
        environment: c_strings("process.env", process.env)?,
        cwd: paths::absolute("process.cwd", &process.cwd)?,
        uid: id("process.user.uid", process.user.uid)?,
        gid: id("process.user.gid", process.user.gid)?,
        groups: process
            .user
            .additional_gids
            .into_iter()
            .map(|gid| id("process.user.additionalGids", gid))
            .collect::<Result<_, _>>()?,
        umask,
        capabilities: capabilities::plan(&process.capabilities)?,
        rlimits: process
            .rlimits
            .iter()
            .map(limits::rlimit)
            .collect::<Result<_, _>>()?,
        no_new_privileges: process.no_new_privileges,
        oom_score_adj: process
            .oom_score_adj
            .unwrap_or(inheritance.oom_score_adj)
            .clamp(-1000, 1000),
        seccomp: inheritance.seccomp.clone(),
        program: None,
    })
}

/// `u32::MAX` means "leave it" to the kernel's calls.
fn id(field: &str, id: u32) -> Result<u32, Refusal> {
    if id == u32::MAX {
        Err(Refusal::invalid(format!("{field} {id}")))
    } else {
        Ok(id)
    }
}

fn c_strings(field: &str, strings: Vec<String>) -> Result<Vec<CString>, Refusal> {
    strings
        .into_iter()
        .map(|string| {
            CString::new(string).map_err(|_| Refusal::invalid(format!("{field} contains a NUL")))
        })
        .collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
