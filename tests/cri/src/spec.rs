//! A pod and its containers, described to CRI as kubelet does.
//!
//! Each description starts as kubelet's for a manifest that says no more than image and command; the
//! methods are what further fields of a manifest come to.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use k8s_cri::v1::{self as cri, security_profile::ProfileType};

use crate::manifest;

/// busybox, under the name that the manifests ask for.
pub const UBUNTU: &str = "mcr.azk8s.cn/aks/fundamental/base-ubuntu:v0.0.11";
/// The same with a user of its own, 1234:2345.
pub const USER: &str = "localhost/podvmm/user:1";
/// The same with an entrypoint and a volume.
pub const SERVICE: &str = "localhost/podvmm/service:1";

/// An image by its name.
#[must_use]
pub fn image(name: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: name.to_owned(),
        ..Default::default()
    }
}

/// A pod before it runs.
#[derive(Debug, Clone)]
pub struct PodSpec {
    /// What CRI is told.
    pub config: cri::PodSandboxConfig,
}

impl PodSpec {
    /// A pod of this name, with an identity that no other pod has.
    #[must_use]
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let uid = format!("7d0c1d5e-0000-4000-8000-{number:012x}");
        let labels = [
            ("io.kubernetes.pod.name", name),
            ("io.kubernetes.pod.namespace", "default"),
            ("io.kubernetes.pod.uid", &uid),
        ];
        let annotations = [
            (
                "kubernetes.io/config.seen",
                "2026-01-02T03:04:05.678901234Z",
            ),
            ("kubernetes.io/config.source", "api"),
        ];
        Self {
            config: cri::PodSandboxConfig {
                metadata: Some(cri::PodSandboxMetadata {
                    name: name.to_owned(),
                    uid: uid.clone(),
                    namespace: "default".to_owned(),
                    attempt: 0,
                }),
                hostname: name.to_owned(),
                dns_config: Some(cri::DnsConfig {
                    servers: vec!["10.96.0.10".to_owned()],
                    searches: vec!["default.svc.cluster.local".to_owned()],
                    options: vec!["ndots:5".to_owned()],
                }),
                labels: map(&labels),
                annotations: map(&annotations),
                linux: Some(cri::LinuxPodSandboxConfig {
                    security_context: Some(cri::LinuxSandboxSecurityContext {
                        namespace_options: Some(namespaces()),
                        seccomp: Some(profile(ProfileType::RuntimeDefault)),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            },
        }
    }

    /// The pod's unique identity.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.config.metadata.as_ref().map_or("", |meta| &meta.uid)
    }

    /// The pod's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.config.metadata.as_ref().map_or("", |meta| &meta.name)
    }

    /// What the Linux part of the description is changed in.
    pub fn linux(&mut self) -> &mut cri::LinuxPodSandboxConfig {
        self.config.linux.get_or_insert_default()
    }

    /// The security context for the whole pod.
    pub fn security(&mut self) -> &mut cri::LinuxSandboxSecurityContext {
        self.linux().security_context.get_or_insert_default()
    }

    /// Which namespaces the pod has of its own.
    pub fn namespaces(&mut self) -> &mut cri::NamespaceOption {
        self.security().namespace_options.get_or_insert_default()
    }

    /// `hostPort`: a port of the node that leads to one of the pod.
    #[must_use]
    pub fn host_port(mut self, host_port: i32, container_port: i32) -> Self {
        self.config.port_mappings.push(cri::PortMapping {
            protocol: cri::Protocol::Tcp.into(),
            container_port,
            host_port,
            host_ip: String::new(),
        });
        self
    }

    /// `shareProcessNamespace`.
    #[must_use]
    pub fn share_processes(mut self) -> Self {
        self.namespaces().pid = cri::NamespaceMode::Pod.into();
        self
    }

    /// `privileged` in one of its containers.
    #[must_use]
    pub fn privileged(mut self) -> Self {
        self.security().privileged = true;
        self
    }
}

/// A container before it is created.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    /// What CRI is told.
    pub config: cri::ContainerConfig,
}

