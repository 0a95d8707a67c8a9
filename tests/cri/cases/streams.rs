//! exec, attach and logs.

use std::fs;

use anyhow::{Context, Result, ensure};
use k8s_cri::v1 as cri;
use podvmm_cri_tests::client::CallError;
use podvmm_cri_tests::log_file;
use podvmm_cri_tests::pod::{Container, Node, brief};
use podvmm_cri_tests::spec::ContainerSpec;
use podvmm_cri_tests::stream::{STDIN, Stream};
use podvmm_cri_tests::wait;

use crate::case::Case;

pub const CASES: &[Case] = &[
    Case::new(
        "exec_sync",
        "ExecSync: both streams and the exit status of a command, also of one that is not there",
        exec_sync,
    ),
    Case::new(
        "exec_sync_timeout",
        "ExecSync: a command is killed when its time is up",
        exec_sync_timeout,
    ),
    Case::new(
        "exec",
        "`kubectl exec -i`: standard input, both streams apart, the exit status",
        exec,
    ),
    Case::new(
        "exec_tty",
        "`kubectl exec -it`: a terminal of the size that was asked for, and resized",
        exec_tty,
    ),
    Case::new(
        "exec_bulk",
        "exec: megabytes of output, complete and in order",
        exec_bulk,
    ),
    Case::new(
        "slow_reader",
        "exec: who does not read holds up their own command, and nothing else",
        slow_reader,
    ),
    Case::new(
        "attach",
        "`kubectl attach -i`: the container's own streams",
        attach,
    ),
    Case::new(
        "attach_tty",
        "`kubectl attach -it`: the container's own terminal",
        attach_tty,
    ),
    Case::new(
        "logs",
        "logs: streams told apart, long lines in parts, a last line without an end",
        logs,
    ),
    Case::new(
        "log_rotation",
        "ReopenContainerLog: no line is lost when a log is rotated",
        log_rotation,
    ),
];

fn exec_sync(node: Node<'_>) -> Result<()> {
    let (pod, container) = node.run("exec-sync", ContainerSpec::idle())?;
    let output = container.exec(&["/bin/sh", "-c", "echo out; echo err >&2; exit 42"])?;
    ensure!(
        (output.code, output.stdout.as_str(), output.stderr.as_str()) == (42, "out\n", "err\n"),
        "{output:?}"
    );
    let killed = container.exec(&["/bin/sh", "-c", "kill -KILL $$"])?;
    ensure!(killed.code == 137, "killed by SIGKILL: {killed:?}");
    // Whether this is an error of the call or an exit status is the runtime's choice.
    match container.exec(&["/no/such/command"]) {
        Ok(output) => ensure!(matches!(output.code, 126..=128), "{output:?}"),
        Err(error) => ensure!(error.message.contains("/no/such/command"), "{error}"),
    }
    container.sh("echo still here")?;
    pod.remove()?;
    Ok(())
}

fn exec_sync_timeout(node: Node<'_>) -> Result<()> {
    let (pod, container) = node.run("exec-timeout", ContainerSpec::idle())?;
    let answer = node.cri().exec_sync(cri::ExecSyncRequest {
        container_id: container.id.clone(),
        cmd: vec!["/bin/sleep".into(), "98765".into()],
        timeout: 2,
    });
    let Err(CallError { message, .. }) = answer else {
        anyhow::bail!("ExecSync succeeded: {answer:?}");
    };
    ensure!(
        message.contains("timeout") || message.contains("deadline"),
        "{message}"
    );
    wait::until(10, "the command is gone", || {
        let running = container.exec(&["/bin/sh", "-c", "ps | grep '[9]8765'"])?;
        Ok((running.code == 1).then_some(()))
    })?;
    pod.remove()?;
    Ok(())
}

fn open_exec(node: Node<'_>, container: &Container, script: &str, tty: bool) -> Result<Stream> {
    let answer = node.cri().exec(cri::ExecRequest {
        container_id: container.id.clone(),
        cmd: ["/bin/sh", "-c", script].map(String::from).to_vec(),
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    })?;
    Stream::open(&answer.url).context("Exec's stream")
}

