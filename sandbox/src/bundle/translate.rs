//! From a configuration for the host's kernel to one for the guest's.

use std::path::{Path, PathBuf};

use agent_protocol::SHARE_PATH;
use serde_json::{Map, Value, json};

use super::{BundleError, GuestSpec, SpecBlock, devices};
use crate::config::Share;

/// What Share errors call the path.
const PARAMETER: &str = "mount source";
/// Mount options that concern how later mounts of the host spread: none do in a guest.
const PROPAGATION: [&str; 6] = [
    "private", "rprivate", "slave", "rslave", "shared", "rshared",
];

pub(super) type Object = Map<String, Value>;

pub fn container(
    mut spec: Value,
    id: &str,
    is_pod_shm: impl Fn(&Path) -> bool,
) -> Result<GuestSpec, BundleError> {
    let root = object(&mut spec, "config.json")?;
    root.remove("annotations");
    check_hooks(root)?;
    let terminal = match root.get_mut("process") {
        Some(process) => process_labels(object(process, "process")?),
        None => return Err(malformed("process")),
    };
    let mut linux = match root.remove("linux") {
        Some(linux) => linux,
        None => json!({}),
    };
    let (joins_pid_namespace, blocks) = translate_linux(object(&mut linux, "linux")?)?;
    let profile = linux
        .as_object_mut()
        .and_then(|linux| linux.remove("seccomp"));
    let profile = profile.filter(|profile| !profile.is_null());
    let seccomp = profile.map(super::seccomp::compile).transpose()?;
    root.insert("linux".into(), linux);
    let shares = match root.get_mut("mounts") {
        None | Some(Value::Null) => Vec::new(),
        Some(mounts) => translate_mounts(mounts, id, is_pod_shm)?,
    };
    Ok(GuestSpec {
        spec,
        shares,
        blocks,
        joins_pid_namespace,
        terminal,
        seccomp,
    })
}

pub fn process(json: &[u8]) -> Result<(Vec<u8>, bool), BundleError> {
    let mut process: Value =
        serde_json::from_slice(json).map_err(|_| malformed("process of an exec"))?;
    let terminal = process_labels(object(&mut process, "process of an exec")?);
    Ok((process.to_string().into_bytes(), terminal))
}

/// Takes out the labels of the host's security modules, of which the guest's kernel has none; the VM
/// itself is what they would confine on the host. Tells whether there is a terminal.
fn process_labels(process: &mut Object) -> bool {
    process.remove("apparmorProfile");
    process.remove("selinuxLabel");
    process.get("terminal") == Some(&Value::Bool(true))
}

fn check_hooks(root: &mut Object) -> Result<(), BundleError> {
    let hooks = root.remove("hooks");
    let all = hooks.as_ref().and_then(Value::as_object);
    let is_set = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
    match all.into_iter().flatten().find(|(_, list)| is_set(list)) {
        Some((name, _)) => Err(unsupported(
            format!("hooks.{name}"),
            "runs a program of the host on the container's behalf, which a VM keeps out",
        )),
        None => Ok(()),
    }
}

fn translate_linux(linux: &mut Object) -> Result<(bool, Vec<SpecBlock>), BundleError> {
    linux.remove("mountLabel");
    linux.remove("cgroupsPath");
    linux.remove("rootfsPropagation");
    let resources = linux.get_mut("resources").and_then(Value::as_object_mut);
    // Only the listed nodes exist in a guest; rules about others have nothing to rule.
    let rules = resources.and_then(|resources| resources.remove("devices"));
    let joins_pid_namespace = check_namespaces(linux)?;
    let blocks = devices::open(linux, rules.as_ref())?;
    Ok((joins_pid_namespace, blocks))
}