impl ContainerSpec {
    /// A container of this name; the image's entrypoint and arguments unless a command is given.
    #[must_use]
    pub fn new(name: &str, image_name: &str) -> Self {
        Self {
            config: cri::ContainerConfig {
                metadata: Some(cri::ContainerMetadata {
                    name: name.to_owned(),
                    attempt: 0,
                }),
                image: Some(image(image_name)),
                envs: vec![cri::KeyValue {
                    key: "KUBERNETES_SERVICE_HOST".to_owned(),
                    value: "10.96.0.1".to_owned(),
                }],
                linux: Some(cri::LinuxContainerConfig {
                    resources: Some(cri::LinuxContainerResources {
                        cpu_period: 100_000,
                        cpu_shares: 2,
                        oom_score_adj: 1000,
                        ..Default::default()
                    }),
                    security_context: Some(cri::LinuxContainerSecurityContext {
                        namespace_options: Some(namespaces()),
                        masked_paths: strings(&MASKED),
                        readonly_paths: strings(&READ_ONLY),
                        seccomp: Some(profile(ProfileType::Unconfined)),
                        ..Default::default()
                    }),
                }),
                ..Default::default()
            },
        }
    }

    /// A shell script in a container called `main`.
    #[must_use]
    pub fn sh(script: &str) -> Self {
        Self::new("main", UBUNTU).command(&["/bin/sh", "-ec", script])
    }

    /// One that does nothing until it is killed; commands are run in it.
    #[must_use]
    pub fn idle() -> Self {
        Self::sh("trap 'exit 0' TERM; sleep 1000000 & wait")
    }

    /// A container of a manifest.
    #[must_use]
    pub fn of_manifest(container: &manifest::Container) -> Self {
        let words: Vec<_> = container.command.iter().map(String::as_str).collect();
        Self::new(&container.name, &container.image).command(&words)
    }

    /// The container's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.config.metadata.as_ref().map_or("", |meta| &meta.name)
    }

    /// `command`.
    #[must_use]
    pub fn command(mut self, words: &[&str]) -> Self {
        self.config.command = strings(words);
        self
    }

    /// A second container in a pod is not called `main` too.
    #[must_use]
    pub fn called(mut self, name: &str) -> Self {
        self.config.metadata.get_or_insert_default().name = name.to_owned();
        self
    }

    /// A volume, mounted at a path.
    #[must_use]
    pub fn mount(mut self, host: &Path, inside: &str, readonly: bool) -> Self {
        self.config.mounts.push(mount(host, inside, readonly));
        self
    }

    /// Limits: CPUs in thousandths, and bytes of memory.
    #[must_use]
    pub fn limits(mut self, milli_cpus: i64, memory_bytes: i64) -> Self {
        *self.resources() = limits(milli_cpus, memory_bytes);
        self
    }

    /// The container's resources.
    pub fn resources(&mut self) -> &mut cri::LinuxContainerResources {
        self.linux().resources.get_or_insert_default()
    }

    /// The container's security context.
    pub fn security(&mut self) -> &mut cri::LinuxContainerSecurityContext {
        self.linux().security_context.get_or_insert_default()
    }

    /// Which namespaces the container has of its own.
    pub fn namespaces(&mut self) -> &mut cri::NamespaceOption {
        self.security().namespace_options.get_or_insert_default()
    }

    /// Whatever is to be different in the security context.
    #[must_use]
    pub fn secured(mut self, change: impl FnOnce(&mut cri::LinuxContainerSecurityContext)) -> Self {
        change(self.security());
        self
    }

    fn linux(&mut self) -> &mut cri::LinuxContainerConfig {
        self.config.linux.get_or_insert_default()
    }
}

/// Limits as kubelet computes them from a manifest's.
#[must_use]
pub fn limits(milli_cpus: i64, memory_bytes: i64) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: milli_cpus * 100,
        cpu_shares: milli_cpus * 1024 / 1000,
        memory_limit_in_bytes: memory_bytes,
        oom_score_adj: 999,
        ..Default::default()
    }
}

/// A bind mount of a volume.
#[must_use]
pub fn mount(host: &Path, inside: &str, readonly: bool) -> cri::Mount {
    cri::Mount {
        container_path: inside.to_owned(),
        host_path: host.display().to_string(),
        readonly,
        ..Default::default()
    }
}

/// A seccomp profile.
#[must_use]
pub fn profile(profile: ProfileType) -> cri::SecurityProfile {
    cri::SecurityProfile {
        profile_type: profile.into(),
        ..Default::default()
    }
}

fn namespaces() -> cri::NamespaceOption {
    cri::NamespaceOption {
        network: cri::NamespaceMode::Pod.into(),
        pid: cri::NamespaceMode::Container.into(),
        ipc: cri::NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// What kubelet has masked where `procMount` is the default.
const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// And what it has made read-only.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];
