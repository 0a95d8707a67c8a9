//! What annotations do not do.

use sandbox::sizing::Rule;
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
    let role = role(&bundle).unwrap();
    let size = Rule::default().size(limits(&bundle, &role)).unwrap();
    let config = vm("k8s.io", "pod", &bundle, &role, size).unwrap();
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
