//! The containerd runtime `io.containerd.podvmm.v2`: a virtual machine of its own for each pod.
//!
//! ```text
//!   containerd ──start──▶ containerd-shim-podvmm-v2 ──▶ the pod's shim, in the background
//!        │                                                   │ sandbox
//!        └──────────── ttrpc: the task service ─────────────▶│────────▶ VMM ── guest ── agent
//!        ◀──────────── ttrpc: events ────────────────────────┘
//! ```
//!
//! containerd starts this program with `start` for each container. The first of a pod leaves a
//! process behind that serves the pod for its life; for the others, `start` tells its address.
//!
//! # Map
//! - [`args`]: what containerd says on the command line.
//! - [`start`], [`delete`]: the two short-lived commands.
//! - [`serve`]: the process in the background. [`listener`]: whether there is one.
//! - [`service`]: containerd's calls.
//! - [`pod`]: the pod: its VM and its tasks.
//! - [`bundle`], [`config`], [`options`]: what containerd and the node's administrator have written.
//! - [`guest`]: from bundles to containers in it.
//! - [`size`]: how large the VM is to be.
//! - [`task`], [`process`]: a container, and a process in it.
//! - [`cgroup`]: where the pod's costs are counted.
//! - [`forward`]: connections to the pod's localhost.
//! - [`streams`]: standard streams between the guest and containerd's FIFOs.
//! - [`events`]: what containerd is told.
//! - [`stats`]: figures in the form that containerd knows.
//!
//! # Vocabulary
//! *Task*: containerd's word for a container that was created. *Sandbox task*: the first of a pod;
//! it has no process in the guest, it is the VM.

mod args;
mod bundle;
mod cgroup;
mod config;
mod delete;
mod events;
mod forward;
mod guest;
mod listener;
mod options;
mod pod;
mod process;
mod serve;
mod service;
mod size;
mod start;
mod stats;
mod streams;
mod task;
#[cfg(test)]
mod testing;

use std::process::ExitCode;

use crate::args::{Action, Args};

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args_os().skip(1)) {
        Ok(args) => args,
        Err(message) => {
            eprintln!("containerd-shim-podvmm-v2: {message}");
            return ExitCode::FAILURE;
        }
    };
    let done = match args.action {
        Action::Start => start::run(&args),
        Action::Delete => delete::run(&args),
        Action::CleanUp => {
            delete::finish(&args);
            Ok(())
        }
        Action::Serve => serve::run(&args),
        Action::Version => {
            println!("containerd-shim-podvmm-v2 {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        // What runtimes may tell about themselves; there is nothing to tell.
        Action::Info => Ok(()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("containerd-shim-podvmm-v2: {error:#}");
            ExitCode::FAILURE
        }
    }
}
