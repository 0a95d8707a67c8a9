//! The process that is one pod's virtual machine, and its warden.
//!
//! It is started by the sandbox with one end of a socket as its standard input. First it is the
//! warden: it starts itself anew as the VMM process in namespaces of its own, and waits (see `jail`).
//! The VMM process is handed its configuration and every file that it may use over the socket (see
//! `control`). It stops when the guest does, when it is told to, and when its sandbox is gone.

mod machine;
mod requests;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;

use podvmm_sandbox::control::{self, End, Launch, Report};
use podvmm_sandbox::jail::seccomp::{Filters, Thread};
use podvmm_sandbox::jail::{self, Placement, WardenOptions};
use podvmm_sandbox::logging::{self, one_line};
use vmm::{Stop, StopReason};

use crate::machine::{Machine, Refusal};
use crate::requests::Steering;

/// Most console output that a report carries, in bytes.
const CONSOLE_BYTES: usize = 4096;

fn main() -> ExitCode {
    logging::init("podvmm-vmm", None);
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    match &args[..] {
        [inside, gate] if inside == jail::INSIDE => vmm(gate),
        _ => match WardenOptions::from_args(args) {
            Ok(options) => jail::warden(&options),
            Err(error) => refuse(&error),
        },
    }
}

fn vmm(gate: &OsString) -> ExitCode {
    let gate = gate.to_str().and_then(|number| number.parse().ok());
    let placed = match gate.map(jail::placement) {
        Some(Ok(placed)) => placed,
        Some(Err(error)) => return refuse(&one_line(&error)),
        None => return refuse("no descriptor of a warden"),
    };
    raise_file_limit();
    let socket = match rustix::stdio::stdin().try_clone_to_owned() {
        Ok(socket) => Arc::new(socket),
        Err(error) => return refuse(&error.to_string()),
    };
    let (launch, fds) = match control::receive::<Launch>(&socket) {
        Ok(Some(received)) => received,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => return refuse(&error.to_string()),
    };
    let report = match run(&launch, fds, placed, &socket) {
        Ok(stop) => Report::Stopped {
            end: end(&stop.reason),
            console: last_bytes(&stop.console),
        },
        Err(Refusal { file, message }) => Report::Failed { file, message },
    };
    // Where nobody is left to hear it, the warden cleans up.
    let _ = control::send(&*socket, &report, &[]);
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
fn refuse(error: &str) -> ExitCode {
    eprintln!("podvmm-vmm: started by podvmm, not by hand: {error}");
    ExitCode::from(125)
}

fn run(
    launch: &Launch,
    fds: Vec<OwnedFd>,
    placed: (Placement, OwnedFd),
    socket: &Arc<OwnedFd>,
) -> Result<Stop, Refusal> {
    let filters = Filters::new(launch.seccomp).map_err(|error| one_line(&error))?;
    let Machine {
        vm,
        exports,
        requests,
        gaps,
    } = machine::build(launch, fds, placed, &filters)?;
    let steering = Steering {
        vm: vm.handle(),
        exports,
        requests,
        disk_limit: launch.disk_limit,
    };
    steer(steering, Arc::clone(socket), filters)?;
    let running = Report::Running { gaps };
    control::send(&**socket, &running, &[]).map_err(|error| error.to_string())?;
    Ok(vm
        .run()
        .map_err(|error| format!("the VM cannot run: {error}"))?)
}

fn steer(steering: Steering, lifeline: Arc<OwnedFd>, filters: Filters) -> Result<(), String> {
    let thread = std::thread::Builder::new()
        .name("control".into())
        .stack_size(128 * 1024);
    thread
        .spawn(move || {
            machine::narrow_to(&filters, Thread::Control);
            requests::serve(&lifeline, steering);
        })
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
            message: one_line(error),
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
