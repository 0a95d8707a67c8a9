//! What containerd's files and annotations say.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sandbox::bundle::Bundle;
use sandbox::sizing::{self, Limits};
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
/// anybody's who may make pods, it goes by those that [`limits`] reads as numbers, and by no other.
pub fn vm(namespace: &str, id: &str, bundle: &Bundle, role: &Role) -> anyhow::Result<PodConfig> {
    let size = sizing::size(sizing::Base::default(), limits(bundle, role));
    let size = size.context("the pod's limits")?;
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

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::*;

    /// By which other runtimes are, or were, led to files, programs and arguments of the host.
    const STEERING: &[&str] = &[
        "io.katacontainers.config_path",
        "io.katacontainers.config.hypervisor.path",
        "io.katacontainers.config.hypervisor.ctlpath",
        "io.katacontainers.config.hypervisor.jailer_path",
        "io.katacontainers.config.hypervisor.kernel",
        "io.katacontainers.config.hypervisor.kernel_params",
        "io.katacontainers.config.hypervisor.image",
        "io.katacontainers.config.hypervisor.initrd",
        "io.katacontainers.config.hypervisor.firmware",
        "io.katacontainers.config.hypervisor.virtio_fs_daemon",
        "io.katacontainers.config.hypervisor.virtio_fs_extra_args",
        "io.katacontainers.config.hypervisor.file_mem_backend",
        "io.katacontainers.config.hypervisor.entropy_source",
        "io.katacontainers.config.runtime.create_container_timeout",
        "io.katacontainers.config.agent.kernel_modules",
        "io.kubernetes.cri.runtime-handler",
        "io.kubernetes.cri-o.RuntimeConfigPath",
        "dev.gvisor.internal.flags",
        "dev.gvisor.spec.rootfs.source",
        "run.oci.handler",
        "run.oci.hooks.stderr",
        "com.github.containers.krun.kernel",
        "kernel",
        "vmm",
        "debug",
    ];

    const VALUES: &[&str] = &[
        "/tmp/evil",
        "../../tmp/evil",
        "--socket=/tmp/evil",
        "init=/evil",
        "1",
    ];

    fn bundle(annotations: &[(&str, &str)]) -> Bundle {
        let annotations: Map<_, _> = annotations
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Value::from(*value)))
            .collect();
        let spec = json!({
            "ociVersion": "1.0.2",
            "hostname": "web",
            "annotations": annotations,
            "process": { "args": ["sh"], "cwd": "/" },
            "linux": { "namespaces": [
                { "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" },
            ] },
        });
        Bundle::from_json(spec.to_string().as_bytes()).unwrap()
    }

    /// All that a VM is made of, and of a container in it.
    fn outcome(annotations: &[(&str, &str)]) -> String {
        let all = [&[(CONTAINER_TYPE, "sandbox")], annotations].concat();
        let bundle = bundle(&all);
        let config = vm("k8s.io", "pod", &bundle, &role(&bundle).unwrap()).unwrap();
        format!("{config:?} {:?}", bundle.root_dir(Path::new("/bundle")))
    }

    #[test]
    fn case_16_annotations_name_no_path_program_or_argument() {
        let plain = outcome(&[]);
        for name in STEERING {
            for value in VALUES {
                assert_eq!(outcome(&[(name, value)]), plain, "{name}: {value}");
            }
        }
        // Where a number is expected, a path is none.
        for name in [SANDBOX_CPU_QUOTA, SANDBOX_CPU_PERIOD, SANDBOX_MEMORY] {
            for value in &VALUES[..4] {
                assert_eq!(outcome(&[(name, value)]), plain, "{name}: {value}");
            }
        }
        assert_ne!(outcome(&[(SANDBOX_MEMORY, "1073741824")]), plain);
    }

    #[test]
    fn case_16_no_annotation_is_podvmms_own() {
        for name in ["io.podvmm.kernel", "io.podvmm.vmm", "io.podvmm."] {
            let error = role(&bundle(&[(name, "/tmp/evil")])).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn case_16_a_sandbox_is_named_and_no_path() {
        for id in ["../x", "a/b", "/x", "", ".", ".."] {
            let bundle = bundle(&[(CONTAINER_TYPE, "container"), (SANDBOX_ID, id)]);
            assert!(role(&bundle).is_err(), "{id}");
        }
    }
}
