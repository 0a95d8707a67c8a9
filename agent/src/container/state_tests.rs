use std::os::fd::OwnedFd;
use std::process::Command;

use agent_protocol::proto::stream_open::Stream;
use agent_protocol::proto::{ExitStatus, Stdio, start_error};
use rustix::process::PidfdFlags;
use tempfile::TempDir;
use ttrpc::Code;

use super::process::{MAX_WAITERS, State};
use super::*;

const CREATE: ReplyTo = ReplyTo {
    connection: 1,
    stream: 1,
};
const START: ReplyTo = ReplyTo {
    connection: 1,
    stream: 3,
};
const WAIT: ReplyTo = ReplyTo {
    connection: 1,
    stream: 5,
};
const REMOVE: ReplyTo = ReplyTo {
    connection: 2,
    stream: 7,
};

/// A container whose first process is played by the test.
struct Rig {
    container: Container,
    process: OwnedFd,
    /// Takes the signals.
    child: std::process::Child,
    answers: Vec<Answer>,
    directory: TempDir,
}

impl Rig {
    fn new(stdio: &Stdio) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let (agent, process) = handshake::pair().unwrap();
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        let streams = Streams::new(stdio).unwrap().0;
        let mut first = Process::new(Role::First, 1, pid, streams, agent, CREATE);
        first.is_protected = true;
        let container = Container {
            cgroup: Cgroup::fake(&directory.path().join("cgroup")),
            child: Child {
                pid,
                pidfd: rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap(),
            },
            first,
            further: BTreeMap::new(),
            inheritance: Inheritance::default(),
            shares_pids: false,
            freezer: Freezer::default(),
            memory_events: None,
            told_oom_kills: 0,
        };
        Self {
            container,
            process,
            child,
            answers: Vec::new(),
            directory,
        }
    }

    /// One that has no streams and is ready.
    fn created() -> Self {
        let mut rig = Self::new(&Stdio::new());
        rig.say(&Message::Ready(None));
        let pid = rig.child.id();
        assert_eq!(rig.answer(CREATE), Ok(Outcome::Created(pid)));
        rig
    }

    fn started() -> Self {
        let mut rig = Self::created();
        rig.container.first.start(START).unwrap();
        assert!(receive_start(&rig.process).unwrap());
        rig
    }

    fn say(&mut self, message: &Message) {
        send_message(&self.process, message).unwrap();
        assert!(!self.container.first.take_messages(&mut self.answers));
    }

    /// Closes the process's end, as exec and exit do.
    fn hang_up(&mut self) {
        self.process = std::fs::File::open("/dev/null").unwrap().into();
        // Another test's fork may hold the socket for a moment, until it executes its program.
        while !self.container.first.take_messages(&mut self.answers) {
            std::thread::yield_now();
        }
    }

    fn exit(&mut self, mut status: ExitStatus) -> Fate {
        self.container.on_exit(None, &mut status, &mut self.answers)
    }

    /// Takes the only answer there is.
    fn answer(&mut self, to: ReplyTo) -> Result<Outcome, Refusal> {
        assert_eq!(self.answers.len(), 1, "{:?}", self.answers);
        let answer = self.answers.remove(0);
        assert_eq!(answer.to, to);
        answer.result
    }

    fn was_killed(&mut self) -> bool {
        use std::os::unix::process::ExitStatusExt;
        self.child.wait().unwrap().signal() == Some(libc::SIGKILL)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn code(value: u32) -> ExitStatus {
    let mut status = ExitStatus::new();
    status.set_exit_code(value);
    status
}

fn signalled(value: i32) -> ExitStatus {
    let mut status = ExitStatus::new();
    status.set_signal(value as u32);
    status
}

#[test]
fn the_straight_way() {
    let mut rig = Rig::started();
    assert_eq!(rig.container.first.wait(WAIT), Ok(None));
    rig.hang_up();
    assert_eq!(rig.answer(START), Ok(Outcome::Started(None)));
    assert_eq!(rig.exit(code(42)), Fate::Stays);
    assert_eq!(rig.answer(WAIT), Ok(Outcome::Exited(code(42))));
    assert_eq!(rig.container.first.wait(WAIT), Ok(Some(code(42))));
    assert_eq!(rig.container.remove(false, REMOVE), Ok(Fate::Gone));
    assert!(!rig.directory.path().join("cgroup").exists());
}

#[test]
fn a_failed_set_up_is_told_once_nothing_is_left_of_it() {
    let mut rig = Rig::new(&Stdio::new());
    rig.say(&Message::SetupFailed("mount of /x".to_owned()));
    assert!(rig.answers.is_empty());
    assert!(!rig.container.is_visible());
    assert_eq!(rig.exit(code(126)), Fate::Gone);
    let refusal = rig.answer(CREATE).unwrap_err();
    assert_eq!(
        (refusal.code, refusal.message.as_str()),
        (Code::INTERNAL, "mount of /x")
    );
    assert!(!rig.directory.path().join("cgroup").exists());
}

#[test]
fn a_set_up_that_is_killed_is_told_as_well() {
    let mut rig = Rig::new(&Stdio::new());
    rig.hang_up();
    assert_eq!(rig.exit(signalled(libc::SIGKILL)), Fate::Gone);
    assert_eq!(rig.answer(CREATE).unwrap_err().code, Code::INTERNAL);
}

#[test]
fn a_command_that_cannot_run_is_told_before_its_exit() {
    let mut rig = Rig::started();
    rig.say(&Message::CommandNotFound("nope".to_owned()));
    let Ok(Outcome::Started(Some(error))) = rig.answer(START) else {
        panic!("no error")
    };
    assert_eq!(error.kind, start_error::Kind::COMMAND_NOT_FOUND.into());
    assert_eq!(error.message, "nope");
    assert_eq!(rig.exit(code(127)), Fate::Stays);
    assert_eq!(rig.container.first.wait(WAIT), Ok(Some(code(127))));
}

#[test]
fn an_exit_during_start_answers_the_start() {
    let mut rig = Rig::started();
    rig.exit(signalled(libc::SIGKILL));
    assert!(matches!(rig.answer(START), Ok(Outcome::Started(Some(_)))));
}

#[test]
fn start_comes_once_and_after_the_streams() {
    let mut rig = Rig::new(&Stdio {
        stdout: true,
        ..Default::default()
    });
    assert_eq!(
        rig.container.first.start(START).unwrap_err().code,
        Code::FAILED_PRECONDITION
    );
    rig.say(&Message::Ready(None));
    assert_eq!(
        rig.container.first.start(START).unwrap_err().code,
        Code::FAILED_PRECONDITION
    );
    let (_host, agent) = std::os::unix::net::UnixStream::pair().unwrap();
    assert_eq!(
        rig.container
            .first
            .streams()
            .attach(Stream::STDOUT, agent.into())
            .unwrap()
            .len(),
        1
    );
    rig.container.first.start(START).unwrap();
    assert_eq!(
        rig.container.first.start(START).unwrap_err().code,
        Code::FAILED_PRECONDITION
    );
}

/// A process that starts by itself, with one stream.
fn running_by_itself() -> Rig {
    let mut rig = Rig::new(&Stdio {
        stdout: true,
        ticket: 7,
        ..Default::default()
    });
    rig.container.first.role = Role::Run;
    rig
}

#[test]
fn one_that_starts_by_itself_does_so_with_its_last_stream() {
    let mut rig = running_by_itself();
    let first = &rig.container.first;
    assert!(first.is_visible() && !first.is_ready() && !first.is_made());
    rig.say(&Message::Ready(None));
    let first = &mut rig.container.first;
    assert!(first.is_ready() && first.is_awaiting() && !first.is_made());
    assert_eq!(first.ticket(), 7);
    first.start_if_complete();
    assert!(first.is_awaiting());
    let (_host, agent) = std::os::unix::net::UnixStream::pair().unwrap();
    first
        .streams()
        .attach(Stream::STDOUT, agent.into())
        .unwrap();
    first.start_if_complete();
    assert!(matches!(first.state, State::Starting(CREATE)));
    assert_eq!(first.ticket(), 0);
    assert!(receive_start(&rig.process).unwrap());
    assert!(rig.answers.is_empty());
    rig.hang_up();
    let pid = rig.child.id();
    assert_eq!(rig.answer(CREATE), Ok(Outcome::Ran(pid)));
    assert!(rig.container.first.is_made());
}

#[test]
fn one_that_starts_by_itself_is_told_of_once() {
    // While it waits for its streams.
    let mut rig = running_by_itself();
    rig.say(&Message::Ready(None));
    rig.hang_up();
    assert_eq!(rig.exit(signalled(libc::SIGKILL)), Fate::Gone);
    assert_eq!(rig.answer(CREATE).unwrap_err().code, Code::INTERNAL);
    // When its command is not there: not before it is gone.
    let mut rig = running_by_itself();
    rig.say(&Message::Ready(None));
    rig.container.first.streams().close_unattached();
    rig.container.first.start_if_complete();
    rig.say(&Message::CommandNotFound("nope".to_owned()));
    rig.hang_up();
    assert!(rig.answers.is_empty() && !rig.container.first.is_made());
    assert_eq!(rig.exit(code(127)), Fate::Gone);
    let Ok(Outcome::NotRun(error)) = rig.answer(CREATE) else {
        panic!("it ran")
    };
    assert_eq!(error.message, "nope");
}

#[test]
fn messages_out_of_turn_change_nothing() {
    let mut rig = Rig::created();
    for message in [
        Message::Ready(None),
        Message::SetupFailed("late".to_owned()),
        Message::CommandNotFound("early".to_owned()),
    ] {
        rig.say(&message);
    }
    assert!(rig.answers.is_empty());
    assert!(matches!(rig.container.first.state, State::Created));
}

#[test]
fn a_created_container_is_killed_to_be_removed() {
    let mut rig = Rig::created();
    assert_eq!(rig.container.remove(false, REMOVE), Ok(Fate::Stays));
    assert!(rig.was_killed());
    assert_eq!(
        rig.container.remove(true, REMOVE).unwrap_err().code,
        Code::FAILED_PRECONDITION
    );
    assert_eq!(rig.exit(signalled(libc::SIGKILL)), Fate::Gone);
    assert_eq!(rig.answer(REMOVE), Ok(Outcome::Removed));
}

#[test]
fn a_running_one_only_by_force() {
    let mut rig = Rig::started();
    rig.hang_up();
    rig.answers.clear();
    let refused = rig.container.remove(false, REMOVE);
    assert_eq!(refused.unwrap_err().code, Code::FAILED_PRECONDITION);
    assert_eq!(rig.container.remove(true, REMOVE), Ok(Fate::Stays));
    assert!(rig.was_killed());
}

#[test]
fn a_default_action_is_told_as_its_signal() {
    let mut rig = Rig::started();
    rig.hang_up();
    rig.answers.clear();
    rig.container.first.signal(libc::SIGTERM).unwrap();
    assert!(rig.was_killed(), "the kernel would have dropped the signal");
    rig.exit(signalled(libc::SIGKILL));
    assert_eq!(
        rig.container.first.wait(WAIT),
        Ok(Some(signalled(libc::SIGTERM)))
    );
    rig.container.first.signal(libc::SIGTERM).unwrap();
}

#[test]
fn waiting_calls_are_bounded_and_go_with_their_connection() {
    let mut rig = Rig::created();
    for stream in 0..MAX_WAITERS as u32 {
        assert_eq!(
            rig.container.first.wait(ReplyTo {
                connection: 9,
                stream
            }),
            Ok(None)
        );
    }
    assert_eq!(
        rig.container.first.wait(WAIT).unwrap_err().code,
        Code::RESOURCE_EXHAUSTED
    );
    rig.container.forget_waiters(9);
    assert_eq!(rig.container.first.wait(WAIT), Ok(None));
    rig.exit(code(0));
    assert_eq!(rig.answer(WAIT), Ok(Outcome::Exited(code(0))));
}
