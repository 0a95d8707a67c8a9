//! `podvmm check`: what it says, how it ends, and that it agrees with `podvmm run`.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Bench, Outcome, Run, at_once, guest_dir, podvmm};
use crate::no_kvm::with_dev;
use crate::rootfs::TempDir;

fn check(args: &[&str]) -> Run {
    let mut command = Command::new(podvmm());
    command.arg("check").args(args);
    Run::new(command)
}

/// The same with a `/dev` that `prepare` makes.
fn check_with_dev(prepare: &str, dir: &TempDir, args: &[&str]) -> Run {
    fs::create_dir_all(dir.join("dev")).unwrap();
    let mut run = with_dev(prepare);
    run.command.arg(dir.join("dev"));
    run.command.arg(podvmm()).arg("check").args(args);
    run
}

fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.text()).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

/// The status of one check.
fn status<'v>(report: &'v Value, id: &str) -> &'v str {
    let checks = report["checks"].as_array().unwrap();
    let finding = checks.iter().find(|finding| finding["id"] == id);
    let finding = finding.unwrap_or_else(|| panic!("no {id} in {report}"));
    finding["status"].as_str().unwrap()
}

fn first_line(outcome: &Outcome) -> String {
    outcome.text().lines().next().unwrap_or_default().to_owned()
}

/// Arguments that cannot be, or a file that is in the way: nothing on standard output.
#[track_caller]
fn wrong(run: Run, words: &[&str]) {
    run.outcome().failed(2, words);
}

#[test]
fn where_pods_run_it_says_ready() {
    let _bench = Bench::new();
    let outcome = check(&[]).outcome().status(0);
    assert!(first_line(&outcome).starts_with("Ready"), "{outcome:?}");
    assert!(!outcome.text().contains("FAIL"), "{outcome:?}");
    assert!(outcome.stderr.is_empty(), "{outcome:?}");
    assert!(outcome.took < at_once(), "{:?}", outcome.took);
}

#[test]
fn json_is_for_programs() {
    let _bench = Bench::new();
    let outcome = check(&["--json"]).outcome().status(0);
    let report = json(&outcome);
    assert_eq!(report["schema_version"], 1);
    assert_eq!(report["verdict"], "ready");
    assert_eq!(report["for"], "cli");
    assert_eq!(report["root"], true);
    for figure in ["create_vm_us", "exit_us", "cpl0_mips", "cpl3_mips"] {
        let figure = report["probe"][figure].as_f64();
        assert!(figure.is_some_and(|figure| figure > 0.0), "{report}");
    }
    for id in [
        "cpu.virtualization",
        "kvm.device",
        "kvm.capabilities",
        "probe.run",
    ] {
        assert_eq!(status(&report, id), "pass", "{id}");
    }
}

#[test]
fn strict_counts_warnings() {
    let _bench = Bench::new();
    let report = json(&check(&["--json", "--for", "node"]).outcome());
    let warnings = report["checks"].as_array().unwrap().iter();
    let warnings = warnings
        .filter(|finding| finding["status"] == "warn")
        .count();
    let outcome = check(&["--json", "--for", "node", "--strict"]).outcome();
    assert_eq!(outcome.code, Some(i32::from(warnings > 0)), "{outcome:?}");
    let strict = json(&outcome);
    for finding in strict["checks"].as_array().unwrap() {
        assert_ne!(finding["status"], "warn", "{finding}");
    }
}

/// `check` and `run` say the same of a machine that does not do.
#[test]
fn it_agrees_with_run() {
    let (_bench, dir) = (Bench::new(), TempDir::new());
    for (prepare, id) in [
        (":", "kvm.device"),
        ("touch $DEV/kvm", "kvm.api"),
        ("mknod -m 666 $DEV/kvm c 10 77", "kvm.device"),
    ] {
        let outcome = check_with_dev(prepare, &dir, &["--json"])
            .outcome()
            .status(1);
        let report = json(&outcome);
        assert_eq!(report["verdict"], "not-ready");
        let failures = report["checks"].as_array().unwrap().iter();
        let first = failures.clone().find(|finding| finding["status"] == "fail");
        let first = first.unwrap_or_else(|| panic!("nothing failed: {report}"));
        assert_eq!(first["id"], id);
        let remedy = first["remedy"].as_str().unwrap();
        let mut run = with_dev(prepare);
        run.command.arg(dir.join("dev")).arg(podvmm());
        run.command.args(["run", "--rootfs", "/", "--", "true"]);
        let run = run.env("PODVMM_GUEST_DIR", guest_dir());
        run.outcome().failed(125, &[remedy, id]);
    }
}

