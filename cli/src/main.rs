//! Give every pod its own virtual machine.

mod about;
mod args;
mod check;
mod image;
mod install;
mod manifest;
mod monitor;
mod names;
mod pods;
mod pumps;
mod run;
mod signals;
mod terminal;

use std::process::ExitCode;

use crate::args::{Args, Command};

/// Status for podvmm's own failures, as docker and podman have it.
const OWN_FAILURE: u8 = 125;

fn main() -> ExitCode {
    let args = match Args::read(std::env::args_os()) {
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
    let own = |outcome| (outcome, run::status_of as fn(&anyhow::Error) -> u8);
    let (outcome, status_of): (_, fn(&anyhow::Error) -> u8) = match &args.command {
        Command::Check(check) => (check::check(check), |_| check::WRONG),
        Command::Install(args) => (install::install(args), |_| install::WRONG),
        Command::Uninstall(args) => (install::uninstall(args), |_| install::WRONG),
        Command::Manifest(command) => (manifest::run(command), |_| check::WRONG),
        Command::Run(args) => own(run::run(args, args.root.path())),
        Command::Image(args) => own(image::image(args)),
        Command::Ps(args) => own(pods::ps::ps(args, args.root.path())),
        Command::Exec(args) => own(pods::exec::exec(args, args.root.path())),
        Command::Attach(args) => own(pods::attach::attach(args, args.root.path())),
        Command::Cp(args) => own(pods::cp::cp(args, args.root.path())),
        Command::Logs(args) => own(pods::logs::logs(args, args.root.path())),
        Command::PortForward(args) => own(pods::port_forward::port_forward(args, args.root.path())),
        Command::Stats(args) => own(pods::stats::stats(args, args.root.path())),
        Command::Inspect(args) => own(pods::inspect::inspect(args, args.root.path())),
        Command::Wait(args) => own(pods::steer::wait(args, args.root.path())),
        Command::Stop(args) => own(pods::steer::stop(args, args.root.path())),
        Command::Update(args) => own(pods::update::update(args, args.root.path())),
        Command::Kill(args) => own(pods::steer::kill(args, args.root.path())),
        Command::Rm(args) => own(pods::steer::rm(args, args.root.path())),
        Command::Version(args) => own(about::version(args)),
        Command::Completions(args) => own(about::completions(args)),
        Command::Man(args) => own(about::man(args)),
        Command::Monitor => own(monitor::monitor()),
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
    let command = Args::command_line().ignore_errors(true);
    let matches = command.try_get_matches();
    matches.is_ok_and(|matches| {
        let name = matches.subcommand_name();
        name.is_some_and(|name| ["check", "install", "manifest", "uninstall"].contains(&name))
    })
}
