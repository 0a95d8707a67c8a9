//! Give every pod its own virtual machine.

mod about;
mod args;
mod check;
mod monitor;
mod pods;
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
            } else if is_check() {
                check::WRONG.into()
            } else {
                OWN_FAILURE.into()
            };
        }
    };
    sandbox::logging::init("podvmm", args.log_level);
    let root = args.root.as_deref();
    let outcome = match &args.command {
        Command::Check(check) => {
            return check::check(check).map_or_else(
                |error| {
                    eprintln!("podvmm: {error:#}");
                    check::WRONG.into()
                },
                ExitCode::from,
            );
        }
        Command::Run(args) => run::run(args, root),
        Command::Ps(args) => pods::ps::ps(args, root),
        Command::Exec(args) => pods::exec::exec(args, root),
        Command::Logs(args) => pods::logs::logs(args, root),
        Command::Stats(args) => pods::stats::stats(args, root),
        Command::Inspect(args) => pods::inspect::inspect(args, root),
        Command::Wait(args) => pods::steer::wait(args, root),
        Command::Stop(args) => pods::steer::stop(args, root),
        Command::Kill(args) => pods::steer::kill(args, root),
        Command::Rm(args) => pods::steer::rm(args, root),
        Command::Version(args) => about::version(args),
        Command::Completions(args) => about::completions(args),
        Command::Man(args) => about::man(args),
        Command::Monitor => monitor::monitor(),
    };
    match outcome {
        Ok(status) => status.into(),
        Err(error) => {
            eprintln!("podvmm: {error:#}");
            run::status_of(&error).into()
        }
    }
}

/// Whether arguments that make no sense were meant for `check`, which has exit statuses of its own.
fn is_check() -> bool {
    let command = Args::command().ignore_errors(true);
    let matches = command.try_get_matches();
    matches.is_ok_and(|matches| matches.subcommand_name() == Some("check"))
}