#[test]
fn a_user_is_told_of_permissions_and_of_root() {
    let (_bench, dir) = (Bench::new(), TempDir::new());
    let program = dir.join("podvmm");
    fs::copy(podvmm(), &program).unwrap();
    let mut run = with_dev("mknod -m 600 $DEV/kvm c 10 232; chmod 755 $DEV");
    fs::create_dir(dir.join("dev")).unwrap();
    let script = format!("chmod 755 {}; exec \"$@\"", dir.path().display());
    run.command.arg(dir.join("dev"));
    run.command.args(["bash", "-c", &script, "bash"]);
    run.command.args([
        "setpriv",
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
    ]);
    run.command.arg(&program).args(["check", "--json"]);
    let outcome = run.outcome().status(1);
    let report = json(&outcome);
    assert_eq!(report["root"], false);
    assert_eq!(status(&report, "kvm.permission"), "fail");
    let headline = report["headline"].as_str().unwrap();
    assert!(headline.contains("permission denied"), "{headline}");
    assert!(headline.contains("chgrp kvm"), "{headline}");
}

#[test]
fn explain_tells_the_long_story() {
    let _bench = Bench::without_kvm();
    let outcome = check(&["--explain", "probe.speed"]).outcome().status(0);
    let text = outcome.text();
    for words in ["probe.speed", "found", "needed", "kernel mode is emulated"] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
}

#[test]
fn wrong_usage_is_told_apart_from_not_ready() {
    let (_bench, dir) = (Bench::without_kvm(), TempDir::new());
    wrong(check(&["--no-such-option"]), &["--no-such-option"]);
    wrong(check(&["--for", "fun"]), &["--for", "node"]);
    wrong(
        check(&["--explain", "nothing"]),
        &["--explain nothing", "no such check"],
    );
    wrong(check(&["--explain", "device"]), &["is it kvm.device"]);
    let there = dir.path().display().to_string();
    wrong(
        check(&["--record", &there]),
        &["--record", "exists already"],
    );
    wrong(
        check(&["--recorded", &there]),
        &["--recorded", "answers.json"],
    );
}

#[test]
fn a_recording_can_be_made_and_checked() {
    let (_bench, dir) = (Bench::new(), TempDir::new());
    let recording = dir.join("recording");
    let path = recording.display().to_string();
    let outcome = check(&["--record", &path]).outcome().status(0);
    assert!(outcome.stderr.contains("before you send it"), "{outcome:?}");
    let answers = fs::read_to_string(recording.join("answers.json")).unwrap();
    let answers: Value = serde_json::from_str(&answers).unwrap();
    assert_eq!(answers["kvm"]["api_version"], 12);
    assert!(recording.join("files/proc/cpuinfo").exists());
    let replayed = check(&["--recorded", &path, "--json"]).outcome().status(0);
    let ready = json(&replayed);
    assert_eq!(
        ready["probe"]["cpl0_mips"],
        answers["probe"]["measured"]["cpl0_mips"]
    );
}

/// Colour is for terminals, unless somebody does not want it.
#[test]
fn colour_is_for_terminals() {
    let _bench = Bench::new();
    let on_terminal = |environment: &str| {
        let script = format!("stty cols 80; {environment} {} check", podvmm().display());
        let mut command = Command::new("script");
        command
            .args(["-qec", &script, "/dev/null"])
            .env("TERM", "xterm");
        command.env_remove("NO_COLOR");
        Run::new(command).outcome().status(0).text()
    };
    let text = on_terminal("");
    assert!(text.contains("\x1b[32mReady\x1b[0m"), "{text}");
    for environment in ["NO_COLOR=1", "TERM=dumb"] {
        let text = on_terminal(environment);
        assert!(text.contains("Ready") && !text.contains('\x1b'), "{text}");
        for line in text.lines() {
            assert!(line.trim_end().chars().count() <= 80, "{line}");
        }
    }
    assert!(!check(&[]).outcome().text().contains('\x1b'));
}

/// Whoever reads only the first line does not make it an error.
#[test]
fn the_reader_may_go() {
    let _bench = Bench::new();
    let mut command = Command::new("bash");
    let script = format!(
        "set -o pipefail; {} check --json | head -c 1",
        podvmm().display()
    );
    command.args(["-c", &script]);
    Run::new(command).outcome().prints("{");
}

#[test]
#[ignore = "needs a KVM that emulates kernel mode; `make test` runs it on machines that have one"]
fn slow_kvm() {
    let _bench = Bench::without_kvm();
    let outcome = check(&[]).outcome().status(1);
    let first = first_line(&outcome);
    for words in [
        "Not ready: KVM is present but emulates kernel mode",
        "M instructions/s at CPL 0",
        "M at CPL 3",
        "run pods on hardware or on a VM with nested virtualization",
    ] {
        assert!(first.contains(words), "no {words:?} in {first}");
    }
    assert!(outcome.took < at_once(), "{:?}", outcome.took);
}
