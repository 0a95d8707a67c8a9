//! How containers and pods end, start again, and outlive what manages them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_cri::v1 as cri;
use podvmm_cri_tests::client::CallError;
use podvmm_cri_tests::handler::RUNC;
use podvmm_cri_tests::pod::{Node, Pod, base, brief};
use podvmm_cri_tests::spec::{ContainerSpec, PodSpec};
use podvmm_cri_tests::wait;
use rustix::process::{Pid, Signal, kill_process};

use crate::case::Case;
use crate::crowd;

pub const CASES: &[Case] = &[
    Case::new(
        "exit_status",
        "exit status and reason of a container that ends by itself",
        exit_status,
    ),
    Case::new(
        "termination_message",
        "the termination message is the node's to read",
        termination_message,
    ),
    Case::new(
        "stop",
        "StopContainer: SIGTERM, and the container's own exit status",
        stop,
    ),
    Case::new(
        "stop_after_grace",
        "StopContainer: SIGKILL after the grace period, exit status 137",
        stop_after_grace,
    ),
    Case::new(
        "start_error",
        "a command that does not exist is an error of StartContainer that names it",
        start_error,
    ),
    Case::new(
        "container_restart",
        "a container that has ended is created again in the same pod, which keeps its address",
        container_restart,
    ),
    Case::new(
        "two_containers",
        "two containers of a pod share localhost, and end one by one",
        two_containers,
    ),
    Case::new(
        "many_pods",
        "four pods start at the same time, and end at the same time",
        many_pods,
    ),
    Case::new(
        "stop_twice",
        "StopPodSandbox and RemovePodSandbox can be repeated",
        stop_twice,
    ),
    Case::new(
        "remove_running",
        "RemovePodSandbox of a pod that runs ends it",
        remove_running,
    ),
];

/// These restart containerd or kill shims.
pub const FAULTS: &[Case] = &[
    Case::new(
        "containerd_restart",
        "a pod outlives a restart of containerd: exec, logs and exit status work on",
        containerd_restart,
    ),
    Case::new(
        "exit_unseen",
        "a container that ends while containerd is away is found ended, with its status",
        exit_unseen,
    ),
    Case::new(
        "shim_killed",
        "a pod whose shim was killed is seen to have failed, and can be deleted",
        shim_killed,
    )
    .unlike(RUNC, "leaves the file of the shim's socket behind"),
];

fn exit_status(node: Node<'_>) -> Result<()> {
    let (pod, ill) = node.run("exit-status", ContainerSpec::sh("exit 7"))?;
    let well = pod.start(ContainerSpec::sh("exit 0").called("well"))?;
    let status = ill.ended(10)?;
    ensure!(
        (status.exit_code, status.reason.as_str()) == (7, "Error"),
        "{}",
        brief(&status)
    );
    let status = well.ended(10)?;
    ensure!(
        (status.exit_code, status.reason.as_str()) == (0, "Completed"),
        "{}",
        brief(&status)
    );
    // In whatever order: containerd takes the time of the start when it has heard of it.
    ensure!(
        0 < status.started_at && 0 < status.finished_at,
        "started at {}, finished at {}",
        status.started_at,
        status.finished_at,
    );
    ensure!(
        pod.status()?.state() == cri::PodSandboxState::SandboxReady,
        "the pod ended with its containers"
    );
    let output = well.exec(&["true"]);
    ensure!(
        output.is_err(),
        "a command was run in a container that has ended: {output:?}"
    );
    pod.remove()?;
    Ok(())
}

fn termination_message(node: Node<'_>) -> Result<()> {
    let script = "echo 'out of cheese' >/dev/termination-log; exit 1";
    let (pod, container) = node.run("message", ContainerSpec::sh(script))?;
    container.ended(10)?;
    let message = fs::read_to_string(&container.termination)?;
    ensure!(message == "out of cheese\n", "{message:?}");
    pod.remove()?;
    Ok(())
}

fn stop(node: Node<'_>) -> Result<()> {
    let script = "trap 'echo ending; exit 3' TERM; echo ready; sleep 1000000 & wait";
    let (pod, container) = node.run("stop", ContainerSpec::sh(script))?;
    container.has_logged("ready")?;
    let began = Instant::now();
    container.stop(600)?;
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(60), "it took {took:?}");
    let status = container.status()?;
    ensure!(status.exit_code == 3, "{}", brief(&status));
    container.has_logged("ending")?;
    // kubelet asks again if it is not sure of the answer.
    container.stop(1)?;
    pod.remove()?;
    Ok(())
}