/// Refuses the host's namespaces. Tells whether the pid namespace is one that exists already.
fn check_namespaces(linux: &Object) -> Result<bool, BundleError> {
    let none = Vec::new();
    let all = match linux.get("namespaces") {
        None | Some(Value::Null) => &none,
        Some(list) => list
            .as_array()
            .ok_or_else(|| malformed("linux.namespaces"))?,
    };
    let find = |kind: &str| all.iter().find(|entry| entry["type"] == kind);
    for (namespace, option) in [
        ("network", "hostNetwork"),
        ("pid", "hostPID"),
        ("ipc", "hostIPC"),
        ("uts", "hostNetwork"),
        ("mount", "the host's mounts"),
    ] {
        if find(namespace).is_none() {
            return Err(BundleError::HostNamespace { namespace, option });
        }
    }
    for (namespace, reason) in [
        (
            "user",
            "asks for a user namespace, which guests do not have yet: leave hostUsers: false out; the VM itself keeps root of the container from being root of the host",
        ),
        (
            "time",
            "asks for a time namespace, which guests do not have",
        ),
    ] {
        if find(namespace).is_some() {
            return Err(unsupported("linux.namespaces".into(), reason));
        }
    }
    let path = find("pid").and_then(|pid| pid.get("path"));
    Ok(path
        .and_then(Value::as_str)
        .is_some_and(|path| !path.is_empty()))
}

/// Turns bind mounts of the host into bind mounts of shares.
fn translate_mounts(
    mounts: &mut Value,
    id: &str,
    is_pod_shm: impl Fn(&Path) -> bool,
) -> Result<Vec<Share>, BundleError> {
    let mounts = mounts.as_array_mut().ok_or_else(|| malformed("mounts"))?;
    let mut shares = Vec::new();
    for (index, mount) in mounts.iter_mut().enumerate() {
        let field = format!("mounts[{index}]");
        let mount = object(mount, &field)?;
        let options = take_options(mount, &field)?;
        let is_bind = mount.get("type").is_some_and(|kind| kind == "bind")
            || options
                .iter()
                .any(|option| option == "bind" || option == "rbind");
        if is_bind {
            let source = source(mount, &field)?;
            let inside = if is_pod_shm(&source) {
                "/dev/shm".to_owned()
            } else {
                let name = format!("{id}-{index}");
                let read_only = options.iter().any(|option| option == "ro");
                shares.push(Share::open(PARAMETER, &name, &source, read_only)?);
                format!("{SHARE_PATH}/{name}")
            };
            mount.insert("source".into(), inside.into());
        }
        mount.insert("options".into(), options.into());
    }
    Ok(shares)
}

fn take_options(mount: &mut Object, field: &str) -> Result<Vec<String>, BundleError> {
    let wrong = || malformed(format!("{field}.options"));
    let options = match mount.remove("options") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(options)) => options,
        Some(_) => return Err(wrong()),
    };
    let mut kept = Vec::new();
    for option in options {
        let option = option.as_str().ok_or_else(wrong)?.to_owned();
        match option.as_str() {
            "shared" | "rshared" => {
                return Err(unsupported(
                    field.into(),
                    "asks for bidirectional mount propagation; a guest's mounts do not reach the host",
                ));
            }
            other if PROPAGATION.contains(&other) => {}
            _ => kept.push(option),
        }
    }
    Ok(kept)
}

fn source(mount: &Object, field: &str) -> Result<PathBuf, BundleError> {
    let source = mount.get("source").and_then(Value::as_str);
    match source.map(Path::new) {
        Some(path) if path.is_absolute() => Ok(path.to_owned()),
        _ => Err(malformed(format!("{field}.source"))),
    }
}

fn object<'a>(value: &'a mut Value, field: &str) -> Result<&'a mut Object, BundleError> {
    value.as_object_mut().ok_or_else(|| malformed(field))
}

pub(super) fn malformed(field: impl Into<String>) -> BundleError {
    BundleError::Malformed {
        field: field.into(),
    }
}

pub(super) fn unsupported(field: String, reason: &'static str) -> BundleError {
    BundleError::Unsupported { field, reason }
}

#[cfg(test)]
#[path = "translate_tests.rs"]
mod tests;
