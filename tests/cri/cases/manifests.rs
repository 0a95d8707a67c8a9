//! The two manifests, through every call that kubelet makes for them.

use anyhow::{Context, Result, ensure};
use podvmm_cri_tests::manifest::Manifest;
use podvmm_cri_tests::pod::{Container, Node, Pod, brief};
use podvmm_cri_tests::spec::{ContainerSpec, PodSpec};

use crate::case::Case;

pub const CASES: &[Case] = &[
    Case::new(
        "untrusted",
        "the pod with a `runtimeClassName` runs by its handler, logs, and goes without a trace",
        untrusted,
    ),
    Case::new(
        "side_by_side",
        "the pod without one runs beside it by the node's default runtime",
        side_by_side,
    ),
];

const TRUSTED: &str = include_str!("../pods/trusted.yaml");
const UNTRUSTED: &str = include_str!("../pods/untrusted.yaml");

/// Runs what a manifest describes: by the node's handler if it names a RuntimeClass, otherwise by the
/// default.
fn run(node: Node<'_>, yaml: &str) -> Result<(Pod, Container)> {
    let manifest = Manifest::parse(yaml)?;
    let handler = match manifest.spec.runtime_class_name {
        Some(_) => node.handler.name,
        None => "",
    };
    let pod = Pod::run(node.cri(), handler, PodSpec::new(&manifest.metadata.name))?;
    let described = manifest.spec.containers.first().context("a container")?;
    let container = pod.start(ContainerSpec::of_manifest(described))?;
    Ok((pod, container))
}

fn node_kernel() -> Result<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(release.trim_end().to_owned())
}

/// The kernel is the node's, or podvmm's own.
fn expect_kernel(node: Node<'_>, container: &Container) -> Result<()> {
    let (inside, outside) = (container.sh("uname -r")?, node_kernel()?);
    if node.handler.own_kernel {
        ensure!(
            inside.ends_with("-podvmm") && inside != outside,
            "`uname -r` is {inside:?}, and {outside:?} on the node"
        );
    } else {
        ensure!(
            inside == outside,
            "`uname -r` is {inside:?}, and {outside:?} on the node"
        );
    }
    Ok(())
}

fn untrusted(node: Node<'_>) -> Result<()> {
    let (pod, container) = run(node, UNTRUSTED)?;
    let status = container.status()?;
    ensure!(
        status.state() == k8s_cri::v1::ContainerState::ContainerRunning,
        "{}",
        brief(&status)
    );
    expect_kernel(node, &container)?;
    container.has_logged(".\n.\n")?;
    ensure!(
        container.logged("stderr")?.is_empty(),
        "{:?}",
        container.logged("stderr")
    );
    pod.remove()?;
    Ok(())
}

fn side_by_side(node: Node<'_>) -> Result<()> {
    let (trusted, in_trusted) = run(node, TRUSTED)?;
    let (untrusted, in_untrusted) = run(node, UNTRUSTED)?;
    ensure!(
        in_trusted.sh("uname -r")? == node_kernel()?,
        "the trusted pod's kernel"
    );
    expect_kernel(node, &in_untrusted)?;
    in_trusted.has_logged(".\n")?;
    in_untrusted.has_logged(".\n")?;
    ensure!(trusted.ip()? != untrusted.ip()?, "one address for two pods");
    untrusted.remove()?;
    ensure!(
        in_trusted.sh("echo on")? == "on",
        "the trusted pod ended with the other"
    );
    trusted.remove()?;
    Ok(())
}
