//! `podvmm run -f`: a manifest's pod, left to a monitor.
//!
//! ```text
//!   text ─ manifest::parse ─▶ Manifest ─ manifest::plan ─▶ Plan ─ here ─▶ PodPlan ─▶ monitor
//!                                  images of the store ────┘
//! ```

use std::os::fd::BorrowedFd;
use std::path::Path;

use anyhow::{Context, bail};
use image::RootFs;
use image::user::Accounts;
use manifest::plan::{self, Surroundings};
use manifest::pod::{Protocol, PullPolicy, RestartPolicy};
use manifest::{Pod, Sandbox};
use sandbox::bundle::compile_seccomp;
use sandbox::forward::PortPlan;
use sandbox::monitor::{AddressTokens, ContainerPlan, PodPlan, Restart};
use sandbox::oci::Changes;
use sandbox::{ContainerConfig, Stdio, User};
use serde_json::json;

use super::{Reading, health, host, limits, read, volumes};
use crate::image::args::RunArgs;
use crate::image::{Acquired, acquire};
use crate::terminal;

/// A pod's plan, and its images, which are in use as long as this lives.
pub struct Planned {
    /// The plan, which still lacks whatever is not the manifest's.
    pub plan: PodPlan,
    images: Vec<RootFs>,
}

impl Planned {
    /// The locks of the images.
    pub fn locks(&self) -> Vec<BorrowedFd<'_>> {
        self.images.iter().map(RootFs::lock).collect()
    }
}

/// Reads a manifest, brings its images, and plans its pod.
pub fn plan(
    file: &Path,
    reading: &Reading,
    images: &RunArgs,
    data: &Path,
) -> anyhow::Result<Planned> {
    let name = file.display();
    let manifest = manifest::parse(&read(file)?, &reading.options()?)
        .map_err(|rejected| anyhow::anyhow!("{name} is rejected:\n{rejected}"))?;
    for warning in &manifest.warnings {
        eprintln!("podvmm: warning: {warning}");
    }
    let pod = &manifest.pod;
    if pod.sandbox == Sandbox::NotAsked {
        bail!(
            "{name}: pod {} asks for no sandbox: a cluster would run it on the node's own kernel. For a \
             VM of its own write `runtimeClassName: podvmm` into its spec",
            pod.name
        );
    }
    let size = reading.rule().size(limits(pod));
    let size = size.with_context(|| format!("{name}: no VM is as large"))?;
    if let Some(warning) = overcommitted(size.memory.bytes(), sandbox::config::host_memory()) {
        eprintln!("podvmm: warning: {warning}");
    }
    let brought = brought(pod, images)?;
    let configs: Vec<_> = brought.iter().map(|(_, image)| config(image)).collect();
    let config_of = |wanted: &str| {
        let position = brought.iter().position(|(name, _)| name == wanted)?;
        configs.get(position)
    };
    // Its addresses are known when its network is.
    let addresses = AddressTokens::random().context("no random numbers for the pod's addresses")?;
    let surroundings = Surroundings {
        uid: uid()?,
        node_name: rustix::system::uname().nodename().to_string_lossy().into(),
        vcpus: size.vcpus.get().into(),
        memory: size.memory.bytes(),
        pod_ip: addresses.first.clone(),
        pod_ips: addresses.all.clone(),
        host_ips: host::addresses(),
    };
    let plan = plan::plan(&manifest, config_of, &surroundings).with_context(|| name.to_string())?;

    let mut whole = PodPlan::new(plan.name.clone());
    whole.vcpus = size.vcpus;
    whole.memory = size.memory;
    whole.hostname.clone_from(&plan.hostname);
    whole.sysctls.clone_from(&plan.sysctls);
    whole.grace = plan.grace;
    whole.address_tokens = Some(addresses);
    whole.shared_pids = plan.share_processes;
    volumes::add(&mut whole, &plan, data).with_context(|| name.to_string())?;
    whole.deadline = plan.deadline;
    whole.publish = host_ports(pod).with_context(|| name.to_string())?;
    let all = plan
        .init_containers
        .iter()
        .map(|container| (container, true));
    let all = all.chain(plan.containers.iter().map(|container| (container, false)));
    for (container, init) in all {
        let image = brought.iter().find(|(name, _)| *name == container.image);
        let (_, image) = image.context("the image was brought")?;
        let planned = translate(&mut whole, &plan, container, &image.root)
            .with_context(|| format!("{name}: container {}", container.name))?;
        whole.containers.push(ContainerPlan {
            init,
            restart: restart(plan.restart, init),
            stop_signal: image.stop_signal()?,
            health: health::of(container),
            ..planned
        });
    }
    Ok(Planned {
        plan: whole,
        images: brought.into_iter().map(|(_, image)| image.root).collect(),
    })
}

