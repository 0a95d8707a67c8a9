//! Give every pod its own virtual machine.

mod args;
mod check;
mod install;
mod manifest;
mod pumps;
mod run;
mod signals;
mod terminal;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Args, Command};

/// Status for podvmm's own failures, as docker and podman have it.
const OWN_FAILURE: u8 = 125;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            // `--help` and `--version` are no failures.
            return if !error.use_stderr() {
                ExitCode::SUCCESS
            } else if has_own_statuses() {
                check::WRONG.into()
            } else {
                OWN_FAILURE.into()
            };
        }
    };
    sandbox::logging::init("podvmm", args.log_level);
    let (outcome, status_of): (_, fn(&anyhow::Error) -> u8) = match args.command {
        Command::Run(run) => (run::run(*run), run::status_of),
        Command::Check(check) => (check::check(&check), |_| check::WRONG),
        Command::Install(args) => (install::install(&args), |_| install::WRONG),
        Command::Uninstall(args) => (install::uninstall(&args), |_| install::WRONG),
        Command::Manifest(command) => (manifest::run(&command), |_| check::WRONG),
    };
    match outcome {
        Ok(status) => status.into(),
        Err(error) => {
            eprintln!("podvmm: {error:#}");
            status_of(&error).into()
        }
    }
}

/// Whether arguments that make no sense were meant for a command that runs nothing in a pod: its
/// statuses are its own.
fn has_own_statuses() -> bool {
    let command = Args::command().ignore_errors(true);
    let matches = command.try_get_matches();
    matches.is_ok_and(|matches| {
        let name = matches.subcommand_name();
        name.is_some_and(|name| ["check", "install", "manifest", "uninstall"].contains(&name))
    })
}
