//! A pod in a process of its own: started, asked, stopped and removed.
//!
//! `stay ROOTFS`: needs `podvmm-vmm`, kernel and initramfs, see `PODVMM_VMM` and `PODVMM_GUEST_DIR`.

use std::error::Error;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use podvmm_sandbox::logs::{self, LogReader};
use podvmm_sandbox::monitor::detach::{detach, serve};
use podvmm_sandbox::monitor::{ContainerPlan, ExecRequest, PodPlan, PodStore};
use podvmm_sandbox::{Changes, ContainerConfig};

fn main() -> Result<(), Box<dyn Error>> {
    let argument = std::env::args().nth(1).ok_or("usage: stay ROOTFS")?;
    if argument == "monitor" {
        return Ok(serve(|_| ())?);
    }
    let name = format!("stay-{}", std::process::id());
    let mut plan = PodPlan::new(&name);
    let rootfs = plan.rootfs("rootfs", Path::new(&argument), Changes::Guest);
    let config = ContainerConfig::command(["sh", "-c", "echo up; exec sleep 1000"]);
    plan.containers = vec![ContainerPlan {
        rootfs,
        ..ContainerPlan::new(&config)
    }];
    let mut detached = detach(
        Command::new(std::env::current_exe()?).arg("monitor"),
        &plan,
        &[],
    )?;

    let store = PodStore::new(&plan.root);
    let pod = store.get(&name)?;
    println!("{} is {}", pod.name, pod.status);
    let mut session = pod.client().exec(ExecRequest {
        args: vec!["uname".into(), "-r".into()],
        ..ExecRequest::default()
    })?;
    let mut kernel = String::new();
    if let Some(mut stdout) = session.stdout.take() {
        stdout.read_to_string(&mut kernel)?;
    }
    println!("status {}: {}", session.wait()?.code, kernel.trim());
    let mut log = LogReader::new(&logs::path(&pod.dir, "main"));
    while let Some(entry) = log.next()? {
        println!(
            "{} {}",
            entry.stream,
            String::from_utf8_lossy(&entry.content)
        );
    }
    pod.client()
        .stop(Some(std::time::Duration::from_millis(100)))?;
    detached.monitor.wait()?;
    store.remove(&name, false)?;
    Ok(())
}
