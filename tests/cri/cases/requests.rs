//! What is asked for in a wrong way or at a wrong time, and what is full.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use podvmm_cri_tests::alone::run;
use podvmm_cri_tests::client::CallError;
use podvmm_cri_tests::handler::{PODVMM, RUNC};
use podvmm_cri_tests::pod::Node;
use podvmm_cri_tests::spec::{ContainerSpec, PodSpec};

use crate::case::Case;
use crate::network::refused;
use crate::storage::Mounted;

pub const CASES: &[Case] = &[
    Case::new(
        "own_annotations",
        "annotations `io.podvmm.…`, of which there are none, are refused by name",
        own_annotations,
    )
    .unlike(RUNC, "takes no notice of another runtime's annotations"),
    Case::new(
        "never_started",
        "a container that was created and never started can be stopped and removed, also twice",
        never_started,
    ),
    Case::new(
        "out_of_order",
        "calls that come too early, too late or twice are refused, and the pod goes on",
        out_of_order,
    ),
    Case::new(
        "no_root",
        "a root file system that is not there is an error that names it",
        no_root,
    ),
    Case::new(
        "full_volume",
        "a volume without room is an error for who writes to it, and the pod goes on",
        full_volume,
    ),
];

/// The call has failed, and its message has these words.
fn failed<T>(result: Result<T>, words: &[&str]) -> Result<()> {
    let error = result.err().context("the call succeeded")?;
    let error = error.downcast::<CallError>()?;
    for word in words {
        ensure!(error.message.contains(word), "no {word:?} in {error}");
    }
    Ok(())
}

fn own_annotations(node: Node<'_>) -> Result<()> {
    for name in ["io.podvmm.kernel", "io.podvmm.vmm.path"] {
        let value = || "/etc/passwd".to_owned();
        let mut spec = PodSpec::new("annotated");
        spec.config.annotations.insert(name.to_owned(), value());
        if node.handler == PODVMM {
            refused(node.run_pod(spec), &[name])?;
        } else {
            node.run_pod(spec)?.remove()?;
        }
        let pod = node.run_pod(PodSpec::new("plain"))?;
        let mut container = ContainerSpec::idle();
        container
            .config
            .annotations
            .insert(name.to_owned(), value());
        let started = pod.start(container);
        if node.handler == PODVMM {
            failed(started, &[name])?;
        } else {
            started?;
        }
        pod.remove()?;
    }
    Ok(())
}

fn never_started(node: Node<'_>) -> Result<()> {
    let pod = node.run_pod(PodSpec::new("never-started"))?;
    let container = pod.create(ContainerSpec::idle())?;
    container.stop(1)?;
    container.stop(1)?;
    container.remove()?;
    container.remove()?;
    // Others go with the pod.
    pod.create(ContainerSpec::idle().called("other"))?;
    pod.remove()?;
    Ok(())
}

fn out_of_order(node: Node<'_>) -> Result<()> {
    let pod = node.run_pod(PodSpec::new("out-of-order"))?;
    let created = pod.create(ContainerSpec::idle())?;
    ensure!(created.exec(&["true"]).is_err(), "exec before the start");
    created.start()?;
    ensure!(created.start().is_err(), "a second start");
    ensure!(created.sh("echo on")? == "on", "after the second start");
    created.stop(1)?;
    ensure!(created.exec(&["true"]).is_err(), "exec after the end");
    ensure!(created.start().is_err(), "a start after the end");
    let next = pod.start(ContainerSpec::idle().called("next"))?;
    ensure!(next.sh("echo on")? == "on", "the pod after that");
    pod.stop()?;
    let late = pod.start(ContainerSpec::idle().called("late"));
    ensure!(late.is_err(), "a container in a pod that was stopped");
    pod.remove()?;
    Ok(())
}

fn no_root(node: Node<'_>) -> Result<()> {
    let output = node
        .bed
        .ctr()
        .args(["--namespace", "k8s.io", "run", "--rm"])
        .args(["--runtime", node.handler.runtime_type])
        .args(["--cgroup", "/podvmm-cri/no-root"])
        .args(["--rootfs", "/no/such/root", "no-root", "/bin/sh"])
        .stdin(Stdio::null())
        .output()
        .context("ctr")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && said.contains("/no/such/root"),
        "{}: {said}",
        output.status
    );
    Ok(())
}

fn full_volume(node: Node<'_>) -> Result<()> {
    let pod = node.run_pod(PodSpec::new("full-volume"))?;
    let volume = pod.volume("small")?;
    run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&volume))?;
    let mounted = Mounted(volume.clone());
    let container = pod.start(ContainerSpec::idle().mount(&volume, "/small", false))?;
    let output = container.exec(&["dd", "if=/dev/zero", "of=/small/file", "bs=64k", "count=32"])?;
    ensure!(
        output.code != 0 && output.stderr.contains("No space left on device"),
        "{output:?}"
    );
    let size: u64 = container.sh("stat -c %s /small/file")?.parse()?;
    ensure!(size <= 1 << 20, "{size} bytes in a volume of 1 MiB");
    container.sh("rm /small/file && echo room >/small/file")?;
    let text = std::fs::read_to_string(volume.join("file"))?;
    ensure!(text == "room\n", "on the node: {text:?}");
    container.stop(1)?;
    container.remove()?;
    drop(mounted);
    pod.remove()?;
    Ok(())
}
