//! The process that is one pod's virtual machine.
//!
//! It is started by the sandbox with one end of a socket as its standard input, over which it is
//! handed its configuration and every file that it may use (see `control`). It stops when the guest
//! does, when it is told to, and when its sandbox is gone.

mod machine;
mod requests;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use podvmm_sandbox::control::{self, End, Launch, Report};
use podvmm_sandbox::{logging, rundir};
use vmm::{Stop, StopReason};

use crate::machine::{Machine, Refusal};
use crate::requests::Steering;

/// Most console output that a report carries, in bytes.
const CONSOLE_BYTES: usize = 4096;

fn main() -> ExitCode {
    logging::init("podvmm-vmm", None);
    raise_file_limit();
    let socket = match rustix::stdio::stdin().try_clone_to_owned() {
        Ok(socket) => Arc::new(socket),
        Err(error) => return refuse(&error),
    };
    let (launch, fds) = match control::receive::<Launch>(&socket) {
        Ok(Some(received)) => received,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => return refuse(&error),
    };
    let report = match run(&launch, fds, &socket) {
        Ok(stop) => Report::Stopped {
            end: end(&stop.reason),
            console: last_bytes(&stop.console),
        },
        Err(Refusal { file, message }) => Report::Failed { file, message },
    };
    if control::send(&*socket, &report, &[]).is_err() {
        // Nobody is left who would clean up.
        rundir::remove_abandoned(Path::new(&launch.runtime_dir));
    }
    ExitCode::SUCCESS
}

/// Files that the guest has open are files of this process.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::warn!(
            "the limit of open files stays at {:?}: {error}",
            limit.current
        );
    }
}

/// Somebody started this by hand, or a sandbox of another version did.
fn refuse(error: &std::io::Error) -> ExitCode {
    eprintln!("podvmm-vmm: started by podvmm, not by hand: {error}");
    ExitCode::from(125)
}

fn run(launch: &Launch, fds: Vec<OwnedFd>, socket: &Arc<OwnedFd>) -> Result<Stop, Refusal> {
    let Machine {
        vm,
        exports,
        requests,
    } = machine::build(launch, fds)?;
    let steering = Steering {
        vm: vm.handle(),
        exports,
        requests,
    };
    steer(steering, Arc::clone(socket))?;
    control::send(&**socket, &Report::Running, &[]).map_err(|error| error.to_string())?;
    Ok(vm
        .run()
        .map_err(|error| format!("the VM cannot run: {error}"))?)
}

fn steer(steering: Steering, lifeline: Arc<OwnedFd>) -> Result<(), String> {
    let thread = std::thread::Builder::new()
        .name("control".into())
        .stack_size(128 * 1024);
    thread
        .spawn(move || requests::serve(&lifeline, steering))
        .map_err(|error| format!("no thread for the control socket: {error}"))?;
    Ok(())
}

fn end(reason: &StopReason) -> End {
    match reason {
        StopReason::PowerOff => End::PowerOff,
        StopReason::Reset => End::Reset,
        StopReason::Panic { message } => End::Panic {
            message: message.clone(),
        },
        StopReason::TripleFault => End::TripleFault,
        StopReason::Stopped => End::Stopped,
        StopReason::Failed(error) => End::Failed {
            message: machine::with_causes(error),
        },
    }
}

fn last_bytes(console: &str) -> String {
    let mut start = console.len().saturating_sub(CONSOLE_BYTES);
    while !console.is_char_boundary(start) {
        start += 1;
    }
    console[start..].to_owned()
}
