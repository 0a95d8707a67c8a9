//! Give every pod its own virtual machine.

mod args;
mod pumps;
mod run;
mod signals;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Command};

/// Status for podvmm's own failures, as docker and podman have it.
const OWN_FAILURE: u8 = 125;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            // `--help` and `--version` are no failures.
            return if error.use_stderr() {
                OWN_FAILURE.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    sandbox::logging::init("podvmm", args.log_level);
    let Command::Run(run) = args.command;
    match run::run(*run) {
        Ok(status) => status.into(),
        Err(error) => {
            eprintln!("podvmm: {error:#}");
            run::status_of(&error).into()
        }
    }
}
