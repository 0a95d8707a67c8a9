//! Processes and their streams asked for in one breath.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use agent_protocol::client::{OpenStreamError, await_opened};
use agent_protocol::frame::write_message;
use agent_protocol::proto::stream_open::Stream;
use agent_protocol::proto::{
    CreateContainerRequest, ExecProcessRequest, ListProcessesRequest, Rootfs, RunProcessResponse,
    Stdio, StreamOpen, WaitContainerRequest, start_error,
};
use serde_json::{Value, json};
use ttrpc::Code;

use crate::Case;
use crate::config::Config;
use crate::exec::{self, process, remove, script, sleeper};
use crate::pod::{PATIENCE, Pod, code, collect, context};

pub const CASES: &[Case] = &[
    (
        "a_command_runs_when_all_was_said_at_once",
        a_command_runs_when_all_was_said_at_once,
    ),
    (
        "a_command_runs_when_its_streams_come",
        a_command_runs_when_its_streams_come,
    ),
    (
        "a_terminal_may_be_opened_early",
        a_terminal_may_be_opened_early,
    ),
    (
        "a_containers_streams_may_be_opened_early",
        a_containers_streams_may_be_opened_early,
    ),
    (
        "streams_of_what_cannot_be_made_are_refused",
        streams_of_what_cannot_be_made_are_refused,
    ),
    (
        "a_command_that_does_not_run_leaves_nothing",
        a_command_that_does_not_run_leaves_nothing,
    ),
    (
        "one_that_waits_for_its_streams_may_be_removed",
        one_that_waits_for_its_streams_may_be_removed,
    ),
    (
        "what_has_no_counterpart_does_not_stay",
        what_has_no_counterpart_does_not_stay,
    ),
];

/// Most streams that may wait, and how long (`agent/src/early.rs`).
const MAX_STREAMS: usize = 256;
const AGENTS_PATIENCE: Duration = Duration::from_secs(10);

/// Asks for a stream, and does not wait for it.
fn ask(pod: &Pod, ticket: u64, stream: Stream) -> UnixStream {
    let mut connection = pod.stream_connection();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let open = StreamOpen {
        stream: stream.into(),
        ticket,
        ..Default::default()
    };
    write_message(&mut connection, &open).unwrap();
    connection
}

fn opened(mut connection: UnixStream) -> UnixStream {
    await_opened(&mut connection).unwrap();
    connection
}

