//! Further processes of a running container.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use agent_protocol::client;
use agent_protocol::frame::read_message;
use agent_protocol::proto::stream_open::Stream;
use agent_protocol::proto::{
    AgentEvent, ExecProcessRequest, ExitStatus, RemoveContainerRequest, ResizePtyRequest,
    SignalContainerRequest, StartContainerRequest, StartError, Stdio, StreamOpen,
    WaitContainerRequest, start_error,
};
use serde_json::{Value, json};
use ttrpc::Code;

use crate::Case;
use crate::config::Config;
use crate::pod::{PATIENCE, Pod, code, collect, context};

pub const CASES: &[Case] = &[
    ("a_further_process_is_inside", a_further_process_is_inside),
    (
        "a_further_process_is_who_it_should_be",
        a_further_process_is_who_it_should_be,
    ),
    (
        "a_further_process_has_streams",
        a_further_process_has_streams,
    ),
    (
        "a_further_process_has_a_terminal",
        a_further_process_has_a_terminal,
    ),
    (
        "a_further_process_is_told_and_removed",
        a_further_process_is_told_and_removed,
    ),
    (
        "a_further_process_ends_with_its_container",
        a_further_process_ends_with_its_container,
    ),
    (
        "a_further_process_needs_a_running_container",
        a_further_process_needs_a_running_container,
    ),
    (
        "a_further_process_may_be_signalled",
        a_further_process_may_be_signalled,
    ),
    (
        "a_further_command_that_cannot_run_is_told",
        a_further_command_that_cannot_run_is_told,
    ),
    (
        "case_17_a_waiting_process_cannot_be_looked_into",
        case_17_a_waiting_process_cannot_be_looked_into,
    ),
    (
        "case_17_a_false_terminal_is_refused",
        case_17_a_false_terminal_is_refused,
    ),
    (
        "case_25_many_processes_leave_nothing",
        case_25_many_processes_leave_nothing,
    ),
];

/// The usual container's process with other arguments.
pub fn process(arguments: &[&str]) -> Value {
    Config::command(arguments).spec["process"].take()
}

pub fn script(script: &str) -> Value {
    process(&["sh", "-c", script])
}

/// A container that stays, and does nothing.
pub fn sleeper(pod: &Pod, id: &str) {
    pod.start_quiet(id, &Config::command(&["sleep", "1000"]));
}

pub fn add(pod: &Pod, id: &str, exec_id: &str, process: &Value, stdin: bool) -> ttrpc::Result<u32> {
    let request = request(0, id, exec_id, process, stdin);
    let response = pod.client.exec_process(context(), &request)?;
    Ok(response.pid)
}

/// For one more process, whose streams name `ticket` if it is not 0.
pub fn request(
    ticket: u64,
    id: &str,
    exec_id: &str,
    process: &Value,
    stdin: bool,
) -> ExecProcessRequest {
    let tty = process["terminal"] == true;
    let stdio = Stdio {
        tty,
        rows: 24,
        cols: 80,
        stdin,
        stdout: !tty,
        stderr: !tty,
        ticket,
        ..Default::default()
    };
    ExecProcessRequest {
        container_id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        process_json: process.to_string().into_bytes(),
        stdio: Some(stdio).into(),
        ..Default::default()
    }
}

fn attach(pod: &Pod, id: &str, exec_id: &str, stream: Stream) -> UnixStream {
    let mut connection = pod.stream_connection();
    let open = StreamOpen {
        container_id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        stream: stream.into(),
        ..Default::default()
    };
    client::open_stream(&mut connection, &open).unwrap();
    connection
}

fn begin(pod: &Pod, id: &str, exec_id: &str) -> Option<StartError> {
    let request = StartContainerRequest {
        container_id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        ..Default::default()
    };
    let response = pod.client.start_container(context(), &request).unwrap();
    response.start_error.into_option()
}

