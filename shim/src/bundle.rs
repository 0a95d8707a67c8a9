//! What containerd's files and annotations say.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sandbox::bundle::Bundle;
use sandbox::sizing::{Limits, Size};
use sandbox::{Netns, Network, PodConfig};

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

/// The VM for the pod `id`, whose first container's bundle this is. Of the annotations, which are
/// anybody's who may make pods, it goes by those that [`limits`] reads as numbers for its `size`, and by no
/// other.
pub fn vm(
    namespace: &str,
    id: &str,
    bundle: &Bundle,
    role: &Role,
    size: Size,
) -> anyhow::Result<PodConfig> {
    let mut config = PodConfig::new(id);
    config.root = root(namespace);
    config.vcpus = size.vcpus;
    config.memory = size.memory;
    config.hostname = bundle.hostname().unwrap_or_default().to_owned();
    if let Some(path) = bundle.network_namespace() {
        let mut network = Network::new(Netns::open(path)?);
        // What a pod may reach is for the cluster's network policies to say, as for other runtimes.
        network.allow_metadata = true;
        config.network = Some(network);
    }
    if *role == Role::Sandbox {
        config.sysctls = bundle.sysctls();
        config.shm_size = shm_size(bundle);
    }
    Ok(config)
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

/// Writes down where the cgroup of the pod `id` is, for who has to clean up: containerd removes bundles
/// before it has heard that their shims are gone.
pub fn note_cgroup(namespace: &str, id: &str, cgroups_path: &str) -> anyhow::Result<()> {
    let path = cgroup_note(namespace, id);
    std::fs::write(&path, cgroups_path).with_context(|| path.display().to_string())
}

/// Where the cgroup of the pod `id` is, if its shim has written that down.
pub fn noted_cgroup(namespace: &str, id: &str) -> Option<String> {
    std::fs::read_to_string(cgroup_note(namespace, id)).ok()
}

/// The cgroup of the pod `id` is gone.
pub fn forget_cgroup(namespace: &str, id: &str) {
    let _ = std::fs::remove_file(cgroup_note(namespace, id));
}

fn cgroup_note(namespace: &str, id: &str) -> PathBuf {
    root(namespace).join(format!("{id}.cgroup"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn bundle(annotations: &Value) -> Bundle {
        let dir = tempfile::tempdir().unwrap();
        let config = json!({
            "annotations": annotations,
            "mounts": [{ "destination": "/dev/shm", "type": "bind", "source": "/run/pods/pod/shm" }],
            "linux": { "resources": { "memory": { "limit": 4096 } } },
        });
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        Bundle::open(dir.path()).unwrap()
    }

    #[test]
    fn roles_are_told_by_annotations() {
        assert_eq!(role(&bundle(&json!({}))).unwrap(), Role::Alone);
        let sandbox = json!({ CONTAINER_TYPE: "sandbox" });
        assert_eq!(role(&bundle(&sandbox)).unwrap(), Role::Sandbox);
        let member = json!({ CONTAINER_TYPE: "container", SANDBOX_ID: "pod" });
        assert_eq!(role(&bundle(&member)).unwrap(), Role::Member("pod".into()));
        let own = json!({ "io.podvmm.memory": "9", CONTAINER_TYPE: "sandbox" });
        assert!(role(&bundle(&own)).is_err());
    }

    #[test]
    fn a_pods_limits_are_those_of_its_sandbox_and_nonsense_is_none() {
        let of = |annotations: Value| limits(&bundle(&annotations), &Role::Sandbox);
        let limited = of(json!({
            SANDBOX_CPU_QUOTA: "150000", SANDBOX_CPU_PERIOD: "100000", SANDBOX_MEMORY: "1048576",
        }));
        assert_eq!(
            (limited.cpu_millis, limited.memory),
            (Some(1500), Some(1 << 20))
        );
        for nonsense in ["", "0", "-1", "x", "1e9", "99999999999999999999"] {
            let odd = of(json!({ SANDBOX_CPU_QUOTA: nonsense, SANDBOX_MEMORY: nonsense }));
            assert_eq!((odd.cpu_millis, odd.memory), (None, None), "{nonsense:?}");
        }
        let alone = limits(&bundle(&json!({})), &Role::Alone);
        assert_eq!(alone.memory, Some(4096));
    }

    #[test]
    fn the_pods_shared_memory_is_the_one_that_the_plugin_made_for_it() {
        let bundle = bundle(&json!({ SANDBOX_ID: "pod" }));
        for (path, is_it) in [
            ("/run/pods/pod/shm", true),
            ("/run/pods/other/shm", false),
            ("/run/pods/pod/shm2", false),
        ] {
            assert_eq!(is_pod_shm(&bundle, Path::new(path)), is_it, "{path}");
        }
    }
}

#[cfg(test)]
#[path = "steering_tests.rs"]
mod steering_tests;
