//! What a VMM process would do that its guest has taken over, in the jail that `podvmm-vmm` makes for
//! itself: one attempt to get out, and a report of how far it came. `tests/jail` runs it.
//!
//! It is started like `podvmm-vmm`: first as the warden, then inside. There it reads one [`Order`].

mod attempts;

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use podvmm_sandbox::jail::seccomp::{Filters, Thread};
use podvmm_sandbox::jail::{self, SeccompMode, WardenOptions};
use podvmm_sandbox::{JailMode, control};
use serde::{Deserialize, Serialize};

use attempts::Surroundings;

/// What is to be tried. Attached are the VMM's root directory, a writable share and a read-only one.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    /// Name of the attempt.
    attempt: String,
    /// A number that it needs: a process, a port.
    number: u32,
    /// Kind of the thread that tries.
    thread: Thread,
    seccomp: SeccompMode,
}

/// How far it came.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    /// It worked.
    Done,
    /// The system refused, with this error number.
    Refused(i32),
    /// There is no jail, for this reason.
    NoJail(String),
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if let [inside, gate] = &args[..]
        && inside == jail::INSIDE
    {
        let number = gate.to_str().and_then(|number| number.parse().ok());
        return match payload(number.unwrap_or(-1)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("payload: {error}");
                ExitCode::from(1)
            }
        };
    }
    match WardenOptions::from_args(args) {
        Ok(options) => jail::warden(&options),
        Err(error) => {
            eprintln!("payload: {error}");
            ExitCode::from(2)
        }
    }
}

fn payload(gate: i32) -> io::Result<()> {
    let (placement, gate) = jail::placement(gate).map_err(io::Error::other)?;
    let (order, fds) = control::receive::<Order>(rustix::stdio::stdin())?
        .ok_or_else(|| io::Error::other("no order"))?;
    let [root, writable, read_only]: [OwnedFd; 3] = fds
        .try_into()
        .map_err(|_| io::Error::other("three descriptors are expected"))?;
    // Without a jail it is no mount, and stays what it is.
    let root = (placement.mode != JailMode::Off).then_some(root);
    let jail = match jail::enter(placement, &gate, root) {
        Ok(jail) => jail,
        Err(error) => {
            let report = Report::NoJail(error.to_string());
            return control::send(rustix::stdio::stdin(), &report, &[]);
        }
    };
    drop(gate);
    let surroundings = Surroundings {
        writable,
        read_only,
        proc_fds: jail.proc_fds,
        number: order.number,
    };
    let filters = Filters::new(order.seccomp).map_err(io::Error::other)?;
    filters.install(Thread::Main).map_err(io::Error::other)?;
    let attempt = attempts::named(&order.attempt)
        .ok_or_else(|| io::Error::other(format!("no attempt {}", order.attempt)))?;
    let result = if order.thread == Thread::Main {
        attempt(&surroundings)
    } else {
        std::thread::Builder::new()
            .name("payload".into())
            .spawn(move || {
                filters.install(order.thread).map_err(io::Error::other)?;
                attempt(&surroundings)
            })?
            .join()
            .map_err(|_| io::Error::other("the attempt panicked"))?
    };
    let report = match result {
        Ok(()) => Report::Done,
        Err(error) => Report::Refused(error.raw_os_error().unwrap_or(-1)),
    };
    control::send(rustix::stdio::stdin(), &report, &[])
}