fn open_attach(node: Node<'_>, container: &Container, tty: bool) -> Result<Stream> {
    let answer = node.cri().attach(cri::AttachRequest {
        container_id: container.id.clone(),
        stdin: true,
        tty,
        stdout: true,
        stderr: !tty,
    })?;
    Stream::open(&answer.url).context("Attach's stream")
}

fn exec(node: Node<'_>) -> Result<()> {
    let (pod, container) = node.run("exec", ContainerSpec::idle())?;
    let script = "read line; echo \"got $line\"; echo complaint >&2; read line; exit 3";
    let mut stream = open_exec(node, &container, script, false)?;
    stream.send(STDIN, b"hello\n")?;
    let said = stream.read_until("\n")?;
    ensure!(said == "got hello\n", "{said:?}");
    stream.send(STDIN, b"end\n")?;
    let rest = stream.rest()?;
    ensure!(
        rest.stderr == b"complaint\n" && rest.stdout.is_empty(),
        "{rest:?}"
    );
    ensure!(
        rest.status.contains("NonZeroExitCode") && rest.status.contains(r#""message":"3""#),
        "{rest:?}"
    );
    open_exec(node, &container, "exit 0", false)?
        .rest()?
        .succeeded()?;
    pod.remove()?;
    Ok(())
}

fn exec_tty(node: Node<'_>) -> Result<()> {
    let (pod, container) = node.run("exec-tty", ContainerSpec::idle())?;
    // The shell says a word before each `read`, so that nothing is sent too early.
    // Sizes and input go different ways to it: nothing says which comes first.
    let size_is = |size: &str| format!("until stty size | grep -x '{size}'; do sleep 0.1; done");
    let script = format!(
        "tty; echo ready; read a; {}; read b; {}; echo done",
        size_is("30 100"),
        size_is("24 80")
    );
    let mut stream = open_exec(node, &container, &script, true)?;
    let said = stream.read_until("ready\r\n")?;
    ensure!(said.starts_with("/dev/pts/"), "the terminal: {said:?}");
    stream.resize(100, 30)?;
    stream.send(STDIN, b"one\n")?;
    // The terminal echoes what is typed.
    let said = stream.read_until("30 100")?;
    ensure!(said.contains("one\r\n"), "no echo: {said:?}");
    stream.resize(80, 24)?;
    stream.send(STDIN, b"two\n")?;
    stream.read_until("24 80\r\ndone\r\n")?;
    stream.rest()?.succeeded()?;
    pod.remove()?;
    Ok(())
}

fn exec_bulk(node: Node<'_>) -> Result<()> {
    let (pod, container) = node.run("exec-bulk", ContainerSpec::idle())?;
    let last = 600_000;
    let output = open_exec(node, &container, &format!("seq 1 {last}"), false)?
        .rest()?
        .succeeded()?;
    let mut expected = String::new();
    for number in 1..=last {
        expected += &format!("{number}\n");
    }
    ensure!(
        output.stdout == expected.as_bytes(),
        "{} bytes instead of {}, the first difference at {:?}",
        output.stdout.len(),
        expected.len(),
        output
            .stdout
            .iter()
            .zip(expected.as_bytes())
            .position(|(a, b)| a != b),
    );
    pod.remove()?;
    Ok(())
}

fn slow_reader(node: Node<'_>) -> Result<()> {
    let (pod, container) = node.run("slow-reader", ContainerSpec::idle())?;
    // More than all buffers on the way hold.
    let script = "dd if=/dev/zero bs=64k count=256 2>/dev/null; touch /tmp/written";
    let slow = open_exec(node, &container, script, false)?;
    for _ in 0..3 {
        container.sh("echo others go on")?;
    }
    let output = container.exec(&["test", "-e", "/tmp/written"])?;
    ensure!(output.code == 1, "nothing held the writer up: {output:?}");
    let read = slow.rest()?.succeeded()?.stdout.len();
    ensure!(read == 16 << 20, "{read} bytes");
    container.sh("test -e /tmp/written")?;
    pod.remove()?;
    Ok(())
}

fn attach(node: Node<'_>) -> Result<()> {
    let mut spec =
        ContainerSpec::sh("read line; echo \"got $line\"; echo complaint >&2; read line; exit 4");
    spec.config.stdin = true;
    let (pod, container) = node.run("attach", spec)?;
    let mut stream = open_attach(node, &container, false)?;
    stream.send(STDIN, b"hello\n")?;
    let said = stream.read_until("\n")?;
    ensure!(said == "got hello\n", "{said:?}");
    stream.send(STDIN, b"end\n")?;
    let rest = stream.rest()?;
    ensure!(rest.stderr == b"complaint\n", "{rest:?}");
    let status = container.ended(10)?;
    ensure!(status.exit_code == 4, "{}", brief(&status));
    // What went to the client went to the log too.
    container.has_logged("got hello\n")?;
    pod.remove()?;
    Ok(())
}

fn attach_tty(node: Node<'_>) -> Result<()> {
    let mut spec = ContainerSpec::sh("read a; stty size; read b; exit 5");
    (spec.config.stdin, spec.config.tty) = (true, true);
    let (pod, container) = node.run("attach-tty", spec)?;
    let mut stream = open_attach(node, &container, true)?;
    stream.resize(132, 43)?;
    stream.send(STDIN, b"one\n")?;
    let said = stream.read_until("43 132\r\n")?;
    ensure!(said.contains("one\r\n"), "no echo: {said:?}");
    stream.send(STDIN, b"two\n")?;
    let status = container.ended(10)?;
    ensure!(status.exit_code == 5, "{}", brief(&status));
    pod.remove()?;
    Ok(())
}

fn logs(node: Node<'_>) -> Result<()> {
    // containerd cuts lines at 16 KiB.
    let script = "echo one; echo oh >&2; head -c 40000 /dev/zero | tr '\\0' x; echo; printf last";
    let (pod, container) = node.run("logs", ContainerSpec::sh(script))?;
    container.ended(10)?;
    container.has_logged("last")?;
    let long = "x".repeat(40_000);
    let stdout = container.logged("stdout")?;
    ensure!(
        stdout.trim_end() == format!("one\n{long}\nlast"),
        "{} bytes, beginning with {:.40?}",
        stdout.len(),
        stdout,
    );
    ensure!(
        container.logged("stderr")? == "oh\n",
        "{:?}",
        container.logged("stderr")
    );
    let text = fs::read_to_string(&container.log)?;
    let parts = log_file::parse(&text)?
        .iter()
        .filter(|entry| entry.partial)
        .count();
    ensure!(parts >= 2, "{parts} entries are marked as parts of a line");
    pod.remove()?;
    Ok(())
}

fn log_rotation(node: Node<'_>) -> Result<()> {
    let script = "n=0; while [ $n -lt 60 ]; do n=$((n + 1)); echo $n; sleep 0.02; done; \
                  trap 'exit 0' TERM; sleep 1000000 & wait";
    let (pod, container) = node.run("log-rotation", ContainerSpec::sh(script))?;
    container.has_logged("3\n")?;
    let rotated = container.log.with_extension("log.1");
    fs::rename(&container.log, &rotated)?;
    node.cri()
        .reopen_container_log(cri::ReopenContainerLogRequest {
            container_id: container.id.clone(),
        })?;
    container.has_logged("60\n")?;
    let older = fs::read_to_string(&rotated)?;
    let both =
        log_file::written(&log_file::parse(&older)?, "stdout") + &container.logged("stdout")?;
    let expected: String = (1..=60).map(|number| format!("{number}\n")).collect();
    ensure!(both == expected, "the two logs have {both:?}");
    pod.remove()?;
    Ok(())
}
