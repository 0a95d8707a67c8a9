//! A container's first process, from the fork until it executes the command.
//!
//! It is a fork of the agent in new pid and mount namespaces and in the container's cgroup. It makes the
//! root file system in its own mount namespace, so that nothing is left to undo when it ends, enters it,
//! tells the agent that it is ready, waits for the start, and only then gives up its privileges and becomes
//! the command. Everything that needs the guest's own /proc is done before the image's is in sight.

mod devices;
mod error;
mod exec;
mod further;
mod holder;
mod identity;
mod mounts;
mod root;
mod rootfs;
mod subdir;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, Uid};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::container::{Message, Plan, ProcessPlan, receive_start, send_message};
use crate::sys::process;
use error::{InitError, Step};

pub(crate) use further::main as further;
pub(crate) use holder::main as hold_pids;

/// What the agent hands to the process.
#[derive(Debug)]
pub(crate) struct Inherited {
    /// The process's end of the handshake.
    pub(crate) control: OwnedFd,
    /// Standard input, output and error; a terminal replaces them.
    pub(crate) stdio: [OwnedFd; 3],
}

/// Runs the process; does not return.
pub(crate) fn main(plan: &Plan, inherited: Inherited) -> ! {
    let Inherited { control, stdio } = inherited;
    let set_up = set_up(plan, &control, stdio);
    finish(set_up, &plan.process, &control)
}

/// Does some work for the agent in a fork of it, tells `control` why it failed, and ends.
pub(crate) fn errand(control: &OwnedFd, work: impl FnOnce() -> Result<(), String>) -> ! {
    let kept = keep_only(&[control]).map_err(|error| error.to_string());
    match kept.and_then(|()| work()) {
        Ok(()) => process::exit_now(0),
        Err(problem) => {
            let _ = send_message(control, &Message::SetupFailed(problem));
            process::exit_now(1)
        }
    }
}

/// Becomes the command when the agent says so, or ends with the reason why not.
fn finish(set_up: Result<(), InitError>, plan: &ProcessPlan, control: &OwnedFd) -> ! {
    let outcome = match set_up {
        Ok(()) => start(plan, control),
        Err(error) => Message::SetupFailed(error.text()),
    };
    // A status for nobody: the agent goes by the message.
    let _ = send_message(control, &outcome);
    process::exit_now(match outcome {
        Message::CommandNotFound(_) => 127,
        _ => 126,
    })
}

fn set_up(plan: &Plan, control: &OwnedFd, stdio: [OwnedFd; 3]) -> Result<(), InitError> {
    let [stdin, stdout, stderr] = &stdio;
    leave_agent(&[control, stdin, stdout, stderr], &plan.process)?;
    prepare_kernel(plan)?;

    let stage = rootfs::Stage::mount()?;
    let root = rootfs::mount(&plan.rootfs, &stage)?;
    for mount in &plan.mounts {
        mounts::mount(mount, &root)?;
    }
    let null = devices::make(&plan.devices, &plan.mounts, &root, &stage)?;
    let terminal = plan
        .terminal
        .map(|size| devices::terminal(&root, size))
        .transpose()?;
    make_working_directory(&plan.process, &root)?;
    mounts::protect(&plan.readonly_paths, &root)?;
    mounts::mask(&plan.masked_paths, &root, &null)?;
    if plan.rootfs.readonly {
        rootfs::change(&root, MountAttrFlags::MOUNT_ATTR_RDONLY, false)
            .step(|| "make the root read-only")?;
    }
    rootfs::enter(&root)?;
    drop((root, stage, null));

    let master = connect_stdio(stdio, terminal, plan.process.uid)?;
    enter_working_directory(&plan.process)?;
    send_message(control, &Message::Ready(master)).step(|| "report to the agent")
}

fn start(plan: &ProcessPlan, control: &OwnedFd) -> Message {
    match receive_start(control) {
        Ok(true) => {}
        // The container was removed, or the agent is gone.
        Ok(false) | Err(_) => process::exit_now(0),
    }
    let environment = identity::environment(plan);
    let prepared = identity::assume(plan)
        .and_then(|()| process::reset_signals().step(|| "reset signals"))
        .and_then(|()| identity::confine(plan));
    match prepared {
        Ok(()) => exec::execute(plan, &environment),
        Err(error) => Message::ExecFailed(error.text()),
    }
}

