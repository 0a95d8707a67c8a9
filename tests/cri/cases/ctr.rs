//! Containers without a pod, by containerd's own tool.

use std::fs::{self, File};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use podvmm_cri_tests::pod::Node;
use podvmm_cri_tests::traces::Traces;
use podvmm_cri_tests::{spec, wait};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::case::Case;

pub const CASES: &[Case] = &[
    Case::new("run", "`ctr run --rm`: output and exit status", run),
    Case::new("run_tty", "`ctr run --rm -t`: a terminal", run_tty),
    Case::new(
        "given_up",
        "`ctr run` that is killed while it starts: what it has made can be removed, and nothing else stays",
        given_up,
    ),
];

/// `ctr run` of a script.
fn ctr_run(node: Node<'_>, name: &str, options: &[&str], script: &str) -> Command {
    let mut command = node.bed.ctr();
    command
        .args(["--namespace", "k8s.io", "run", "--rm"])
        .args(["--runtime", node.handler.runtime_type])
        .args(["--cgroup", &format!("/podvmm-cri/{name}")])
        .args(options)
        .args([spec::UBUNTU, name, "/bin/sh", "-c", script]);
    command
}

fn run(node: Node<'_>) -> Result<()> {
    let output = ctr_run(node, "ctr-run", &[], "uname -r; echo err >&2; exit 6")
        .stdin(Stdio::null())
        .output()
        .context("ctr")?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(6),
        "{}: {stdout:?}, {stderr:?}",
        output.status
    );
    ensure!(stderr.contains("err\n"), "{stderr:?}");
    let nodes = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    ensure!(
        (stdout != nodes) == node.handler.own_kernel && !stdout.is_empty(),
        "`uname -r` is {stdout:?}"
    );
    Ok(())
}

fn run_tty(node: Node<'_>) -> Result<()> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("a terminal")?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = ptsname(&master, Vec::new())?;
    let terminal = || {
        File::options()
            .read(true)
            .write(true)
            .open(path.to_string_lossy().as_ref())
    };
    let mut child = ctr_run(
        node,
        "ctr-run-tty",
        &["--tty"],
        "test -t 0 && tty; echo done",
    )
    .stdin(terminal()?)
    .stdout(terminal()?)
    .stderr(terminal()?)
    .spawn()
    .context("ctr")?;
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        // When the last one has closed the other end, reading fails with EIO.
        let _ = File::from(master).read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let ended = wait::until(30, "ctr has ended", || Ok(child.try_wait()?));
    if ended.is_err() {
        child.kill()?;
        child.wait()?;
    }
    let text = reader.join().ok().context("the reader panicked")?;
    let status = ended.with_context(|| format!("the terminal has {text:?}"))?;
    ensure!(status.success(), "{status}: {text:?}");
    // Two terminals in a row have put a carriage return each before the ends of lines.
    let lines = text.replace('\r', "");
    ensure!(
        lines.starts_with("/dev/") && lines.ends_with("\ndone\n"),
        "{text:?}"
    );
    Ok(())
}

fn given_up(node: Node<'_>) -> Result<()> {
    let before = Traces::now();
    // Before the VM starts, while it does and after, on machines of different speed.
    let delays = [50, 150, 300, 600, 1200, 2500];
    let names = delays.map(|delay| format!("ctr-given-up-{delay}"));
    for (name, delay) in names.iter().zip(delays) {
        let mut ctr = ctr_run(node, name, &[], "exec sleep 1000")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("ctr")?;
        std::thread::sleep(Duration::from_millis(delay));
        ctr.kill()?;
        ctr.wait()?;
    }
    let mut left = None;
    let gone = wait::until(30, "nothing is left behind", || {
        for name in &names {
            // What is not there, or not any more, is no harm.
            for made in [
                &["tasks", "rm", "--force"][..],
                &["containers", "rm"],
                &["snapshots", "rm"],
            ] {
                let mut remove = node.bed.ctr();
                remove.args(["--namespace", "k8s.io"]).args(made).arg(name);
                remove.output().context("ctr")?;
            }
        }
        // The killed program's own.
        for fifos in fs::read_dir("/run/containerd/fifo")? {
            fs::remove_dir_all(fifos?.path())?;
        }
        left = before.expect_no_more().err();
        Ok(left.is_none().then_some(()))
    });
    gone.map_err(|error| left.unwrap_or(error))
}
