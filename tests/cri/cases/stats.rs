//! The numbers that `crictl stats` and kubelet's summary are made of.

use anyhow::{Context, Result, ensure};
use k8s_cri::v1 as cri;
use podvmm_cri_tests::pod::{Container, Node};
use podvmm_cri_tests::spec::ContainerSpec;
use podvmm_cri_tests::wait;

use crate::case::Case;

pub const CASES: &[Case] = &[
    Case::new(
        "container",
        "ContainerStats and ListContainerStats: CPU time and memory of each container",
        container,
    ),
    Case::new(
        "pod",
        "PodSandboxStats: CPU, memory, processes and network traffic of the pod",
        pod,
    ),
];

const MIB: u64 = 1 << 20;

/// Holds 24 MiB in memory, has used CPU time, and waits.
fn busy() -> ContainerSpec {
    ContainerSpec::sh(
        "trap 'exit 0' TERM; head -c 25165824 /dev/zero >/dev/shm/held; \
         n=0; while [ $n -lt 20000 ]; do n=$((n + 1)); done; echo busy; sleep 1000000 & wait",
    )
}

fn stats(node: Node<'_>, container: &Container) -> Result<cri::ContainerStats> {
    let answer = node.cri().container_stats(cri::ContainerStatsRequest {
        container_id: container.id.clone(),
    })?;
    answer.stats.context("ContainerStats has no stats")
}

fn cpu_ns(stats: &cri::ContainerStats) -> Option<u64> {
    Some(stats.cpu.as_ref()?.usage_core_nano_seconds.as_ref()?.value)
}

fn working_set(stats: &cri::ContainerStats) -> Option<u64> {
    Some(stats.memory.as_ref()?.working_set_bytes.as_ref()?.value)
}

fn container(node: Node<'_>) -> Result<()> {
    let (pod, one) = node.run("stats", busy())?;
    let other = pod.start(ContainerSpec::idle().called("other"))?;
    one.has_logged("busy")?;
    let (of_one, of_other) = (stats(node, &one)?, stats(node, &other)?);
    let memory = working_set(&of_one).context("working_set_bytes")?;
    ensure!(
        (24 * MIB..200 * MIB).contains(&memory),
        "{memory} bytes: {of_one:?}"
    );
    let idle = working_set(&of_other).context("working_set_bytes")?;
    ensure!(
        idle < 24 * MIB,
        "{idle} bytes of an idle container: {of_other:?}"
    );
    let before = cpu_ns(&of_one).context("usage_core_nano_seconds")?;
    ensure!(before > 1_000_000, "{of_one:?}");
    one.sh("n=0; while [ $n -lt 20000 ]; do n=$((n + 1)); done")?;
    let after = cpu_ns(&stats(node, &one)?).context("usage_core_nano_seconds")?;
    ensure!(
        after > before + 1_000_000,
        "CPU time went from {before} to {after} ns"
    );

    let listed = node
        .cri()
        .list_container_stats(cri::ListContainerStatsRequest {
            filter: Some(cri::ContainerStatsFilter {
                pod_sandbox_id: pod.id.clone(),
                ..Default::default()
            }),
        })?;
    ensure!(listed.stats.len() == 2, "{listed:?}");
    ensure!(
        listed.stats.iter().all(|one| working_set(one) > Some(0)),
        "{listed:?}"
    );
    pod.remove()?;
    Ok(())
}

fn pod(node: Node<'_>) -> Result<()> {
    let (pod, container) = node.run("pod-stats", busy())?;
    container.has_logged("busy")?;
    // Traffic that the pod did not have by itself.
    container.sh("ping -c 3 -s 1400 -W 10 10.88.0.1")?;
    let linux = wait::until(10, "PodSandboxStats has all parts", || {
        let answer = node.cri().pod_sandbox_stats(cri::PodSandboxStatsRequest {
            pod_sandbox_id: pod.id.clone(),
        })?;
        let linux = answer.stats.and_then(|stats| stats.linux);
        Ok(linux.filter(|linux| linux.cpu.is_some() && linux.network.is_some()))
    })?;
    let value = |value: Option<&cri::UInt64Value>| value.map(|value| value.value);
    let cpu = linux
        .cpu
        .as_ref()
        .and_then(|cpu| value(cpu.usage_core_nano_seconds.as_ref()));
    ensure!(cpu > Some(1_000_000), "{linux:?}");
    let memory = linux
        .memory
        .as_ref()
        .and_then(|memory| value(memory.working_set_bytes.as_ref()));
    ensure!(memory > Some(0), "{linux:?}");
    let processes = linux
        .process
        .as_ref()
        .and_then(|process| value(process.process_count.as_ref()));
    ensure!(processes >= Some(2), "{linux:?}");
    let interface = linux
        .network
        .as_ref()
        .and_then(|network| network.default_interface.as_ref())
        .context("default_interface")?;
    for bytes in [interface.rx_bytes.as_ref(), interface.tx_bytes.as_ref()] {
        ensure!(value(bytes) > Some(3 * 1400), "{interface:?}");
    }
    ensure!(linux.containers.len() == 1, "{linux:?}");
    pod.remove()?;
    Ok(())
}