fn stop_after_grace(node: Node<'_>) -> Result<()> {
    let script = "trap '' TERM; echo ready; while :; do sleep 1; done";
    let (pod, container) = node.run("grace", ContainerSpec::sh(script))?;
    container.has_logged("ready")?;
    let began = Instant::now();
    container.stop(3)?;
    let took = began.elapsed();
    ensure!(took >= Duration::from_secs(3), "it took {took:?}");
    let status = container.status()?;
    ensure!(
        (status.exit_code, status.reason.as_str()) == (137, "Error"),
        "{}",
        brief(&status)
    );
    pod.remove()?;
    Ok(())
}

fn start_error(node: Node<'_>) -> Result<()> {
    let pod = node.run_pod(PodSpec::new("start-error"))?;
    let container = pod.create(ContainerSpec::sh("").command(&["/no/such/program", "word"]))?;
    let Err(CallError { message, .. }) = container.start() else {
        anyhow::bail!("StartContainer succeeded");
    };
    ensure!(message.contains("/no/such/program"), "{message}");
    let status = container.status()?;
    ensure!(
        status.state() == cri::ContainerState::ContainerExited
            && (status.exit_code, status.reason.as_str()) == (128, "StartError"),
        "{}",
        brief(&status)
    );
    container.remove()?;
    let next = pod.start(ContainerSpec::idle().called("next"))?;
    ensure!(next.sh("echo fine")? == "fine", "the pod after that");
    pod.remove()?;
    Ok(())
}

fn container_restart(node: Node<'_>) -> Result<()> {
    let pod = node.run_pod(PodSpec::new("restart"))?;
    let volume = pod.volume("kept")?;
    let ip = pod.ip()?;
    for attempt in 0..3 {
        let mut spec = ContainerSpec::sh("echo run >>/kept/runs; touch /srv/mark; exit 1")
            .mount(&volume, "/kept", false);
        spec.config.metadata.get_or_insert_default().attempt = attempt;
        let container = pod.start(spec)?;
        let status = container.ended(10)?;
        ensure!(
            status.exit_code == 1,
            "attempt {attempt}: {}",
            brief(&status)
        );
        container.remove()?;
    }
    let container = pod.start(
        ContainerSpec::idle()
            .called("after")
            .mount(&volume, "/kept", false),
    )?;
    ensure!(
        container.sh("cat /kept/runs")? == "run\nrun\nrun",
        "what the runs left"
    );
    ensure!(
        container.sh("ls /srv")? == "seed",
        "the root is not a fresh one"
    );
    ensure!(
        container.sh("ip -o -4 addr show dev eth0")?.contains(&ip),
        "the address"
    );
    pod.remove()?;
    Ok(())
}

fn two_containers(node: Node<'_>) -> Result<()> {
    let (pod, server) = node.run(
        "two",
        ContainerSpec::sh("exec httpd -f -p 127.0.0.1:8080 -h /srv"),
    )?;
    let client = pod.start(ContainerSpec::idle().called("client"))?;
    wait::until(20, "the other container answers on localhost", || {
        let output = client.exec(&["wget", "-q", "-O", "-", "http://127.0.0.1:8080/seed"])?;
        Ok((output.stdout == "came with the image\n").then_some(()))
    })?;
    ensure!(
        client.sh("hostname")? == server.sh("hostname")?,
        "host names"
    );
    ensure!(
        !client.sh("ps")?.contains("httpd"),
        "the other's processes are seen"
    );
    server.stop(1)?;
    ensure!(
        client.sh("echo on")? == "on",
        "the client ended with the server"
    );
    pod.remove()?;
    Ok(())
}

fn many_pods(node: Node<'_>) -> Result<()> {
    crowd::at_once(node, 4)
}

fn stop_twice(node: Node<'_>) -> Result<()> {
    let (pod, container) = node.run("stop-twice", ContainerSpec::idle())?;
    pod.stop()?;
    ensure!(
        pod.status()?.state() == cri::PodSandboxState::SandboxNotready,
        "{:?}",
        pod.status()?
    );
    // A pod that is stopped takes its containers along.
    container.ended(10)?;
    pod.stop().context("the second time")?;
    let id = pod.id.clone();
    pod.remove()?;
    let again = cri::RemovePodSandboxRequest { pod_sandbox_id: id };
    node.cri()
        .remove_pod_sandbox(again)
        .context("the second time")?;
    Ok(())
}

