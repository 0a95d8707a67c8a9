//! Parts of an OCI runtime configuration (runtime-spec v1.2) for the guest.
//!
//! The runtime adds what it knows: mounts of every container (/proc, /dev, ...), the hidden parts of
//! /proc, and how its root is reached.

use serde_json::{Value, json};

use super::container::{ContainerPlan, Mount, MountSource};
use super::seccomp;
use super::user::Ids;

/// Microseconds over which a CPU limit holds.
const PERIOD: u64 = 100_000;
/// Least weight of a container without a request (the kernel's).
const MIN_SHARES: u64 = 2;

/// `process`.
#[must_use]
pub fn process(container: &ContainerPlan, ids: &Ids) -> Value {
    let capabilities = &container.capabilities;
    // As container engines do: another user than root has the bounding set only.
    let effective: &[String] = if ids.uid == 0 { capabilities } else { &[] };
    let mut env = container.env.clone();
    let has = |env: &[String], name: &str| env.iter().any(|variable| variable.starts_with(name));
    if !has(&env, "HOME=") {
        let default = if ids.uid == 0 { "/root" } else { "/" };
        let home = ids.home.as_deref().filter(|home| !home.is_empty());
        env.push(format!("HOME={}", home.unwrap_or(default)));
    }
    if container.tty && !has(&env, "TERM=") {
        env.push("TERM=xterm".into());
    }
    json!({
        "terminal": container.tty,
        "user": { "uid": ids.uid, "gid": ids.gid, "additionalGids": ids.groups },
        "args": container.args,
        "env": env,
        "cwd": container.cwd,
        "capabilities": {
            "bounding": capabilities,
            "effective": effective,
            "permitted": effective,
        },
        "noNewPrivileges": container.no_new_privileges,
    })
}

/// `linux.resources`.
#[must_use]
pub fn resources(container: &ContainerPlan) -> Value {
    let (limits, requests) = (container.resources.limits, container.resources.requests);
    // Without a request the limit is one.
    let wanted = requests.cpu_millis.or(limits.cpu_millis).unwrap_or(0);
    let shares = (wanted.saturating_mul(1024) / 1000).clamp(MIN_SHARES, 262_144);
    let mut cpu = json!({ "shares": shares });
    if let Some(millis) = limits.cpu_millis {
        cpu["quota"] = json!(millis.saturating_mul(PERIOD) / 1000);
        cpu["period"] = json!(PERIOD);
    }
    let mut resources = json!({ "cpu": cpu });
    if let Some(bytes) = limits.memory {
        resources["memory"] = json!({ "limit": bytes });
    }
    resources
}

/// `linux.namespaces`; with `shared_processes` the pid namespace is another container's.
#[must_use]
pub fn namespaces(shared_processes: bool) -> Value {
    let pid = match shared_processes {
        true => json!({ "type": "pid", "path": "pod" }),
        false => json!({ "type": "pid" }),
    };
    json!([pid, { "type": "mount" }, { "type": "cgroup" }])
}

/// `linux.seccomp`, if system calls are filtered. It has to be compiled for the agent.
#[must_use]
pub fn seccomp(container: &ContainerPlan) -> Option<Value> {
    container
        .seccomp
        .then(|| seccomp::profile(&container.capabilities))
}

/// `mounts`, as far as the manifest asks for them; `source` says where the guest has each, of a volume
/// all of it.
#[must_use]
pub fn mounts(container: &ContainerPlan, source: impl Fn(&Mount) -> String) -> Vec<Value> {
    let mount = |mount: &Mount| {
        let access = if mount.read_only { "ro" } else { "rw" };
        let mut options = vec!["rbind".to_owned(), access.to_owned()];
        if let MountSource::Volume { sub_path, .. } = &mount.source
            && !sub_path.is_empty()
        {
            // mount(8)'s word for it.
            options.push(format!("X-mount.subdir={sub_path}"));
        }
        json!({
            "destination": mount.path,
            "type": "bind",
            "source": source(mount),
            "options": options,
        })
    };
    container.mounts.iter().map(mount).collect()
}
