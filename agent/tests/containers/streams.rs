//! Standard streams and terminals.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use agent_protocol::client;
use agent_protocol::proto::stream_open::Stream;
use agent_protocol::proto::{CloseStdinRequest, ResizePtyRequest, StreamOpen};

use crate::Case;
use crate::config::Config;
use crate::pod::{PATIENCE, Pod, collect, context};

pub const CASES: &[Case] = &[
    (
        "streams_are_separate_and_binary",
        streams_are_separate_and_binary,
    ),
    (
        "input_reaches_the_command_and_ends",
        input_reaches_the_command_and_ends,
    ),
    (
        "a_lot_of_output_arrives_intact",
        a_lot_of_output_arrives_intact,
    ),
    (
        "a_background_process_keeps_a_stream_open",
        a_background_process_keeps_a_stream_open,
    ),
    ("closing_stdin_by_call", closing_stdin_by_call),
    ("a_terminal_works", a_terminal_works),
    (
        "streams_without_a_reason_are_refused",
        streams_without_a_reason_are_refused,
    ),
    (
        "a_users_own_stdout_can_be_reopened",
        a_users_own_stdout_can_be_reopened,
    ),
];

fn streams_are_separate_and_binary(pod: &Pod) {
    let config = Config::script(r"printf 'a\000\377\n'; printf 'e\001' >&2; exit 3");
    let ended = pod.run("b", &config, b"");
    assert_eq!(ended.stdout, b"a\0\xff\n");
    assert_eq!(ended.stderr, b"e\x01");
    assert_eq!(ended.status.exit_code(), 3);
}

fn input_reaches_the_command_and_ends(pod: &Pod) {
    let input: Vec<u8> = (0..3_000_000u32).map(|i| (i ^ (i >> 9)) as u8).collect();
    let ended = pod.run("cat", &Config::command(&["cat"]).with_stdin(), &input);
    assert!(
        ended.stdout == input,
        "{} bytes of {}",
        ended.stdout.len(),
        input.len()
    );
    let ended = pod.run("early", &Config::script("exit 5").with_stdin(), &input);
    assert_eq!(ended.status.exit_code(), 5);
    assert_eq!(pod.run("none", &Config::command(&["cat"]), b"").stdout, b"");
}

fn a_lot_of_output_arrives_intact(pod: &Pod) {
    const LINES: usize = 1_500_000;
    let ended = pod.run("seq", &Config::command(&["seq", &LINES.to_string()]), b"");
    assert_eq!(ended.status.exit_code(), 0);
    let mut expected = String::with_capacity(ended.stdout.len());
    for line in 1..=LINES {
        writeln!(expected, "{line}").unwrap();
    }
    assert!(
        ended.stdout == expected.as_bytes(),
        "{} bytes of {}",
        ended.stdout.len(),
        expected.len()
    );
}

fn a_background_process_keeps_a_stream_open(pod: &Pod) {
    // The first process waits, so that its end does not take the other along.
    let script = "(sleep 0.4; echo late) 2>/dev/null & exec 1>/dev/null; wait; exit 0";
    let ended = pod.run("bg", &Config::script(script), b"");
    assert_eq!(ended.stdout_text(), "late\n");
}

fn closing_stdin_by_call(pod: &Pod) {
    pod.create("c", &Config::command(&["cat"]).with_stdin())
        .unwrap();
    let mut stdin = pod.attach("c", Stream::STDIN);
    let stdout = collect(pod.attach("c", Stream::STDOUT));
    drop(pod.attach("c", Stream::STDERR));
    assert_eq!(pod.begin("c"), None);
    stdin.write_all(b"before").unwrap();
    let request = CloseStdinRequest {
        container_id: "c".to_owned(),
        ..Default::default()
    };
    pod.client.close_stdin(context(), &request).unwrap();
    assert_eq!(stdout.join().unwrap(), b"before");
    assert_eq!(pod.wait("c").exit_code(), 0);
    assert_eq!(stdin.read(&mut [0]).unwrap(), 0);
}

fn a_terminal_works(pod: &Pod) {
    let script = "tty; stty size; read x; stty size; echo got $x; cat >/dev/null; echo end";
    pod.create("t", &Config::script(script).with_tty()).unwrap();
    let mut pty = pod.attach("t", Stream::PTY);
    pty.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(pod.begin("t"), None);
    let mut seen = String::new();
    read_until(&mut pty, &mut seen, "24 80");
    assert!(
        seen.contains("/dev/pts/0") || seen.contains("/dev/console"),
        "{seen}"
    );
    let resize = ResizePtyRequest {
        container_id: "t".to_owned(),
        rows: 50,
        cols: 132,
        ..Default::default()
    };
    pod.client.resize_pty(context(), &resize).unwrap();
    pty.write_all(b"word\n").unwrap();
    read_until(&mut pty, &mut seen, "50 132");
    read_until(&mut pty, &mut seen, "got word");
    pty.shutdown(Shutdown::Write).unwrap();
    pty.read_to_string(&mut seen).unwrap();
    assert!(seen.trim_end().ends_with("end"), "{seen}");
    assert_eq!(pod.wait("t").exit_code(), 0);
}

fn read_until(stream: &mut impl Read, seen: &mut String, wanted: &str) {
    let mut bytes = [0; 256];
    while !seen.contains(wanted) {
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "ended without {wanted:?}: {seen}");
        seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
}

fn streams_without_a_reason_are_refused(pod: &Pod) {
    let open = |id: &str, stream: Stream| {
        let request = StreamOpen {
            container_id: id.to_owned(),
            stream: stream.into(),
            ..Default::default()
        };
        client::open_stream(&mut pod.stream_connection(), &request)
    };
    assert!(open("nobody", Stream::STDOUT).is_err());
    pod.create("c", &Config::script("true")).unwrap();
    assert!(open("c", Stream::STDIN).is_err(), "was not asked for");
    assert!(open("c", Stream::PTY).is_err(), "has no terminal");
    let _first = pod.attach("c", Stream::STDOUT);
    assert!(open("c", Stream::STDOUT).is_err(), "twice");
    // Nonsense is hung up on.
    let mut connection = pod.stream_connection();
    connection
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    connection.write_all(&[0xff; 64]).unwrap();
    assert!(matches!(connection.read(&mut [0]), Ok(0) | Err(_)));
}

fn a_users_own_stdout_can_be_reopened(pod: &Pod) {
    let mut config = Config::script("echo one > /dev/stdout; echo two > /dev/stderr");
    config.spec["process"]["user"] = serde_json::json!({"uid": 1234, "gid": 1234});
    let ended = pod.run("u", &config, b"");
    assert_eq!(
        (ended.stdout_text(), ended.stderr_text()),
        ("one\n".into(), "two\n".into())
    );
}