fn remove_running(node: Node<'_>) -> Result<()> {
    let (pod, _container) = node.run("remove-running", ContainerSpec::idle())?;
    pod.remove_at_once()?;
    let left = node
        .cri()
        .list_containers(cri::ListContainersRequest { filter: None })?;
    ensure!(left.containers.is_empty(), "{left:?}");
    Ok(())
}

fn containerd_restart(node: Node<'_>) -> Result<()> {
    let script =
        "trap 'exit 9' TERM; n=0; while :; do n=$((n + 1)); echo $n; sleep 0.2 & wait $!; done";
    let (pod, container) = node.run("containerd-restart", ContainerSpec::sh(script))?;
    container.has_logged("3\n")?;
    let ip = pod.ip()?;
    node.bed.restart(node.assets)?;
    ensure!(
        pod.status()?.state() == cri::PodSandboxState::SandboxReady && pod.ip()? == ip,
        "{:?}",
        pod.status()?
    );
    let status = container.status()?;
    ensure!(
        status.state() == cri::ContainerState::ContainerRunning,
        "{}",
        brief(&status)
    );
    ensure!(container.sh("echo on")? == "on", "exec");
    let lines = container.logged("stdout")?.lines().count();
    container
        .has_logged(&format!("\n{}\n", lines + 5))
        .context("the log goes on")?;
    let after = pod.start(ContainerSpec::idle().called("after"))?;
    ensure!(after.sh("echo new")? == "new", "a container that is new");
    container.stop(30)?;
    let status = container.status()?;
    ensure!(status.exit_code == 9, "{}", brief(&status));
    pod.remove()?;
    Ok(())
}

fn exit_unseen(node: Node<'_>) -> Result<()> {
    let pod = node.run_pod(PodSpec::new("exit-unseen"))?;
    let volume = pod.volume("signal")?;
    let script =
        "while [ ! -e /signal/end ]; do sleep 0.1; done; echo ended >/signal/ended; exit 11";
    let container = pod.start(ContainerSpec::sh(script).mount(&volume, "/signal", false))?;
    node.bed.stop()?;
    fs::write(volume.join("end"), "")?;
    let ended = wait::until(10, "the container has ended", || {
        Ok(volume.join("ended").exists().then_some(()))
    });
    // A moment for the shim to see it too.
    std::thread::sleep(Duration::from_secs(2));
    node.bed.restart(node.assets)?;
    ended?;
    let status = container.ended(10)?;
    ensure!(status.exit_code == 11, "{}", brief(&status));
    ensure!(
        pod.status()?.state() == cri::PodSandboxState::SandboxReady,
        "{:?}",
        pod.status()?
    );
    pod.remove()?;
    Ok(())
}

/// The process of a pod's shim: its command line has the pod's id.
fn shim_of(pod: &Pod) -> Result<Pid> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        let program = words.split('\0').next().unwrap_or_default();
        if program.contains("containerd-shim-") && words.contains(&pod.id) {
            let number = entry.file_name().to_string_lossy().parse()?;
            return Pid::from_raw(number).context("a process of number 0");
        }
    }
    anyhow::bail!(
        "no process `containerd-shim-…` has the pod's id {} in its command line",
        pod.id
    )
}

fn shim_killed(node: Node<'_>) -> Result<()> {
    let (pod, container) = node.run("shim-killed", ContainerSpec::idle())?;
    let address = base()
        .join("state/io.containerd.runtime.v2.task/k8s.io")
        .join(&pod.id)
        .join("address");
    let address = fs::read_to_string(&address).with_context(|| address.display().to_string())?;
    kill_process(shim_of(&pod)?, Signal::KILL)?;
    let status = container.ended(20)?;
    ensure!(status.exit_code != 0, "{}", brief(&status));
    wait::until(20, "the pod is seen not to be ready", || {
        let state = pod.status()?.state();
        Ok((state == cri::PodSandboxState::SandboxNotready).then_some(()))
    })?;
    pod.remove()?;
    let socket = Path::new(address.trim_start_matches("unix://"));
    if node.handler == RUNC && socket.exists() {
        fs::remove_file(socket)?;
    }
    Ok(())
}
