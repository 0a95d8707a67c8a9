//! A monitor as a process of its own, in a session of its own.
//!
//! ```text
//!   detach() ── spawns ──▶ serve()        the caller's own program, started again
//!      │  Order + plan (memfd) ─────▶│
//!      │                             │ starts the pod
//!      │ ◀───── Started or Failed ── │
//!      ▼                             ▼ runs until the pod has ended
//! ```
//!
//! They talk over the new process's standard input. If the caller ends before the answer, the start is
//! given up.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::MemfdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::plan::PodPlan;
use super::{LogOutlet, Mode, Monitor, MonitorError, MonitorHandle, STACK};
use crate::container::StartFailure;
use crate::logging::one_line;
use crate::packet;

/// Longest plan that is read.
const MAX_PLAN: u64 = 16 << 20;
/// The monitor's process name.
const NAME: &std::ffi::CStr = c"podvmm-monitor";

/// What the new process is told; the plan's file is attached.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    version: u32,
}

/// Both are the same program, unless it was replaced in between.
const VERSION: u32 = 1;

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Report {
    Started {
        gaps: Vec<String>,
    },
    Failed {
        /// Whether it was the command that could not be executed.
        start: Option<StartFailure>,
        message: String,
    },
}

/// Why there is no pod.
#[derive(Debug, Error)]
pub enum DetachError {
    /// The process could not be started.
    #[error("the pod's monitor cannot be started")]
    Spawn(#[source] io::Error),
    /// It ended without a word.
    #[error("the pod's monitor ended before the pod ran: {0}")]
    Died(String),
    /// It could not start the pod.
    #[error("{message}")]
    Start {
        /// Whether it was the command that could not be executed.
        start: Option<StartFailure>,
        /// Error and causes.
        message: String,
    },
}

/// A pod that runs on its own.
#[derive(Debug)]
pub struct Detached {
    /// What of its VMM's jail is missing, a sentence each.
    pub gaps: Vec<String>,
    /// Its monitor, a child of this process. Who stays should wait for it some time.
    pub monitor: Child,
}

/// Starts the pod `plan` in a process of its own: `program`, which calls [`serve`]. Returns when its
/// containers run. The program's standard streams are set here. It keeps `held` open as long as the pod
/// runs: locks of what the pod uses.
///
/// # Errors
/// [`DetachError`]; nothing is left behind.
pub fn detach(
    program: &mut Command,
    plan: &PodPlan,
    held: &[BorrowedFd<'_>],
) -> Result<Detached, DetachError> {
    let flags = SocketFlags::CLOEXEC;
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    let (ours, theirs) = pair.map_err(|errno| DetachError::Spawn(errno.into()))?;
    let file = plan_file(plan).map_err(DetachError::Spawn)?;
    program.stdin(theirs).stdout(Stdio::null());
    let mut monitor = program.spawn().map_err(DetachError::Spawn)?;
    // The command keeps the other end open: that it is closed is how an early end shows.
    program.stdin(Stdio::null());
    let order = Order { version: VERSION };
    let fds = [&[file.as_fd()], held].concat();
    let report = packet::send(&ours, &order, &fds).and_then(|()| packet::receive::<Report>(&ours));
    match report {
        Ok(Some((Report::Started { gaps }, _))) => Ok(Detached { gaps, monitor }),
        Ok(Some((Report::Failed { start, message }, _))) => {
            let _ = monitor.wait();
            Err(DetachError::Start { start, message })
        }
        Ok(None) | Err(_) => {
            // It may still live, and then it gives up as soon as it sees that we do not listen.
            drop(ours);
            let status = monitor.wait().map_err(DetachError::Spawn)?;
            Err(DetachError::Died(status.to_string()))
        }
    }
}

fn plan_file(plan: &PodPlan) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("plan", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(plan)?)?;
    file.rewind()?;
    Ok(file)
}

/// Is the monitor that [`detach`] has started, until its pod has ended. `ready` is called with the pod's
/// handle before it starts: a program that handles signals lets them stop it.
///
/// # Errors
/// [`MonitorError`], which was reported to the caller of [`detach`] already.
pub fn serve(ready: impl FnOnce(&MonitorHandle)) -> Result<(), ServeError> {
    let socket = rustix::stdio::stdin()
        .try_clone_to_owned()
        .map_err(ServeError::Order)?;
    let (plan, _held) = leave_the_caller()
        .and_then(|()| hear(&socket))
        .map_err(ServeError::Order)?;
    let outcome = start(plan, &socket, ready);
    let report = match &outcome {
        Ok(monitor) => Report::Started {
            gaps: monitor.handle().record().jail_gaps,
        },
        Err(error) => Report::Failed {
            start: error.start_failure(),
            message: one_line(error),
        },
    };
    let is_told = packet::send(&socket, &report, &[]).is_ok();
    drop(socket);
    let monitor = outcome?;
    if !is_told {
        // Nobody knows of the pod.
        monitor.handle().destroy();
    }
    let _ = monitor.wait();
    Ok(())
}

/// Why a monitor's process could do nothing.
#[derive(Debug, Error)]
pub enum ServeError {
    /// It was started by hand, or by another version.
    #[error("this is started by podvmm itself, with a plan on standard input")]
    Order(#[source] io::Error),
    /// The pod could not be started.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
}

/// No terminal, no directory, no standard input of the caller's.
fn leave_the_caller() -> io::Result<()> {
    rustix::thread::set_name(NAME)?;
    // It fails for a process that leads a group already: that one has no caller to leave.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/")?;
    let nothing = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    Ok(())
}

fn hear(socket: &OwnedFd) -> io::Result<(PodPlan, Vec<OwnedFd>)> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let order = packet::receive::<Order>(socket)?;
    let (order, mut fds) = order.ok_or_else(|| wrong("nothing came"))?;
    if order.version != VERSION {
        return Err(wrong("it is from another version of podvmm"));
    }
    if fds.is_empty() {
        return Err(wrong("there is no plan"));
    }
    let file = fds.remove(0);
    let mut bytes = Vec::new();
    File::from(file)
        .take(MAX_PLAN + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_PLAN {
        return Err(wrong("the plan is too long"));
    }
    Ok((serde_json::from_slice(&bytes)?, fds))
}

fn start(
    plan: PodPlan,
    socket: &OwnedFd,
    ready: impl FnOnce(&MonitorHandle),
) -> Result<Monitor, MonitorError> {
    let dir = plan.root.join(&plan.name);
    let outlet = LogOutlet::new(Path::new(&dir), plan.log);
    let mut monitor = Monitor::new(plan, Arc::new(outlet), Mode::Detached)?;
    let level = log::max_level();
    monitor.log(Some(level).filter(|level| *level != log::LevelFilter::Off));
    let handle = monitor.handle();
    ready(&handle);
    let is_started = Arc::new(AtomicBool::new(false));
    let watched = socket.try_clone().map_err(MonitorError::Socket)?;
    let flag = Arc::clone(&is_started);
    let thread = std::thread::Builder::new().stack_size(STACK);
    let watcher = thread.spawn(move || {
        // Nothing else comes from the caller but its end.
        let mut set = [PollFd::new(&watched, PollFlags::IN)];
        let _ = rustix::io::retry_on_intr(|| poll(&mut set, None));
        if !flag.load(Ordering::Acquire) {
            handle.destroy();
        }
    });
    watcher.map_err(MonitorError::Thread)?;
    let outcome = monitor.start();
    is_started.store(true, Ordering::Release);
    outcome.map(|()| monitor)
}
