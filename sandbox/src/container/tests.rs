//! Against an agent that says nothing before it has heard what it waits for.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use agent_protocol::client::OpenStreamError;
use agent_protocol::frame::{decode_message, read_message, write_message};
use agent_protocol::proto::stream_open::Stream;
use agent_protocol::proto::{
    ExecProcessRequest, ExecProcessResponse, RemoveContainerRequest, RemoveContainerResponse,
    RunProcessResponse, StartContainerResponse, StartError, StreamOpen, StreamOpened, start_error,
};
use ttrpc::MessageHeader;

use super::*;

/// Nothing here takes time, unless somebody waits for what does not come.
const PATIENCE: Duration = Duration::from_secs(10);
const HEADER_LEN: usize = 10;

/// A message without its frame.
macro_rules! bytes {
    ($message:expr) => {{
        let mut frame = Vec::new();
        write_message(&mut frame, $message).unwrap();
        frame.split_off(4)
    }};
}

/// The guest's side of the Unix socket.
struct FakeGuest {
    listener: UnixListener,
    control: UnixStream,
}

/// A call that waits for its answer.
struct Call {
    stream: u32,
    request: ttrpc::Request,
}

impl FakeGuest {
    /// Takes the control connection.
    fn new(listener: UnixListener) -> Self {
        let mut control = accept(&listener);
        assert_eq!(line(&mut control), "CONNECT 1024\n");
        control.write_all(b"OK 1\n").unwrap();
        Self { listener, control }
    }

    fn accept(&self) -> UnixStream {
        accept(&self.listener)
    }

    fn call(&mut self, method: &str) -> Call {
        let mut header = [0; HEADER_LEN];
        self.control.read_exact(&mut header).unwrap();
        let header = MessageHeader::from(&header[..]);
        let mut body = vec![0; header.length as usize];
        self.control.read_exact(&mut body).unwrap();
        let request: ttrpc::Request = decode_message(&body).unwrap();
        assert_eq!(request.method, method);
        Call {
            stream: header.stream_id,
            request,
        }
    }

    fn answer(&mut self, call: &Call, payload: Vec<u8>) {
        self.respond(
            call,
            &ttrpc::Response {
                payload,
                ..Default::default()
            },
        );
    }

    fn refuse(&mut self, call: &Call, message: &str) {
        let mut response = ttrpc::Response::new();
        response.set_status(ttrpc::get_status(
            ttrpc::Code::FAILED_PRECONDITION,
            message.to_owned(),
        ));
        self.respond(call, &response);
    }

    fn respond(&mut self, call: &Call, response: &ttrpc::Response) {
        let body = bytes!(response);
        let header = MessageHeader {
            length: body.len() as u32,
            stream_id: call.stream,
            type_: ttrpc::proto::MESSAGE_TYPE_RESPONSE,
            flags: 0,
        };
        self.control.write_all(&Vec::from(header)).unwrap();
        self.control.write_all(&body).unwrap();
    }
}

fn accept(listener: &UnixListener) -> UnixStream {
    listener.set_nonblocking(true).unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            return stream;
        }
        assert!(Instant::now() < until, "the host does not connect");
        thread::yield_now();
    }
}