pub fn wait(pod: &Pod, id: &str, exec_id: &str) -> ExitStatus {
    let request = WaitContainerRequest {
        container_id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        ..Default::default()
    };
    let response = pod.client.wait_container(context(), &request).unwrap();
    response.status.unwrap()
}

pub fn remove(pod: &Pod, id: &str, exec_id: &str, force: bool) -> ttrpc::Result<()> {
    let request = RemoveContainerRequest {
        container_id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        force,
        ..Default::default()
    };
    pod.client.remove_container(context(), &request).map(drop)
}

/// Runs a process to its end; gives what it wrote, standard error last.
pub fn run(pod: &Pod, id: &str, exec_id: &str, process: &Value) -> (ExitStatus, String) {
    add(pod, id, exec_id, process, false).unwrap();
    let stdout = collect(attach(pod, id, exec_id, Stream::STDOUT));
    let stderr = collect(attach(pod, id, exec_id, Stream::STDERR));
    assert_eq!(begin(pod, id, exec_id), None);
    let status = wait(pod, id, exec_id);
    let bytes = [stdout.join().unwrap(), stderr.join().unwrap()].concat();
    (status, String::from_utf8(bytes).unwrap())
}

/// Runs a script, gives what it wrote, and leaves nothing of it.
pub fn run_and_forget(pod: &Pod, id: &str, text: &str) -> String {
    let (_, seen) = run(pod, id, "forgotten", &script(text));
    remove(pod, id, "forgotten", false).unwrap();
    seen
}

fn a_further_process_is_inside(pod: &Pod) {
    let mut config = Config::script("hostname > /run-hostname; exec sleep 1000");
    config.spec["hostname"] = json!("inner-name");
    let namespaces = config.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.extend(["uts", "ipc", "network"].map(|kind| json!({"type": kind})));
    pod.start_quiet("c", &config);
    let names = "for n in mnt pid cgroup net ipc uts; do \
                 [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] && echo $n; done; \
                 hostname; cat /run-hostname; grep ^0: /proc/self/cgroup; tr '\\0' ' ' < /proc/1/cmdline";
    let (status, seen) = run(pod, "c", "e", &script(names));
    assert_eq!(
        seen,
        "mnt\npid\ncgroup\nnet\nipc\nuts\ninner-name\ninner-name\n0::/\nsleep 1000 "
    );
    assert_eq!(status.exit_code(), 0);
    // Descriptor 3 is the directory that is listed.
    let (_, seen) = run(pod, "c", "fd", &process(&["ls", "/proc/self/fd"]));
    assert_eq!(seen, "0\n1\n2\n3\n", "descriptors leak into the container");
}

fn a_further_process_is_who_it_should_be(pod: &Pod) {
    sleeper(pod, "c");
    let mut process = script(
        "id -u; id -g; id -G; umask; pwd; echo $A $HOME; ulimit -n; \
         cat /proc/self/oom_score_adj; grep -E '^(CapBnd|NoNewPrivs)' /proc/self/status",
    );
    process["user"] = json!({"uid": 1234, "gid": 2345, "umask": 0o027, "additionalGids": [10]});
    process["cwd"] = json!("/usr/bin");
    process["env"] = json!(["PATH=/usr/bin:/bin", "A=b c"]);
    process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 321, "hard": 400}]);
    process["oomScoreAdj"] = json!(77);
    process["capabilities"] = json!({"bounding": ["CAP_KILL"]});
    let (_, seen) = run(pod, "c", "e", &process);
    let expected = "1234\n2345\n2345 10\n0027\n/usr/bin\nb c /\n321\n77\n\
                    CapBnd:\t0000000000000020\nNoNewPrivs:\t1\n";
    assert_eq!(seen, expected);
}

