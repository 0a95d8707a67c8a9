//! Runs the agent for real, without a guest: as PID 1 of its own namespaces, over Unix sockets, with the
//! machine's own root directory as the containers' image. Needs root and a cgroup2 mount; where these are
//! missing the cases are skipped, and say so.
//!
//! It has a `main` of its own because the agent must be alone in a process with one thread.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of this is a test

mod agent;
mod config;
mod control;
mod early;
mod exec;
mod files;
mod hostile;
mod kubernetes;
mod lifecycle;
mod limits;
mod localhost;
mod network;
mod pod;
mod process;
mod seccomp;
mod shared_pids;
mod streams;
mod volumes;

use std::panic;
use std::process::ExitCode;
use std::time::Instant;

/// A case: name and what to do with a fresh pod.
type Case = (&'static str, fn(&pod::Pod));

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    if podvmm_agent::archive::is_meant(&arguments) {
        let status = podvmm_agent::archive::main(&arguments);
        return u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, directory] = arguments.as_slice()
        && mode == agent::AGENT_MODE
    {
        return agent::run(directory.as_ref());
    }
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let cases: Vec<Case> = [
        lifecycle::CASES,
        streams::CASES,
        process::CASES,
        seccomp::CASES,
        shared_pids::CASES,
        early::CASES,
        exec::CASES,
        control::CASES,
        control::CPU_CASES,
        files::CASES,
        hostile::CASES,
        kubernetes::CASES,
        kubernetes::LIMITED_CASES,
        limits::CASES,
        localhost::CASES,
        network::CASES,
        volumes::CASES,
    ]
    .concat()
    .into_iter()
    .filter(|(name, _)| {
        filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
    })
    .collect();
    if arguments.iter().any(|argument| argument == "--list") {
        cases.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", cases.len());
    if let Some(reason) = pod::missing() {
        for (name, _) in &cases {
            println!("test {name} ... skipped: {reason}");
        }
        println!(
            "\ntest result: skipped. 0 passed; 0 failed; {} skipped\n",
            cases.len()
        );
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let needs = [
        (
            limits::CASES,
            pod::missing_controllers(&limits::CONTROLLERS),
        ),
        (
            kubernetes::LIMITED_CASES,
            pod::missing_controllers(&limits::CONTROLLERS),
        ),
        (network::CASES, network::missing()),
        (control::CPU_CASES, control::missing_cpus()),
    ];
    for case in &cases {
        let is_in = |group: &[Case]| group.iter().any(|(name, _)| *name == case.0);
        match needs.iter().find(|(group, _)| is_in(group)) {
            Some((_, Some(reason))) => {
                println!("test {} ... skipped: {reason}", case.0);
                skipped += 1;
            }
            _ if run(case) => passed += 1,
            _ => failed += 1,
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed; {skipped} skipped\n");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run((name, case): &Case) -> bool {
    let start = Instant::now();
    // The process goes on after a failed case only in profiles that unwind; others stop at the first.
    let passed = panic::catch_unwind(|| {
        let pod = pod::Pod::start();
        case(&pod);
        pod.finish();
    })
    .is_ok();
    let word = if passed { "ok" } else { "FAILED" };
    println!(
        "test {name} ... {word} ({} ms)",
        start.elapsed().as_millis()
    );
    passed
}
