//! Standard input, output and error: binary-safe, apart, to the last byte.

use crate::harness::{Bench, Run};

/// Bytes without a pattern that a transport could hide behind, with every value in them.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// The checksum that both ends can make: busybox and coreutils print the same.
fn md5(bytes: &[u8]) -> String {
    let mut run = Run::new(std::process::Command::new("md5sum"));
    run = run.stdin(bytes);
    run.outcome().status(0).text()
}

fn interactive(bench: &Bench, script: &str) -> Run {
    bench.sh_with(["-i"], script)
}

#[test]
fn input_comes_back_through_cat() {
    let bench = Bench::new();
    interactive(&bench, "cat")
        .stdin("hi\n")
        .outcome()
        .prints("hi\n");
}

#[test]
fn the_end_of_input_reaches_the_command() {
    let bench = Bench::new();
    interactive(&bench, "cat >/dev/null; echo end")
        .outcome()
        .prints("end\n");
}

#[test]
fn without_i_there_is_no_input() {
    Bench::new()
        .sh("cat; echo end")
        .stdin("not for you")
        .outcome()
        .prints("end\n");
}

#[test]
fn output_and_errors_stay_apart() {
    let outcome = Bench::new()
        .sh("echo out; echo err >&2; echo out again; echo err again >&2")
        .outcome()
        .prints("out\nout again\n");
    assert_eq!(outcome.stderr, "err\nerr again\n");
}

#[test]
fn every_byte_value_survives_both_ways() {
    let bench = Bench::new();
    let bytes: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
    let outcome = interactive(&bench, "cat")
        .stdin(bytes.clone())
        .outcome()
        .status(0);
    assert_eq!(outcome.stdout, bytes);
}

#[test]
fn a_megabyte_survives_both_ways() {
    let bench = Bench::new();
    let bytes = noise(1 << 20);
    let outcome = interactive(&bench, "cat")
        .stdin(bytes.clone())
        .outcome()
        .status(0);
    assert!(
        outcome.stdout == bytes,
        "{} bytes came back",
        outcome.stdout.len()
    );
}

#[test]
fn input_of_16_mib_arrives_whole() {
    let bench = Bench::new();
    let bytes = noise(16 << 20);
    let sum = md5(&bytes);
    interactive(&bench, "md5sum")
        .stdin(bytes)
        .within(60)
        .outcome()
        .prints(&sum);
}

#[test]
fn output_of_64_mib_arrives_whole() {
    // The guest sends a file that it also sums up, so both ends know what it has to be.
    let script = "head -c 67108864 /dev/urandom >/tmp/x; md5sum </tmp/x >&2; cat /tmp/x";
    let outcome = Bench::new().sh(script).within(60).outcome().status(0);
    assert_eq!(outcome.stdout.len(), 64 << 20);
    assert_eq!(md5(&outcome.stdout), outcome.stderr);
}

#[test]
#[ignore = "1 GiB through an emulated machine takes minutes; run it on hardware: --ignored"]
fn output_of_1_gib_arrives_whole() {
    let script = "yes 0123456789abcdef | head -c 1073741824 | tee /dev/stderr 2>/dev/null";
    let outcome = Bench::new().sh(script).within(600).outcome().status(0);
    assert_eq!(outcome.stdout.len(), 1 << 30);
    let line = b"0123456789abcdef\n";
    assert!(
        outcome
            .stdout
            .chunks(line.len())
            .all(|chunk| line.starts_with(chunk))
    );
}

#[test]
fn output_is_there_before_the_end() {
    let bench = Bench::new();
    let mut running = interactive(&bench, "echo ready; read x; echo $x").start();
    running.wait_for("ready\n");
    running.wait();
}

#[test]
fn the_last_bytes_before_an_exit_arrive() {
    let bench = Bench::new();
    for _ in 0..2 {
        let outcome = bench
            .sh("head -c 300000 /dev/zero; exit 3")
            .outcome()
            .status(3);
        assert_eq!(outcome.stdout.len(), 300_000);
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_command() {
    let bench = Bench::new();
    let mut run = bench.sh("while echo y; do :; done; echo gone >&2");
    let words: Vec<_> = std::iter::once(run.command.get_program())
        .chain(run.command.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap().replace('\'', r"'\''")))
        .collect();
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", &format!("{} | head -n 1", words.join(" "))]);
    shell.env("PODVMM_GUEST_DIR", crate::harness::guest_dir());
    run.command = shell;
    run.outcome().prints("y\n");
}