/// Sheds what it has of the agent but `kept`, and writes what goes through the guest's own /proc.
fn leave_agent(kept: &[&OwnedFd], plan: &ProcessPlan) -> Result<(), InitError> {
    keep_only(kept).step(|| "close the agent's descriptors")?;
    rustix::process::umask(Mode::empty());
    rustix::process::setsid().step(|| "new session")?;
    let score = plan.oom_score_adj.to_string();
    fs::write("/proc/self/oom_score_adj", score).step(|| "process.oomScoreAdj")
}

/// Closes every descriptor but those that are needed; they all close themselves on exec.
#[allow(unsafe_code)] // closes descriptors by number
fn keep_only(kept: &[&OwnedFd]) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    let mut kept: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    kept.sort_unstable();
    // Descriptors 0 to 2 stay open until the container's own take their place.
    let mut from = 3;
    for fd in kept {
        if fd > from {
            // SAFETY: what is closed belongs to values of the agent, of which this process is a copy that
            // never returns to their owners.
            unsafe { process::close_range(from, fd - 1, false) }?;
        }
        from = from.max(fd + 1);
    }
    // SAFETY: as above.
    unsafe { process::close_range(from, u32::MAX, false) }
}

/// Parameters of the new namespaces, and the one that depends on the cgroup.
fn prepare_kernel(plan: &Plan) -> Result<(), InitError> {
    process::unshare(libc::CLONE_NEWCGROUP).step(|| "cgroup namespace")?;
    if let Some(hostname) = &plan.hostname {
        rustix::system::sethostname(hostname.as_bytes()).step(|| "hostname")?;
    }
    for (path, value) in &plan.sysctls {
        fs::write(format!("/proc/sys/{path}"), value).step(|| format!("linux.sysctl {path}"))?;
    }
    Ok(())
}

/// A working directory that is missing is made, as runc does for images that rely on it.
fn make_working_directory(plan: &ProcessPlan, root: &root::Root) -> Result<(), InitError> {
    if plan.cwd != "/" {
        root.place(&plan.cwd, root::Kind::Directory)?;
    }
    Ok(())
}

fn enter_working_directory(plan: &ProcessPlan) -> Result<(), InitError> {
    let step = || format!("process.cwd {}", plan.cwd);
    rustix::process::chdir(plan.cwd.as_str()).step(step)?;
    // The kernel says "(unreachable)" of a directory outside of the root.
    let cwd = match rustix::process::getcwd(Vec::new()) {
        Err(Errno::NOENT) => return Err(InitError::new(step(), "directory was removed")),
        result => result.step(step)?,
    };
    if cwd.as_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(InitError::new(step(), "outside of the container's root"))
    }
}

/// Puts the descriptors in their places; gives the terminal's master side.
#[allow(unsafe_code)] // replaces descriptors 0 to 2
fn connect_stdio(
    stdio: [OwnedFd; 3],
    terminal: Option<(OwnedFd, OwnedFd)>,
    uid: u32,
) -> Result<Option<OwnedFd>, InitError> {
    let (master, slave) = terminal.unzip();
    for (target, fd) in (0..).zip(&stdio) {
        let fd = slave.as_ref().unwrap_or(fd);
        give_to(fd, uid)?;
        // SAFETY: descriptors 0 to 2 are the agent's /dev/null, which no value owns.
        unsafe { process::place_fd(fd.as_fd(), target) }.step(|| "standard streams")?;
    }
    if let Some(slave) = slave {
        rustix::process::ioctl_tiocsctty(&slave).step(|| "controlling terminal")?;
    }
    Ok(master)
}

/// Lets a user other than root open its own /dev/stdout. /dev/null is everybody's already.
fn give_to(fd: &OwnedFd, uid: u32) -> Result<(), InitError> {
    let step = || "owner of the standard streams";
    let stat = rustix::fs::fstat(fd).step(step)?;
    let is_pipe = FileType::from_raw_mode(stat.st_mode) == FileType::Fifo;
    if uid != stat.st_uid && (is_pipe || rustix::termios::isatty(fd)) {
        rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), None).step(step)?;
    }
    Ok(())
}
