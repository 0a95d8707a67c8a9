//! Limits, their changes, and what happens beyond them.

use std::fs;

use anyhow::{Context, Result, ensure};
use k8s_cri::v1 as cri;
use podvmm_cri_tests::handler::{PODVMM, RUNC, SMALL};
use podvmm_cri_tests::pod::{Container, Node, Pod, brief};
use podvmm_cri_tests::spec::{self, ContainerSpec, PodSpec};
use podvmm_cri_tests::wait;

use crate::case::Case;

pub const CASES: &[Case] = &[
    Case::new(
        "limits",
        "limits of CPU and memory are those of the container's cgroup, as seen inside",
        limits,
    ),
    Case::new("cpus", "a container that may use two CPUs has two", cpus),
    Case::new(
        "update",
        "UpdateContainerResources reaches the cgroup of a running container",
        update,
    ),
    Case::new(
        "growth",
        "a container that nobody announced finds as many CPUs and as much memory as its limits say, also after an update",
        growth,
    ),
    Case::new(
        "handler_settings",
        "`ConfigPath` of a handler's options says how large its VMs are",
        handler_settings,
    )
    .unlike(RUNC, "has no VMs"),
    Case::new(
        "out_of_memory",
        "a container beyond its memory limit ends with 137 and reason OOMKilled",
        out_of_memory,
    ),
    Case::new(
        "pod_cgroup",
        "what a pod uses is charged to the pod's cgroup on the node",
        pod_cgroup,
    ),
    Case::new(
        "dev_shm",
        "/dev/shm has 64 MiB, and is one for all containers of a pod",
        dev_shm,
    ),
    Case::new("sysctls", "`sysctls` of the pod are set", sysctls),
];

const MIB: i64 = 1 << 20;

/// Limits, as the container's cgroup has them.
fn cgroup(container: &Container) -> Result<String> {
    container.sh("cd /sys/fs/cgroup; cat memory.max cpu.max")
}

fn limits(node: Node<'_>) -> Result<()> {
    let mut pod = PodSpec::new("limits");
    // kubelet tells the pod's sum beforehand.
    pod.linux().resources = Some(spec::limits(500, 96 * MIB));
    let pod = node.run_pod(pod)?;
    let container = pod.start(ContainerSpec::idle().limits(500, 96 * MIB))?;
    let seen = cgroup(&container)?;
    ensure!(seen == format!("{}\n50000 100000", 96 * MIB), "{seen:?}");
    // Weight 20 is what 512 shares come to.
    let weight = container.sh("cat /sys/fs/cgroup/cpu.weight")?;
    ensure!(weight == "20", "cpu.weight is {weight}");
    pod.remove()?;
    Ok(())
}

fn handler_settings(node: Node<'_>) -> Result<()> {
    let total = |handler| -> Result<u64> {
        let pod = Pod::run(node.cri(), handler, PodSpec::new("settings"))?;
        let container = pod.start(ContainerSpec::idle())?;
        let kib = container.sh("awk '/^MemTotal/ { print $2 }' /proc/meminfo")?;
        pod.remove()?;
        Ok(kib.parse::<u64>()? >> 10)
    };
    let seen = total(node.handler.name)?;
    ensure!(seen > 1900, "{seen} MiB");
    if node.handler == PODVMM {
        let seen = total(SMALL)?;
        ensure!((400..=512).contains(&seen), "{seen} MiB");
    }
    Ok(())
}

fn cpus(node: Node<'_>) -> Result<()> {
    let mut pod = PodSpec::new("cpus");
    pod.linux().resources = Some(spec::limits(2000, 128 * MIB));
    let pod = node.run_pod(pod)?;
    let container = pod.start(ContainerSpec::idle().limits(2000, 128 * MIB))?;
    let seen: u32 = container.sh("nproc")?.parse()?;
    ensure!(seen >= 2, "nproc says {seen}");
    pod.remove()?;
    Ok(())
}

fn update(node: Node<'_>) -> Result<()> {
    let (pod, container) = node.run("update", ContainerSpec::idle().limits(500, 64 * MIB))?;
    for (milli_cpus, memory) in [(800, 160 * MIB), (200, 48 * MIB)] {
        node.cri()
            .update_container_resources(cri::UpdateContainerResourcesRequest {
                container_id: container.id.clone(),
                linux: Some(spec::limits(milli_cpus, memory)),
                ..Default::default()
            })?;
        let seen = cgroup(&container)?;
        ensure!(
            seen == format!("{memory}\n{} 100000", milli_cpus * 100),
            "{seen:?} after an update to {milli_cpus}m and {memory} bytes"
        );
    }
    pod.remove()?;
    Ok(())
}