fn a_further_process_has_streams(pod: &Pod) {
    sleeper(pod, "c");
    let (status, seen) = run(pod, "c", "e", &script("echo out; echo err >&2; exit 3"));
    assert_eq!((status.exit_code(), seen.as_str()), (3, "out\nerr\n"));
    add(pod, "c", "cat", &process(&["cat"]), true).unwrap();
    let mut stdin = attach(pod, "c", "cat", Stream::STDIN);
    let stdout = collect(attach(pod, "c", "cat", Stream::STDOUT));
    drop(attach(pod, "c", "cat", Stream::STDERR));
    assert_eq!(begin(pod, "c", "cat"), None);
    let input: Vec<u8> = (0..1_000_000u32).map(|i| (i ^ (i >> 9)) as u8).collect();
    stdin.write_all(&input).unwrap();
    stdin.shutdown(Shutdown::Write).unwrap();
    assert!(stdout.join().unwrap() == input);
    assert_eq!(wait(pod, "c", "cat").exit_code(), 0);
}

fn a_further_process_has_a_terminal(pod: &Pod) {
    sleeper(pod, "c");
    let mut process =
        script("tty; stty size; read x; stty size; echo got $x; kill -INT $$; sleep 9");
    process["terminal"] = json!(true);
    process["user"] = json!({"uid": 1234, "gid": 1234});
    add(pod, "c", "t", &process, false).unwrap();
    let mut pty = attach(pod, "c", "t", Stream::PTY);
    pty.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(begin(pod, "c", "t"), None);
    let mut seen = String::new();
    let mut read_until = |pty: &mut UnixStream, wanted: &str| {
        let mut bytes = [0; 256];
        while !seen.contains(wanted) {
            let count = pty.read(&mut bytes).unwrap();
            assert!(count > 0, "ended without {wanted:?}: {seen}");
            seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    };
    read_until(&mut pty, "/dev/pts/0");
    read_until(&mut pty, "24 80");
    let resize = ResizePtyRequest {
        container_id: "c".to_owned(),
        exec_id: "t".to_owned(),
        rows: 50,
        cols: 132,
        ..Default::default()
    };
    pod.client.resize_pty(context(), &resize).unwrap();
    pty.write_all(b"word\n").unwrap();
    read_until(&mut pty, "50 132");
    read_until(&mut pty, "got word");
    assert_eq!(wait(pod, "c", "t").signal(), 2);
}

fn a_further_process_is_told_and_removed(pod: &Pod) {
    sleeper(pod, "c");
    let (status, _) = run(pod, "c", "e", &script("exit 4"));
    assert_eq!(status.exit_code(), 4);
    let event: AgentEvent = read_message(&mut &pod.lifeline).unwrap().unwrap();
    let exited = event.container_exited();
    assert_eq!(
        (exited.container_id.as_str(), exited.exec_id.as_str()),
        ("c", "e")
    );
    assert_eq!(exited.status.exit_code(), 4);
    // The name stays taken, and the status known, until it is removed.
    let again = add(pod, "c", "e", &script("true"), false);
    assert_eq!(code(again), Code::ALREADY_EXISTS);
    assert_eq!(wait(pod, "c", "e").exit_code(), 4);
    remove(pod, "c", "e", false).unwrap();
    assert_eq!(code(remove(pod, "c", "e", false)), Code::NOT_FOUND);
    run(pod, "c", "e", &script("true"));
    add(pod, "c", "r", &process(&["sleep", "1000"]), false).unwrap();
    drop([Stream::STDOUT, Stream::STDERR].map(|stream| attach(pod, "c", "r", stream)));
    assert_eq!(begin(pod, "c", "r"), None);
    assert_eq!(
        code(remove(pod, "c", "r", false)),
        Code::FAILED_PRECONDITION
    );
    remove(pod, "c", "r", true).unwrap();
    // One that was never started needs no force.
    add(pod, "c", "n", &process(&["sleep", "1000"]), false).unwrap();
    remove(pod, "c", "n", false).unwrap();
}

fn a_further_process_ends_with_its_container(pod: &Pod) {
    sleeper(pod, "c");
    for exec_id in ["running", "waiting"] {
        add(pod, "c", exec_id, &process(&["sleep", "1000"]), false).unwrap();
    }
    drop([Stream::STDOUT, Stream::STDERR].map(|stream| attach(pod, "c", "running", stream)));
    assert_eq!(begin(pod, "c", "running"), None);
    let signal = SignalContainerRequest {
        container_id: "c".to_owned(),
        signal: 9,
        ..Default::default()
    };
    pod.client.signal_container(context(), &signal).unwrap();
    assert_eq!(pod.wait("c").signal(), 9);
    for exec_id in ["running", "waiting"] {
        assert_eq!(wait(pod, "c", exec_id).signal(), 9);
    }
    remove(pod, "c", "", false).unwrap();
    assert!(pod.container_cgroups().is_empty());
}

fn a_further_process_needs_a_running_container(pod: &Pod) {
    pod.must_create("c", &Config::script("exit 0"));
    let result = add(pod, "c", "e", &script("true"), false);
    assert_eq!(code(result), Code::FAILED_PRECONDITION);
    let result = add(pod, "other", "e", &script("true"), false);
    assert_eq!(code(result), Code::NOT_FOUND);
    drop([Stream::STDOUT, Stream::STDERR].map(|stream| attach(pod, "c", "", stream)));
    assert_eq!(pod.begin("c"), None);
    pod.wait("c");
    let result = add(pod, "c", "e", &script("true"), false);
    assert_eq!(code(result), Code::FAILED_PRECONDITION);
    sleeper(pod, "s");
    for name in ["", "..", "a/b"] {
        let result = add(pod, "s", name, &script("true"), false);
        assert_eq!(code(result), Code::INVALID_ARGUMENT, "{name:?}");
    }
    let mut confined = script("true");
    confined["apparmorProfile"] = json!("docker-default");
    let result = add(pod, "s", "e", &confined, false);
    assert_eq!(code(result), Code::UNIMPLEMENTED);
    let mut lost = script("true");
    lost["cwd"] = json!("/not/there");
    assert_eq!(code(add(pod, "s", "e", &lost, false)), Code::INTERNAL);
    assert_eq!(run(pod, "s", "e", &script("true")).0.exit_code(), 0);
}

fn a_further_process_may_be_signalled(pod: &Pod) {
    sleeper(pod, "c");
    let signal = |exec_id: &str, signal: u32, all: bool| {
        let request = SignalContainerRequest {
            container_id: "c".to_owned(),
            exec_id: exec_id.to_owned(),
            signal,
            all,
            ..Default::default()
        };
        pod.client.signal_container(context(), &request).map(drop)
    };
    for number in [15, 9, 10] {
        let exec_id = format!("e{number}");
        add(pod, "c", &exec_id, &process(&["sleep", "1000"]), false).unwrap();
        drop([Stream::STDOUT, Stream::STDERR].map(|stream| attach(pod, "c", &exec_id, stream)));
        assert_eq!(begin(pod, "c", &exec_id), None);
        signal(&exec_id, number, false).unwrap();
        assert_eq!(wait(pod, "c", &exec_id).signal(), number);
        signal(&exec_id, 9, false).expect("signalling what has exited is no error");
    }
    assert_eq!(code(signal("e9", 9, true)), Code::INVALID_ARGUMENT);
    assert_eq!(code(signal("none", 9, false)), Code::NOT_FOUND);
}

fn a_further_command_that_cannot_run_is_told(pod: &Pod) {
    use start_error::Kind;
    sleeper(pod, "c");
    for (exec_id, command, kind) in [
        ("a", "no-such-command", Kind::COMMAND_NOT_FOUND),
        ("b", "/etc", Kind::COMMAND_NOT_EXECUTABLE),
    ] {
        add(pod, "c", exec_id, &process(&[command]), false).unwrap();
        drop([Stream::STDOUT, Stream::STDERR].map(|stream| attach(pod, "c", exec_id, stream)));
        let error = begin(pod, "c", exec_id).expect("it started");
        assert_eq!(error.kind.unwrap(), kind);
        assert!(wait(pod, "c", exec_id).exit_code() >= 126);
    }
}

/// Needs controllers.
pub fn a_container_with_cgroups_of_its_own_takes_processes(pod: &Pod) {
    // What an init system does: processes in a leaf, controllers handed down from the top.
    let nest = "cd /sys/fs/cgroup && mkdir leaf && echo 1 > leaf/cgroup.procs && \
                echo +memory > cgroup.subtree_control; exec sleep 1000";
    let mut config = Config::script(nest);
    for mount in config.spec["mounts"].as_array_mut().unwrap() {
        if mount["type"] == "cgroup" {
            mount["options"] = json!(["nosuid", "noexec", "nodev"]);
        }
    }
    pod.start_quiet("c", &config);
    let deadline = Instant::now() + PATIENCE;
    let mut index = 0;
    loop {
        index += 1;
        let look = script("cat /proc/1/cgroup; cat /proc/self/cgroup");
        let (status, seen) = run(pod, "c", &format!("e{index}"), &look);
        assert_eq!(status.exit_code(), 0, "{seen}");
        if seen.contains("/leaf") {
            break;
        }
        assert!(Instant::now() < deadline, "{seen}");
    }
}

fn case_17_a_waiting_process_cannot_be_looked_into(pod: &Pod) {
    // Root without CAP_SYS_PTRACE, as containers are by default.
    sleeper(pod, "c");
    add(pod, "c", "waits", &process(&["sleep", "1000"]), false).unwrap();
    let look = "for p in /proc/[0-9]*; do grep -qE '^Name:.(sleep|sh|grep)' $p/status && continue; \
                echo found; for f in mem environ maps; do head -c 1 $p/$f >/dev/null 2>&1 && echo $f; done; \
                for f in exe root cwd fd/0 fd/1; do readlink $p/$f; done; done; echo end";
    let (_, seen) = run(pod, "c", "looks", &script(look));
    assert_eq!(seen, "found\nend\n");
}

fn case_17_a_false_terminal_is_refused(pod: &Pod) {
    fs::create_dir(pod.volumes().join("pts")).unwrap();
    let pipe = pod.volumes().join("pts/ptmx");
    let made = std::process::Command::new("mkfifo").arg(pipe).status();
    assert!(made.unwrap().success());
    let mut config = Config::command(&["sleep", "1000"]);
    config.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| mount["destination"] != "/dev/pts");
    let config = config.with_mount(json!({"destination": "/dev/pts", "type": "bind",
        "source": "/run/podvmm/share/volumes/pts", "options": ["rbind"]}));
    pod.start_quiet("c", &config);
    let mut process = script("true");
    process["terminal"] = json!(true);
    assert_eq!(code(add(pod, "c", "t", &process, false)), Code::INTERNAL);
}

fn case_25_many_processes_leave_nothing(pod: &Pod) {
    let descriptors = || {
        let path = format!("/proc/{}/fd", pod.agent_pid());
        fs::read_dir(path).unwrap().count()
    };
    sleeper(pod, "c");
    run(pod, "c", "first", &script("true"));
    remove(pod, "c", "first", false).unwrap();
    let before = descriptors();
    let pids = fs::read_link(format!("/proc/{}/ns/pid_for_children", pod.agent_pid())).unwrap();
    for index in 0..30 {
        let exec_id = format!("e{index}");
        if index % 3 == 0 {
            // One that cannot be made.
            let mut lost = script("true");
            lost["cwd"] = json!("/not/there");
            assert_eq!(code(add(pod, "c", &exec_id, &lost, false)), Code::INTERNAL);
        } else {
            run(pod, "c", &exec_id, &script("exit 1"));
            remove(pod, "c", &exec_id, false).unwrap();
        }
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while descriptors() != before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(descriptors(), before);
    assert_eq!(
        fs::read_link(format!("/proc/{}/ns/pid_for_children", pod.agent_pid())).unwrap(),
        pids,
        "the agent's children would be in the container"
    );
}
