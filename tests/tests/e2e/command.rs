//! The command: its status, its machine and its surroundings.

use crate::harness::Bench;

#[test]
fn runs_under_a_kernel_of_its_own() {
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let outcome = Bench::new().sh("uname -r").outcome().status(0);
    assert!(
        outcome.text().trim_end().ends_with("-podvmm"),
        "{}",
        outcome.text()
    );
    assert_ne!(outcome.text(), host);
}

#[test]
fn has_the_cpus_and_the_memory_asked_for_and_hands_its_status_back() {
    let outcome = Bench::new()
        .sh_with(
            ["--cpus", "2", "--mem", "512M"],
            "nproc; grep MemTotal /proc/meminfo; exit 42",
        )
        .outcome()
        .status(42);
    let text = outcome.text();
    let words: Vec<_> = text.split_whitespace().collect();
    assert_eq!(words[..2], ["2", "MemTotal:"], "{text}");
    let kib: u64 = words[2].parse().unwrap();
    assert!(
        (440 << 10..=512 << 10).contains(&kib),
        "{kib} KiB of 512 MiB"
    );
}

#[test]
fn has_one_cpu_and_two_gib_by_default() {
    let outcome = Bench::new()
        .sh("nproc; grep MemTotal /proc/meminfo")
        .outcome()
        .status(0);
    let text = outcome.text();
    let words: Vec<_> = text.split_whitespace().collect();
    assert_eq!(words[0], "1", "{text}");
    let kib: u64 = words[2].parse().unwrap();
    assert!(
        (1900 << 10..=2048 << 10).contains(&kib),
        "{kib} KiB of 2 GiB"
    );
}

#[test]
fn memory_is_taken_in_binary_units_by_any_name() {
    let outcome = Bench::new()
        .sh_with(["--mem", "256Mi"], "grep MemTotal /proc/meminfo")
        .outcome()
        .status(0);
    let text = outcome.text();
    let kib: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((190 << 10..=256 << 10).contains(&kib), "{kib} KiB");
}

#[test]
fn statuses_come_through_podvmms_own_among_them() {
    let bench = Bench::new();
    for status in [1, 125, 255] {
        bench.sh(&format!("exit {status}")).outcome().status(status);
    }
}

/// A program of one instruction that user code may not execute.
fn crashing_program() -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    let (base, code) = (0x40_0000_u64, 120_u64);
    let half = |elf: &mut Vec<u8>, n: u16| elf.extend(n.to_le_bytes());
    let word = |elf: &mut Vec<u8>, n: u32| elf.extend(n.to_le_bytes());
    let long = |elf: &mut Vec<u8>, n: u64| elf.extend(n.to_le_bytes());
    half(&mut elf, 2); // executable
    half(&mut elf, 62); // x86-64
    word(&mut elf, 1);
    long(&mut elf, base + code); // entry
    long(&mut elf, 64); // program headers
    long(&mut elf, 0);
    word(&mut elf, 0);
    for n in [64, 56, 1, 0, 0, 0] {
        half(&mut elf, n);
    }
    word(&mut elf, 1); // a segment to load,
    word(&mut elf, 5); // to read and execute
    for n in [0, base, base, code + 1, code + 1, 0x1000] {
        long(&mut elf, n);
    }
    elf.push(0xf4); // hlt
    elf
}

#[test]
fn a_signal_that_ends_it_is_128_and_its_number() {
    use std::os::unix::fs::PermissionsExt;
    let dir = crate::rootfs::TempDir::new();
    let program = crate::harness::file(dir.path(), "crash", &crashing_program());
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let volume = format!("{}:/v:ro", dir.path().display());
    let bench = Bench::new();
    bench
        .sh_with(["--volume", &volume], "exec /v/crash")
        .outcome()
        .status(128 + 11);
}

#[test]
fn arguments_arrive_as_they_were_given() {
    let bench = Bench::new();
    let args = [
        "",
        "two words",
        "--name",
        "-x",
        "$HOME",
        "\"quoted\"",
        "new\nline",
        "ünï©ode",
    ];
    let script = r#"for a in "$@"; do printf '[%s]' "$a"; done"#;
    let mut run = bench.sh(script);
    run.command.arg("sh").args(args);
    let expected: String = args.iter().map(|arg| format!("[{arg}]")).collect();
    run.outcome().prints(&expected);
}

#[test]
fn environment_is_what_was_given_and_nothing_of_the_host() {
    let bench = Bench::new();
    let outcome = bench
        .sh_with(
            ["--env", "A=1", "--env", "B=two words=x", "--env", "EMPTY="],
            "env",
        )
        .env("SECRET_OF_THE_HOST", "1")
        .outcome()
        .status(0);
    let text = outcome.text();
    for line in ["A=1", "B=two words=x", "EMPTY="] {
        assert!(text.lines().any(|l| l == line), "no {line} in {text}");
    }
    assert!(
        text.lines().any(|line| line.starts_with("PATH=")),
        "no PATH in {text}"
    );
    assert!(!text.contains("SECRET_OF_THE_HOST"), "{text}");
}

#[test]
fn workdir_user_and_hostname_are_set() {
    let options = [
        "--workdir",
        "/home",
        "--user",
        "1234:4321",
        "--hostname",
        "some-name",
        "--env",
        "X=1",
    ];
    Bench::new()
        .sh_with(
            options,
            "pwd; id -u; id -g; hostname; cat /proc/sys/kernel/hostname",
        )
        .outcome()
        .prints("/home\n1234\n4321\nsome-name\nsome-name\n");
}

#[test]
fn runs_as_root_in_the_root_directory_by_default() {
    Bench::new()
        .sh("id -u; id -g; pwd")
        .outcome()
        .prints("0\n0\n/\n");
}

#[test]
fn finds_what_programs_expect() {
    let script = "
        [ -c /dev/null ] && [ -c /dev/zero ] && [ -c /dev/urandom ] && [ -c /dev/tty ] || echo dev
        [ -r /proc/self/status ] && [ -d /sys/kernel ] || echo proc or sys
        [ -L /dev/stdin ] && [ -L /dev/fd ] && [ -d /dev/pts ] && [ -d /dev/shm ] || echo links
        echo x >/dev/null && echo x >/dev/shm/x && echo x >/tmp/x && echo fine";
    Bench::new().sh(script).outcome().prints("fine\n");
}

#[test]
fn background_processes_end_with_it() {
    Bench::new()
        .sh("sleep 1000 & (sleep 1000 &) ; echo done")
        .outcome()
        .prints("done\n");
}

#[test]
fn needs_no_double_dash() {
    let bench = Bench::new();
    let mut run = bench.run(["--rootfs"]);
    run.command
        .arg(crate::rootfs::shared())
        .args(["echo", "-n", "plain"]);
    run.outcome().prints("plain");
}
