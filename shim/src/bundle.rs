//! What containerd's files and annotations say.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sandbox::bundle::Bundle;
use sandbox::sizing::Limits;

/// Directory of all pods' runtime directories and sockets.
const ROOT: &str = "/run/podvmm-shim";
/// File of a bundle that holds the address of its shim.
pub const ADDRESS: &str = "address";

/// Annotations that the CRI plugin writes.
const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
const SANDBOX_CPU_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
const SANDBOX_CPU_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";
const SANDBOX_MEMORY: &str = "io.kubernetes.cri.sandbox-memory";
/// Those that would be ours. There are none yet: who writes one expects what does not happen.
const OWN_PREFIX: &str = "io.podvmm.";

/// What a container is to its pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The pod itself.
    Sandbox,
    /// One container of the pod of this name.
    Member(String),
    /// A container without a pod, which gets one of its own.
    Alone,
}

/// What the container of `bundle` is to its pod.
pub fn role(bundle: &Bundle) -> anyhow::Result<Role> {
    if let Some((name, _)) = bundle
        .annotations()
        .find(|(name, _)| name.starts_with(OWN_PREFIX))
    {
        bail!("annotation {name}: podvmm knows no annotation of this name; take it out");
    }
    match bundle.annotation(CONTAINER_TYPE) {
        None => Ok(Role::Alone),
        Some("sandbox") => Ok(Role::Sandbox),
        Some("container") => {
            let sandbox = bundle.annotation(SANDBOX_ID);
            let sandbox = sandbox.with_context(|| format!("annotation {SANDBOX_ID} is missing"))?;
            if sandbox.is_empty() || sandbox.contains('/') || sandbox.starts_with('.') {
                bail!("annotation {SANDBOX_ID}: {sandbox:?} is no name of a sandbox");
            }
            Ok(Role::Member(sandbox.to_owned()))
        }
        Some(other) => bail!("annotation {CONTAINER_TYPE}: unknown type {other:?}"),
    }
}

/// What a pod's containers may use at most, as far as is known when the pod starts.
pub fn limits(bundle: &Bundle, role: &Role) -> Limits {
    if *role == Role::Alone {
        return bundle.limits();
    }
    let number = |name: &str| {
        bundle
            .annotation(name)
            .and_then(|text| text.parse::<i64>().ok())
    };
    let period = number(SANDBOX_CPU_PERIOD).and_then(|period| u64::try_from(period).ok());
    Limits {
        cpu_millis: number(SANDBOX_CPU_QUOTA)
            .and_then(|quota| Limits::cpu_of_quota(quota, period.unwrap_or(100_000))),
        memory: number(SANDBOX_MEMORY)
            .and_then(|bytes| u64::try_from(bytes).ok())
            .filter(|bytes| *bytes > 0),
    }
}

/// Whether `source` is the shared memory that the CRI plugin keeps on the host for the pod.
pub fn is_pod_shm(bundle: &Bundle, source: &Path) -> bool {
    let sandbox = bundle.annotation(SANDBOX_ID);
    let parent = source.parent().and_then(Path::file_name);
    source.file_name().is_some_and(|name| name == "shm")
        && sandbox.is_some_and(|id| parent.is_some_and(|parent| parent == id))
}

/// Bytes of the shared memory that the CRI plugin keeps on the host for the pod, if it does.
pub fn shm_size(bundle: &Bundle) -> Option<u64> {
    let source = bundle
        .bind_sources()
        .find(|path| is_pod_shm(bundle, path))?;
    let stat = rustix::fs::statvfs(source).ok()?;
    Some(stat.f_blocks.saturating_mul(stat.f_frsize)).filter(|size| *size > 0)
}

/// Directory of the runtime directories of `namespace`.
pub fn root(namespace: &str) -> PathBuf {
    Path::new(ROOT).join(namespace)
}

/// Socket of the shim of the pod `id`.
pub fn socket(namespace: &str, id: &str) -> PathBuf {
    root(namespace).join(format!("{id}.sock"))
}