fn line(stream: &mut UnixStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\n") {
        stream.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// Plays `guest` for what `host` does with it.
fn play<T: Send + 'static>(
    guest: impl FnOnce(FakeGuest) -> T + Send + 'static,
    host: impl FnOnce(Guest),
) -> T {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("podvmm-guest-{}-{number}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let agent: JoinHandle<T> = thread::spawn(move || guest(FakeGuest::new(listener)));
    host(Guest::dial(path.clone()).unwrap());
    let outcome = agent.join().unwrap();
    let _ = std::fs::remove_file(&path);
    outcome
}

/// Accepts `count` streams, of which none is answered before the host has asked for all.
fn connect_together(guest: &FakeGuest, count: usize) -> Vec<UnixStream> {
    let mut streams: Vec<UnixStream> = (0..count).map(|_| guest.accept()).collect();
    for stream in &mut streams {
        assert_eq!(line(stream), "CONNECT 1025\n");
    }
    for stream in &mut streams {
        stream.write_all(b"OK 2\n").unwrap();
    }
    streams
}

fn opening(stream: &mut UnixStream) -> StreamOpen {
    read_message(stream).unwrap().unwrap()
}

fn open(stream: &mut UnixStream) {
    write_message(stream, &StreamOpened::new()).unwrap();
}

const ALL: [Stream; 3] = [Stream::STDIN, Stream::STDOUT, Stream::STDERR];

#[test]
fn a_command_runs_after_two_round_trips() {
    let guest = |mut guest: FakeGuest| {
        // The first: connections.
        let mut streams = connect_together(&guest, 3);
        // The second: everything else.
        let openings: Vec<StreamOpen> = streams.iter_mut().map(opening).collect();
        let call = guest.call("RunProcess");
        let request: ExecProcessRequest = decode_message(&call.request.payload).unwrap();
        let asked: Vec<Stream> = openings
            .iter()
            .map(|opening| opening.stream.enum_value_or_default())
            .collect();
        assert_eq!(asked, ALL);
        let ticket = request.stdio.ticket;
        assert_ne!(ticket, 0);
        assert!(openings.iter().all(|opening| opening.ticket == ticket));
        guest.answer(&call, bytes!(&RunProcessResponse::new()));
        streams.iter_mut().for_each(open);
        // The command runs.
        let [mut stdin, mut stdout, mut stderr] = <[UnixStream; 3]>::try_from(streams).unwrap();
        stdout.write_all(b"out").unwrap();
        stderr.write_all(b"err").unwrap();
        let mut input = String::new();
        stdin.read_to_string(&mut input).unwrap();
        input
    };
    let input = play(guest, |guest| {
        let container = ContainerHandle::new(&guest, "c");
        let mut process = container.run("e", b"{}", Stdio::pipes(true)).unwrap();
        for (stream, wanted) in [(&mut process.stdout, b"out"), (&mut process.stderr, b"err")] {
            let mut seen = [0; 3];
            stream.as_mut().unwrap().read_exact(&mut seen).unwrap();
            assert_eq!(&seen, wanted);
        }
        process.stdin.take().unwrap().write_all(b"in").unwrap();
    });
    assert_eq!(input, "in");
}

#[test]
fn one_that_is_started_later_has_its_streams_together() {
    let guest = |mut guest: FakeGuest| {
        let mut streams = connect_together(&guest, 2);
        let openings: Vec<StreamOpen> = streams.iter_mut().map(opening).collect();
        let call = guest.call("ExecProcess");
        let request: ExecProcessRequest = decode_message(&call.request.payload).unwrap();
        let ticket = request.stdio.ticket;
        assert!(openings.iter().all(|opening| opening.ticket == ticket));
        guest.answer(&call, bytes!(&ExecProcessResponse::new()));
        streams.iter_mut().for_each(open);
        let call = guest.call("StartContainer");
        guest.answer(&call, bytes!(&StartContainerResponse::new()));
    };
    play(guest, |guest| {
        let container = ContainerHandle::new(&guest, "c");
        let process = container.exec("e", b"{}", Stdio::pipes(false)).unwrap();
        assert!(process.stdin.is_none());
        process.start().unwrap();
    });
}

#[test]
fn why_a_command_does_not_run_is_told_and_leaves_nothing_to_remove() {
    let guest = |mut guest: FakeGuest| {
        let streams = connect_together(&guest, 2);
        let call = guest.call("RunProcess");
        let error = StartError {
            kind: start_error::Kind::COMMAND_NOT_FOUND.into(),
            message: "nope".to_owned(),
            ..Default::default()
        };
        let response = RunProcessResponse {
            start_error: Some(error).into(),
            ..Default::default()
        };
        guest.answer(&call, bytes!(&response));
        drop(streams);
        let streams = connect_together(&guest, 2);
        let call = guest.call("RunProcess");
        guest.refuse(&call, "not now");
        drop(streams);
        // The end of the connection, and no call before it.
        assert_eq!(guest.control.read(&mut [0]).unwrap(), 0);
    };
    play(guest, |guest| {
        let container = ContainerHandle::new(&guest, "c");
        let error = container.run("e", b"{}", Stdio::pipes(false)).unwrap_err();
        assert!(
            matches!(&error, ContainerError::Start { kind: StartFailure::NotFound, message } if message == "nope"),
            "{error:?}"
        );
        let error = container.run("e", b"{}", Stdio::pipes(false)).unwrap_err();
        assert_eq!(error.refusal(), Some(Refusal::NotNow));
    });
}

/// What a lying agent does with the streams of a process that it says it runs.
fn lie(streams: impl FnOnce(Vec<UnixStream>) + Send + 'static) -> ContainerError {
    let guest = |mut guest: FakeGuest| {
        let connections = (0..2).map(|_| guest.accept()).collect();
        let call = guest.call("RunProcess");
        guest.answer(&call, bytes!(&RunProcessResponse::new()));
        streams(connections);
        // Whatever it runs is not wanted.
        let call = guest.call("RemoveContainer");
        let request: RemoveContainerRequest = decode_message(&call.request.payload).unwrap();
        assert_eq!((request.exec_id.as_str(), request.force), ("e", true));
        guest.answer(&call, bytes!(&RemoveContainerResponse::new()));
    };
    let mut error = None;
    play(guest, |guest| {
        let container = ContainerHandle::new(&guest, "c");
        error = container.run("e", b"{}", Stdio::pipes(false)).err();
    });
    error.unwrap()
}

#[test]
fn streams_that_a_lying_agent_does_not_give_are_an_error() {
    let error = lie(drop);
    assert!(matches!(error, ContainerError::Connect(_)), "{error:?}");
    let error = lie(|mut streams| streams[0].write_all(b"NO 1\n").unwrap());
    assert!(matches!(error, ContainerError::Connect(_)), "{error:?}");
    let error = lie(|mut streams| streams[0].write_all(&[b'x'; 4096]).unwrap());
    assert!(matches!(error, ContainerError::Connect(_)), "{error:?}");
    let error = lie(|mut streams| {
        streams[0]
            .write_all(b"OK 1\n\x06\0\0\0\x0a\x04busy")
            .unwrap()
    });
    assert!(
        matches!(&error, ContainerError::Open(OpenStreamError::Refused { reason }) if reason == "busy"),
        "{error:?}"
    );
    let error = lie(|mut streams| streams[0].write_all(b"OK 1\n\xff\xff\xff\xff").unwrap());
    assert!(matches!(error, ContainerError::Open(_)), "{error:?}");
}

#[test]
fn a_stream_whose_answer_drips_or_does_not_come_is_given_up() {
    let guest = |guest: FakeGuest| {
        let _silent = guest.accept();
        let mut dripping = guest.accept();
        dripping.write_all(b"OK 1\n\0\0\x01\0").unwrap();
        // Until the host has hung up.
        while dripping.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(5));
        }
    };
    play(guest, |guest| {
        let request = StreamOpen::new();
        let asked = [(); 2].map(|()| guest.ask_for_stream(&request).unwrap());
        let until = Instant::now() + Duration::from_millis(200);
        for asked in asked {
            asked.opened(until).unwrap_err();
        }
        assert!(Instant::now() < until + PATIENCE);
    });
}

#[test]
fn a_guest_that_is_gone_is_an_error() {
    let guest = |mut guest: FakeGuest| {
        let _streams: Vec<UnixStream> = (0..2).map(|_| guest.accept()).collect();
        guest.call("RunProcess");
    };
    play(guest, |guest| {
        let container = ContainerHandle::new(&guest, "c");
        let error = container.run("e", b"{}", Stdio::pipes(false)).unwrap_err();
        assert!(!error.is_refusal(), "{error:?}");
    });
}
