//! A pod in a process of its own: started, listed, asked, watched, killed and removed.
//!
//! `stay ROOTFS`: needs `podvmm-vmm`, kernel and initramfs, see `PODVMM_VMM` and `PODVMM_GUEST_DIR`. The
//! root file system has a shell.

use std::error::Error;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use podvmm_sandbox::logs::{self, LogReader};
use podvmm_sandbox::monitor::detach::{detach, serve};
use podvmm_sandbox::monitor::health::{Health, Probe, Question, Timing};
use podvmm_sandbox::monitor::{ContainerPlan, ExecRequest, PodPlan, PodStore, Restart};
use podvmm_sandbox::{Changes, ContainerConfig};

const SIGKILL: u32 = 9;

fn main() -> Result<(), Box<dyn Error>> {
    let argument = std::env::args().nth(1).ok_or("usage: stay ROOTFS")?;
    if argument == "monitor" {
        return Ok(serve(|_| ())?);
    }
    let name = format!("stay-{}", std::process::id());
    let mut detached = detach(
        Command::new(std::env::current_exe()?).arg("monitor"),
        &plan(&name, Path::new(&argument)),
        &[],
    )?;

    // From here on it could be another process, and any time later.
    let store = PodStore::new(&PodPlan::new(&name).root);
    let pod = store.get(&name)?;
    println!("{} is {}", pod.name, pod.status);
    let client = pod.client();

    let mut session = client.exec(ExecRequest {
        args: vec!["uname".into(), "-r".into()],
        ..ExecRequest::default()
    })?;
    let mut kernel = String::new();
    if let Some(mut stdout) = session.stdout.take() {
        stdout.read_to_string(&mut kernel)?;
    }
    println!("status {}: {}", session.wait()?.code, kernel.trim());

    let stats = client.stats()?;
    for container in stats.containers {
        println!("{}: {} processes", container.name, container.pids);
    }

    client.signal(None, SIGKILL)?;
    println!("killed: {}", client.wait(None)?.code);
    detached.monitor.wait()?;

    let mut log = LogReader::new(&logs::path(&pod.dir, "main"));
    while let Some(entry) = log.next()? {
        let line = String::from_utf8_lossy(&entry.content);
        println!("{}: {line}", entry.stream);
    }
    store.remove(&name, false)?;
    println!("pods left: {}", store.list()?.len());
    Ok(())
}

/// A pod of one container, started again whenever it ends or its probe fails.
fn plan(name: &str, rootfs: &Path) -> PodPlan {
    let mut plan = PodPlan::new(name);
    let rootfs = plan.rootfs("rootfs", rootfs, Changes::Guest);
    let config = ContainerConfig::command(["sh", "-c", "echo up; exec sleep 1000"]);
    let alive = Probe {
        question: Question::Exec(vec!["true".into()]),
        timing: Timing {
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(60),
            successes: 1,
            failures: 3,
        },
        grace: None,
    };
    plan.containers = vec![ContainerPlan {
        rootfs,
        restart: Restart::Always,
        health: Health {
            liveness: Some(alive),
            ..Health::default()
        },
        ..ContainerPlan::new(&config)
    }];
    plan
}