/// Ports of the host that the containers ask for.
fn host_ports(pod: &Pod) -> anyhow::Result<Vec<PortPlan>> {
    let mut plans = Vec::new();
    for container in &pod.containers {
        for port in &container.ports {
            let Some(host) = port.host_port else { continue };
            let protocol = match port.protocol {
                Protocol::Tcp => None,
                Protocol::Udp => Some("UDP"),
                Protocol::Sctp => Some("SCTP"),
            };
            if let Some(protocol) = protocol {
                bail!(
                    "container {}: hostPort {host} is one of {protocol}, and only ports of TCP are published; remove it",
                    container.name
                );
            }
            plans.push(PortPlan {
                address: port.host_ip,
                host,
                pod: port.number,
            });
        }
    }
    Ok(plans)
}

/// Every image of the pod once, by its name in the manifest.
fn brought(pod: &Pod, args: &RunArgs) -> anyhow::Result<Vec<(String, Acquired)>> {
    let mut all: Vec<(String, Acquired)> = Vec::new();
    for container in pod.init_containers.iter().chain(&pod.containers) {
        if all.iter().any(|(name, _)| *name == container.image) {
            continue;
        }
        let shown = || format!("container {}: image {}", container.name, container.image);
        let source = container.image.parse().map(image::Source::Name);
        let pull = match container.pull {
            PullPolicy::Always => image::Pull::Always,
            PullPolicy::IfNotPresent => image::Pull::Missing,
            PullPolicy::Never => image::Pull::Never,
        };
        let image = acquire(&source.with_context(shown)?, pull, args).with_context(shown)?;
        all.push((container.image.clone(), image));
    }
    Ok(all)
}

fn config(image: &Acquired) -> plan::ImageConfig {
    let settings = &image.config.config;
    plan::ImageConfig {
        entrypoint: settings.entrypoint.clone(),
        cmd: settings.cmd.clone(),
        env: settings.env.clone(),
        user: settings.user.clone(),
        working_dir: settings.working_dir.clone(),
        stop_signal: Some(settings.stop_signal.clone()).filter(|signal| !signal.is_empty()),
    }
}

fn restart(policy: RestartPolicy, init: bool) -> Restart {
    match (policy, init) {
        (RestartPolicy::Never, _) => Restart::Never,
        (RestartPolicy::OnFailure, _) | (RestartPolicy::Always, true) => Restart::OnFailure,
        (RestartPolicy::Always, false) => Restart::Always,
    }
}

/// One container, and its root among the pod's shares.
fn translate(
    pod: &mut PodPlan,
    plan: &plan::Plan,
    container: &plan::ContainerPlan,
    root: &RootFs,
) -> anyhow::Result<ContainerPlan> {
    let accounts = Accounts::of(root.dir())?;
    let ids = container.user.resolve(&accounts.passwd, &accounts.group)?;
    let mut config = ContainerConfig::command(container.args.iter().cloned());
    config.id.clone_from(&container.name);
    config.user = User {
        uid: ids.uid,
        gid: ids.gid,
    };
    config.hostname.clone_from(&plan.hostname);
    config.stdio = if container.tty {
        let (rows, cols) = terminal::size();
        Stdio::Terminal { rows, cols }
    } else {
        Stdio::pipes(container.stdin)
    };

    let mut planned = ContainerPlan::new(&config);
    let process = plan::oci::process(container, &ids);
    planned.spec["process"] = process;
    if let Some(mounts) = planned.spec["mounts"].as_array_mut() {
        mounts.extend(volumes::mounts(plan, container));
    }
    if plan.share_processes {
        planned.spec["linux"]["namespaces"] = plan::oci::namespaces(true);
    }
    planned.termination = volumes::termination(container);
    planned.spec["linux"]["resources"] = plan::oci::resources(container);
    if !container.masked_proc {
        planned.spec["linux"]["maskedPaths"] = json!([]);
        planned.spec["linux"]["readonlyPaths"] = json!([]);
    }
    planned.seccomp = plan::oci::seccomp(container)
        .map(compile_seccomp)
        .transpose()?;
    // With changes kept in the guest, so that mount points can be made before it is read-only.
    planned.spec["root"]["readonly"] = json!(container.read_only_root);
    let share = format!("root-{}", container.name);
    planned.rootfs = pod.rootfs(&share, root.path(), Changes::Guest);
    planned.stdin = container.stdin;
    planned.stdin_once = container.stdin_once;
    Ok(planned)
}

/// A random UUID (RFC 9562, version 4), as the API server gives.
fn uid() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("no random numbers for the pod's uid")?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    Ok(parts.join("-"))
}

/// What there is to say of a VM that may want more memory than its host has. Limits promise nothing, so
/// it is no error, as in a cluster.
fn overcommitted(memory: u64, host: Option<u64>) -> Option<String> {
    let host = host.filter(|host| memory > *host)?;
    Some(format!(
        "the VM is made for {} MiB and this host has {} MiB of memory: the more there is of it, the longer \
         the guest takes to start; lower the memory limits of the containers, or --base-mem",
        memory >> 20,
        host >> 20
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_memory_than_there_is_is_told() {
        assert_eq!(overcommitted(1 << 30, Some(1 << 30)), None);
        assert_eq!(overcommitted(1 << 30, None), None);
        let told = overcommitted(900 << 30, Some(4 << 30)).unwrap();
        assert!(
            told.contains("921600 MiB") && told.contains("4096 MiB"),
            "{told}"
        );
    }
}
