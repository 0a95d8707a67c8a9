//! `start`: sees to it that a container has a shim.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use sandbox::bundle::Bundle;

use crate::args::Args;
use crate::bundle::{self, ADDRESS, Role};

/// containerd reads the shim's log from here.
const LOG: &str = "log";
/// How long a shim that has said that it ends may take until another has its name.
const FORMER_ENDS: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Prints the address of the container's shim, after starting one if there is none.
pub fn run(args: &Args) -> anyhow::Result<()> {
    // containerd's working directory for shims is the bundle.
    let dir = std::env::current_dir().context("the bundle")?;
    let address = match bundle::role(&Bundle::open(&dir)?)? {
        Role::Member(sandbox) => {
            let path = Path::new("..").join(&sandbox).join(ADDRESS);
            std::fs::read_to_string(&path)
                .with_context(|| format!("the pod {sandbox} has no shim: {}", path.display()))?
        }
        Role::Sandbox | Role::Alone => {
            let socket = bundle::socket(&args.namespace, &args.id);
            spawn(args, &dir, listen(&socket)?)?;
            format!("unix://{}", socket.display())
        }
    };
    std::fs::write(ADDRESS, &address).context("file `address` of the bundle")?;
    print!("{address}");
    Ok(())
}

/// The socket for a new shim.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let shown = || format!("socket {}", path.display());
    if let Some(dir) = path.parent() {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(dir)
            .with_context(|| dir.display().to_string())?;
    }
    let deadline = Instant::now() + FORMER_ENDS;
    loop {
        match UnixListener::bind(path) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error).with_context(shown),
        }
        if UnixStream::connect(path).is_err() {
            // A shim that was killed left it.
            let removed = std::fs::remove_file(path);
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error).with_context(shown);
            }
        } else if Instant::now() < deadline {
            // The one that had the name before may be on its way out.
            sleep(POLL_INTERVAL);
        } else {
            bail!(
                "a shim for a container of this name runs already: {}",
                path.display()
            );
        }
    }
}

fn spawn(args: &Args, dir: &Path, listener: UnixListener) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("this program's path")?;
    let mut command = Command::new(program);
    command
        .args(["-namespace", &args.namespace, "-address", &args.address])
        .args(["-id", &args.id, "-bundle"])
        .arg(dir)
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(log_file(&dir.join(LOG)))
        // A heap for each thread (glibc) would be memory that every pod pays for.
        .env("MALLOC_ARENA_MAX", "1")
        // Signals for containerd's group are not for the pod.
        .process_group(0);
    if args.debug {
        command.arg("-debug");
    }
    command.spawn().context("the shim cannot be started")?;
    Ok(())
}

/// The FIFO that containerd reads, without waiting for it to do so.
fn log_file(path: &PathBuf) -> Stdio {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path);
    file.map_or_else(|_| Stdio::null(), Stdio::from)
}