fn refusal(mut connection: UnixStream) -> String {
    match await_opened(&mut connection) {
        Err(OpenStreamError::Refused { reason }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

fn request(ticket: u64, exec_id: &str, process: &Value, stdin: bool) -> ExecProcessRequest {
    exec::request(ticket, "c", exec_id, process, stdin)
}

/// A call that goes on by itself.
fn run_later(
    pod: &Pod,
    request: ExecProcessRequest,
) -> thread::JoinHandle<ttrpc::Result<RunProcessResponse>> {
    let client = pod.client.clone();
    thread::spawn(move || client.run_process(context(), &request))
}

/// Waits until the container has as many processes as this.
fn await_processes(pod: &Pod, count: usize) {
    let list = ListProcessesRequest {
        container_id: "c".to_owned(),
        ..Default::default()
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = pod.client.list_processes(context(), &list).unwrap();
        if seen.processes.len() == count {
            return;
        }
        assert!(Instant::now() < deadline, "{seen:?}");
    }
}

/// What is told of a process's end, of which nothing is left then.
fn wait_and_forget(pod: &Pod, exec_id: &str) -> u32 {
    let request = WaitContainerRequest {
        container_id: "c".to_owned(),
        exec_id: exec_id.to_owned(),
        forget: true,
        ..Default::default()
    };
    let response = pod.client.wait_container(context(), &request).unwrap();
    assert_eq!(
        code(pod.client.wait_container(context(), &request)),
        Code::NOT_FOUND
    );
    response.status.unwrap().exit_code()
}

fn a_command_runs_when_all_was_said_at_once(pod: &Pod) {
    sleeper(pod, "c");
    // Nothing of what the agent answers is looked at before the command has run.
    let [mut stdin, mut stdout, mut stderr] =
        [Stream::STDIN, Stream::STDOUT, Stream::STDERR].map(|stream| ask(pod, 7, stream));
    stdin.write_all(b"word\n").unwrap();
    stdin.shutdown(Shutdown::Write).unwrap();
    let command = script("read x; echo got $x; echo too >&2; exit 3");
    let answer = run_later(pod, request(7, "e", &command, true));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    stdout.read_to_end(&mut out).unwrap();
    stderr.read_to_end(&mut err).unwrap();
    // An answer without an error is a frame of length 0.
    assert_eq!(out, b"\0\0\0\0got word\n");
    assert_eq!(err, b"\0\0\0\0too\n");
    let answer = answer.join().unwrap().unwrap();
    assert!(
        answer.start_error.is_none() && answer.pid != 0,
        "{answer:?}"
    );
    assert_eq!(wait_and_forget(pod, "e"), 3);
}

fn a_command_runs_when_its_streams_come(pod: &Pod) {
    sleeper(pod, "c");
    let request = request(7, "e", &script("cat; sleep 0.1"), true);
    let answer = run_later(pod, request);
    // The one that stays, and one that waits.
    await_processes(pod, 2);
    let stdout = ask(pod, 7, Stream::STDOUT);
    let stderr = ask(pod, 7, Stream::STDERR);
    // It is ready, so that each is given as it comes.
    let (stdout, stderr) = (collect(opened(stdout)), collect(opened(stderr)));
    assert!(!answer.is_finished(), "it ran without its input");
    let mut stdin = opened(ask(pod, 7, Stream::STDIN));
    assert!(answer.join().unwrap().unwrap().start_error.is_none());
    // Asked for its end before that has come.
    let name = "e".to_owned();
    thread::scope(|scope| {
        let end = scope.spawn(|| wait_and_forget(pod, &name));
        stdin.write_all(b"in").unwrap();
        stdin.shutdown(Shutdown::Write).unwrap();
        assert_eq!(end.join().unwrap(), 0);
    });
    assert_eq!(stdout.join().unwrap(), b"in");
    assert_eq!(stderr.join().unwrap(), b"");
}

fn a_terminal_may_be_opened_early(pod: &Pod) {
    sleeper(pod, "c");
    let terminal = ask(pod, 7, Stream::PTY);
    let mut command = script("tty; exit 4");
    command["terminal"] = json!(true);
    let answer = pod
        .client
        .run_process(context(), &request(7, "e", &command, false));
    assert!(answer.unwrap().start_error.is_none());
    let mut seen = String::new();
    opened(terminal).read_to_string(&mut seen).unwrap();
    assert!(seen.starts_with("/dev/pts/"), "{seen}");
    assert_eq!(wait_and_forget(pod, "e"), 4);
}

fn a_containers_streams_may_be_opened_early(pod: &Pod) {
    let config = Config::script("echo out; echo err >&2");
    let streams = [Stream::STDOUT, Stream::STDERR].map(|stream| ask(pod, 9, stream));
    let request = CreateContainerRequest {
        container_id: "c".to_owned(),
        oci_spec_json: config.spec.to_string().into_bytes(),
        rootfs: Some(Rootfs {
            path: config.rootfs.clone(),
            mode: config.mode.into(),
            ..Default::default()
        })
        .into(),
        stdio: Some(Stdio {
            stdout: true,
            stderr: true,
            ticket: 9,
            ..Default::default()
        })
        .into(),
        ..Default::default()
    };
    pod.client.create_container(context(), &request).unwrap();
    let [out, err] = streams.map(|stream| collect(opened(stream)));
    assert_eq!(pod.begin("c"), None);
    assert_eq!(pod.wait("c").exit_code(), 0);
    assert_eq!(out.join().unwrap(), b"out\n");
    assert_eq!(err.join().unwrap(), b"err\n");
    // A number that has served names nothing any more, so another's stream waits.
    let other = ask(pod, 9, Stream::STDOUT);
    other
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    assert!((&other).read(&mut [0]).is_err(), "the stream of a stranger");
    let forget_a_container = WaitContainerRequest {
        container_id: "c".to_owned(),
        forget: true,
        ..Default::default()
    };
    let refused = pod.client.wait_container(context(), &forget_a_container);
    assert_eq!(code(refused), Code::INVALID_ARGUMENT);
}

fn streams_of_what_cannot_be_made_are_refused(pod: &Pod) {
    sleeper(pod, "c");
    let mut lost = script("true");
    lost["cwd"] = json!("/not/there");
    let mut wrong = script("true");
    wrong["cwd"] = json!("relative");
    // Each number serves once.
    let mut number = 0;
    for (command, wanted) in [
        (&lost, Code::INTERNAL),
        (&wrong, Code::INVALID_ARGUMENT),
        (&json!(1), Code::INVALID_ARGUMENT),
    ] {
        for runs in [true, false] {
            number += 2;
            let [mine, others] =
                [number, number + 1].map(|ticket| ask(pod, ticket, Stream::STDOUT));
            let request = request(number, "e", command, false);
            let refused = match runs {
                true => pod.client.run_process(context(), &request).map(drop),
                false => pod.client.exec_process(context(), &request).map(drop),
            };
            assert_eq!(code(refused), wanted, "{command}");
            assert!(!refusal(mine).is_empty());
            // Nor if they come later, and nobody else's.
            assert!(!refusal(ask(pod, number, Stream::STDERR)).is_empty());
            let stderr = ask(pod, number + 1, Stream::STDERR);
            let other = self::request(number + 1, "o", &process(&["echo", "x"]), false);
            pod.client.run_process(context(), &other).unwrap();
            assert_eq!(collect(opened(others)).join().unwrap(), b"x\n");
            drop(opened(stderr));
            assert_eq!(wait_and_forget(pod, "o"), 0);
        }
    }
}

fn a_command_that_does_not_run_leaves_nothing(pod: &Pod) {
    sleeper(pod, "c");
    for (ticket, command, kind) in [
        (7, "/no/such", start_error::Kind::COMMAND_NOT_FOUND),
        (8, "/etc/passwd", start_error::Kind::COMMAND_NOT_EXECUTABLE),
    ] {
        let streams = [Stream::STDOUT, Stream::STDERR].map(|stream| ask(pod, ticket, stream));
        let request = request(ticket, "e", &process(&[command]), false);
        let response = pod.client.run_process(context(), &request).unwrap();
        assert_eq!(response.start_error.unwrap().kind, kind.into(), "{command}");
        for stream in streams {
            assert_eq!(collect(opened(stream)).join().unwrap(), b"");
        }
        assert_eq!(code(remove(pod, "c", "e", true)), Code::NOT_FOUND);
    }
    await_processes(pod, 1);
}

fn one_that_waits_for_its_streams_may_be_removed(pod: &Pod) {
    sleeper(pod, "c");
    let answer = run_later(pod, request(7, "e", &script("true"), false));
    await_processes(pod, 2);
    remove(pod, "c", "e", true).unwrap();
    assert_eq!(code(answer.join().unwrap()), Code::INTERNAL);
    await_processes(pod, 1);
}

fn what_has_no_counterpart_does_not_stay(pod: &Pod) {
    sleeper(pod, "c");
    let descriptors = || {
        let path = format!("/proc/{}/fd", pod.agent_pid());
        fs::read_dir(path).unwrap().count()
    };
    let before = descriptors();
    let start = Instant::now();
    let answer = run_later(pod, request(7, "e", &script("true"), false));
    let streams: Vec<UnixStream> = (0..MAX_STREAMS as u64)
        .map(|number| ask(pod, 1000 + number, Stream::STDOUT))
        .collect();
    assert!(refusal(ask(pod, 8, Stream::STDOUT)).contains("256 streams"));
    assert!(start.elapsed() < AGENTS_PATIENCE, "too slow to tell");
    for stream in streams {
        assert!(refusal(stream).contains("nobody has asked"));
    }
    assert!(start.elapsed() >= AGENTS_PATIENCE);
    assert_eq!(code(answer.join().unwrap()), Code::INTERNAL);
    assert!(start.elapsed() < AGENTS_PATIENCE + PATIENCE / 2);
    assert_eq!(code(remove(pod, "c", "e", true)), Code::NOT_FOUND);
    let deadline = Instant::now() + PATIENCE;
    while descriptors() != before {
        assert!(Instant::now() < deadline, "{} of {before}", descriptors());
        thread::sleep(Duration::from_millis(5));
    }
}