fn out_of_memory(node: Node<'_>) -> Result<()> {
    // `tail` keeps all of a line that does not end.
    let script = "exec tail -n 1 /dev/zero";
    let (pod, container) = node.run("oom", ContainerSpec::sh(script).limits(500, 32 * MIB))?;
    let status = container.ended(60)?;
    ensure!(
        status.exit_code == 137 && status.reason == "OOMKilled",
        "{}",
        brief(&status)
    );
    pod.remove()?;
    Ok(())
}

fn pod_cgroup(node: Node<'_>) -> Result<()> {
    let (pod, container) = node.run("pod-cgroup", ContainerSpec::idle())?;
    let charged = || -> Result<i64> {
        let path = pod.cgroup().join("memory.current");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.trim_end().parse()?)
    };
    let before = charged()?;
    container.sh("head -c 50331648 /dev/urandom >/dev/shm/held")?;
    wait::until(5, "48 MiB more are charged to the pod's cgroup", || {
        Ok((charged()? > before + 44 * MIB).then_some(()))
    })
    .with_context(|| format!("{before} bytes before, {:?} now", charged()))?;
    pod.remove()?;
    Ok(())
}

fn dev_shm(node: Node<'_>) -> Result<()> {
    let (pod, one) = node.run("dev-shm", ContainerSpec::idle())?;
    let other = pod.start(ContainerSpec::idle().called("other"))?;
    let size = one.sh("df -k /dev/shm | tail -n 1 | awk '{ print $2 }'")?;
    ensure!(size == "65536", "/dev/shm has {size} KiB");
    one.sh("echo shared >/dev/shm/file")?;
    let seen = other.sh("cat /dev/shm/file")?;
    ensure!(seen == "shared", "{seen:?}");
    pod.remove()?;
    Ok(())
}

fn sysctls(node: Node<'_>) -> Result<()> {
    let mut pod = PodSpec::new("sysctls");
    let wanted = [
        ("net.ipv4.ip_unprivileged_port_start", "80"),
        ("kernel.shm_rmid_forced", "1"),
    ];
    pod.linux().sysctls = wanted
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let pod = node.run_pod(pod)?;
    let container = pod.start(ContainerSpec::idle())?;
    for (name, value) in wanted {
        let seen = container.sh(&format!("sysctl -n {name}"))?;
        ensure!(seen == value, "{name} is {seen:?}");
    }
    pod.remove()?;
    Ok(())
}

/// CPUs, and KiB of memory, as a container sees them.
fn machine(container: &Container) -> Result<(u64, i64)> {
    let text = container.sh("nproc; awk '$1 == \"MemTotal:\" { print $2 }' /proc/meminfo")?;
    let (cpus, kib) = text.split_once('\n').context("two numbers")?;
    Ok((cpus.trim().parse()?, kib.trim().parse()?))
}

fn growth(node: Node<'_>) -> Result<()> {
    const PIECE: i64 = 128 * MIB;
    // Nobody has announced a limit.
    let (pod, first) = node.run("growth", ContainerSpec::idle())?;
    let before = machine(&first)?;
    let second = pod.start(
        ContainerSpec::idle()
            .called("second")
            .limits(1000, 4 * PIECE),
    )?;
    let grown = machine(&second)?;
    if !node.handler.own_kernel {
        ensure!(
            grown == before,
            "the node is another: {before:?}, {grown:?}"
        );
        pod.remove()?;
        return Ok(());
    }
    ensure!(before.0 == 1, "it starts with {} CPUs", before.0);
    let expected = (2, before.1 + 4 * PIECE / 1024);
    ensure!(grown == expected, "{before:?}, then {grown:?}");
    // All of it can be had.
    second.sh("dd if=/dev/zero of=/dev/null bs=440M count=1")?;
    node.cri()
        .update_container_resources(cri::UpdateContainerResourcesRequest {
            container_id: second.id.clone(),
            linux: Some(spec::limits(1000, 6 * PIECE)),
            ..Default::default()
        })?;
    let updated = machine(&second)?;
    let expected = (2, before.1 + 6 * PIECE / 1024);
    ensure!(updated == expected, "{grown:?}, then {updated:?}");
    second.stop(0)?;
    second.remove()?;
    wait::until(60, "the pod is as it was", || {
        Ok((machine(&first)? == before).then_some(()))
    })
    .with_context(|| format!("{before:?} before, {:?} now", machine(&first)))?;
    pod.remove()?;
    Ok(())
}
