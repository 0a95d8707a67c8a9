//! Wrong arguments: one message that names the parameter, status 125 (126 and 127 for the command),
//! at once, and nothing left behind.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::harness::{Bench, Outcome, file};
use crate::rootfs::{self, TempDir};

fn with(bench: &Bench, option: &str, value: &str) -> Outcome {
    bench.sh_with([option, value], "true").outcome()
}

#[test]
fn memory_sizes_that_cannot_be() {
    let bench = Bench::new();
    for size in [
        "0",
        "1",
        "-1",
        "",
        "lots",
        "1.5G",
        "64T",
        "99999999999999999999G",
        "1K",
    ] {
        let option = format!("--mem={size}");
        bench
            .sh_with([option.as_str()], "true")
            .outcome()
            .refused(&["--mem"]);
    }
}

#[test]
fn cpu_counts_that_cannot_be() {
    let bench = Bench::new();
    for count in [
        "0",
        "10000",
        "-1",
        "1.5",
        "",
        "many",
        "99999999999999999999",
    ] {
        let option = format!("--cpus={count}");
        bench
            .sh_with([option.as_str()], "true")
            .outcome()
            .refused(&["--cpus"]);
    }
}

#[test]
fn roots_that_are_none() {
    let bench = Bench::new();
    let dir = TempDir::new();
    let regular = file(dir.path(), "file", b"");
    symlink("loop", dir.join("loop")).unwrap();
    for path in [dir.join("missing"), regular, dir.join("loop"), "".into()] {
        let mut run = bench.run(["--rootfs"]);
        run.command.arg(&path).args(["--", "true"]);
        run.outcome().refused(&["--rootfs", path.to_str().unwrap()]);
    }
}

#[test]
fn a_command_that_is_not_there_is_127() {
    let bench = Bench::new();
    for command in ["no-such-command", "/no/such/command", "/bin/no-such"] {
        let mut run = bench.run(["--rootfs"]);
        run.command.arg(rootfs::shared()).args(["--", command]);
        run.outcome().failed(127, &[command]);
    }
}

#[test]
fn a_command_in_an_empty_root_is_127() {
    let bench = Bench::new();
    let empty = TempDir::new();
    let mut run = bench.run(["--rootfs"]);
    run.command.arg(empty.path()).args(["--", "sh"]);
    run.outcome().failed(127, &["sh"]);
}

#[test]
fn a_command_that_cannot_be_run_is_126() {
    let bench = Bench::new();
    let root = rootfs::busybox();
    file(root.path(), "plain", b"#!/bin/sh\n");
    let garbage = file(root.path(), "garbage", b"\x00\x01\x02\x03");
    fs::set_permissions(garbage, fs::Permissions::from_mode(0o755)).unwrap();
    for command in ["/plain", "/etc", "/garbage"] {
        let mut run = bench.run(["--rootfs"]);
        run.command.arg(root.path()).args(["--", command]);
        run.outcome().failed(126, &[command]);
    }
}

#[test]
fn a_command_behind_a_link_loop_is_an_error_of_the_command() {
    let bench = Bench::new();
    let root = rootfs::busybox();
    symlink("b", root.join("a")).unwrap();
    symlink("a", root.join("b")).unwrap();
    let mut run = bench.run(["--rootfs"]);
    run.command.arg(root.path()).args(["--", "/a"]);
    let outcome = run.outcome();
    assert!(matches!(outcome.code, Some(126 | 127)), "{outcome:?}");
    assert!(outcome.stderr.contains("/a"), "{outcome:?}");
}

#[test]
fn no_command_at_all() {
    let bench = Bench::new();
    let mut run = bench.run(["--rootfs"]);
    run.command.arg(rootfs::shared());
    run.outcome().refused(&["COMMAND"]);
}

#[test]
fn volumes_that_cannot_be() {
    let bench = Bench::new();
    for volume in [
        "/no-such-dir:/v",
        "/tmp",
        "/tmp:relative",
        "/tmp:/v:rx",
        ":/v",
        "/tmp:",
        "::",
    ] {
        let source = volume.split(':').next().unwrap_or_default();
        with(&bench, "--volume", volume).refused(&["--volume", source]);
    }
}

#[test]
fn names_that_cannot_be() {
    let bench = Bench::new();
    let long = "x".repeat(300);
    for name in ["", "a/b", "..", ".", "/etc", "a b", "a\nb", &long] {
        bench
            .sh_with([format!("--name={name}")], "true")
            .outcome()
            .refused(&["--name"]);
        bench
            .sh_with([format!("--hostname={name}")], "true")
            .outcome()
            .refused(&["--hostname"]);
    }
}

#[test]
fn users_environments_and_durations_that_cannot_be() {
    let bench = Bench::new();
    for user in [
        "",
        "-1",
        "1:",
        ":1",
        "no-such-user-here",
        "99999999999",
        "1:2:3",
    ] {
        bench
            .sh_with([format!("--user={user}")], "true")
            .outcome()
            .refused(&["--user"]);
    }
    for variable in ["", "=x"] {
        bench
            .sh_with([format!("--env={variable}")], "true")
            .outcome()
            .refused(&["--env"]);
    }
    for duration in ["", "0s", "-1s", "soon", "1 parsec", "99999999999999999999h"] {
        bench
            .sh_with([format!("--timeout={duration}")], "true")
            .outcome()
            .refused(&["--timeout"]);
    }
}

#[test]
fn a_workdir_that_is_not_absolute() {
    with(&Bench::new(), "--workdir", "relative").refused(&["--workdir", "relative"]);
}

#[test]
fn a_console_that_cannot_be_written() {
    let bench = Bench::new();
    with(&bench, "--console", "/no-such-dir/console").refused(&["--console", "/no-such-dir"]);
    with(&bench, "--console", "/tmp").refused(&["--console", "/tmp"]);
}

#[test]
fn an_option_that_is_none() {
    with(&Bench::new(), "--no-such-option", "x").refused(&["--no-such-option"]);
}

#[test]
fn a_terminal_where_there_is_none() {
    // Standard input is a pipe here.
    let outcome = Bench::new().sh_with(["-i", "-t"], "tty").outcome();
    if outcome.code != Some(0) {
        outcome.refused(&["-t"]);
    }
}
