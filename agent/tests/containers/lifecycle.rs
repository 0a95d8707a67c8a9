//! Calls, states, signals and what remains.

use std::fs;
use std::time::{Duration, Instant};

use agent_protocol::PROTOCOL_VERSION;
use agent_protocol::frame::read_message;
use agent_protocol::proto::stream_open::Stream;
use agent_protocol::proto::{
    AgentEvent, HelloRequest, PowerOffRequest, RemoveContainerRequest, SetupPodRequest,
    StartContainerRequest, StatsRequest, WaitContainerRequest, start_error,
};
use ttrpc::Code;

use crate::Case;
use crate::config::Config;
use crate::pod::{Pod, code, context};

pub const CASES: &[Case] = &[
    (
        "hello_comes_first_and_versions_must_match",
        hello_comes_first_and_versions_must_match,
    ),
    ("exit_codes_arrive", exit_codes_arrive),
    (
        "a_missing_command_is_not_one_that_cannot_run",
        a_missing_command_is_not_one_that_cannot_run,
    ),
    (
        "names_are_unique_until_removed",
        names_are_unique_until_removed,
    ),
    (
        "signals_end_a_first_process_without_handlers",
        signals_end_a_first_process_without_handlers,
    ),
    (
        "handlers_of_a_first_process_run",
        handlers_of_a_first_process_run,
    ),
    (
        "a_running_container_is_removed_by_force_only",
        a_running_container_is_removed_by_force_only,
    ),
    (
        "a_created_container_can_be_removed",
        a_created_container_can_be_removed,
    ),
    ("start_waits_for_streams", start_waits_for_streams),
    (
        "exits_are_told_on_the_lifeline",
        exits_are_told_on_the_lifeline,
    ),
    (
        "case_24_a_stuck_container_blocks_no_other",
        case_24_a_stuck_container_blocks_no_other,
    ),
    (
        "case_25_many_containers_leave_nothing",
        case_25_many_containers_leave_nothing,
    ),
    ("time_and_memory_are_told", time_and_memory_are_told),
    ("power_off_ends_what_runs", power_off_ends_what_runs),
];

fn remove(pod: &Pod, id: &str, force: bool) -> ttrpc::Result<()> {
    let request = RemoveContainerRequest {
        container_id: id.to_owned(),
        force,
        ..Default::default()
    };
    pod.client.remove_container(context(), &request).map(drop)
}

fn hello_comes_first_and_versions_must_match(pod: &Pod) {
    let other = pod.connect();
    let result = other.setup_pod(context(), &SetupPodRequest::new());
    assert_eq!(code(result), Code::FAILED_PRECONDITION);
    let wrong = HelloRequest {
        protocol_version: PROTOCOL_VERSION + 1,
        ..Default::default()
    };
    let ttrpc::Error::RpcStatus(status) = other.hello(context(), &wrong).unwrap_err() else {
        panic!("no status");
    };
    assert_eq!(status.code(), Code::FAILED_PRECONDITION);
    assert!(
        status.message.contains(&PROTOCOL_VERSION.to_string()),
        "{}",
        status.message
    );
    assert!(
        status.message.contains(&(PROTOCOL_VERSION + 1).to_string()),
        "{}",
        status.message
    );
    assert_eq!(
        code(other.setup_pod(context(), &SetupPodRequest::new())),
        Code::FAILED_PRECONDITION,
        "a refused hello counts as none"
    );
    let again = pod.client.setup_pod(context(), &SetupPodRequest::new());
    assert_eq!(code(again), Code::FAILED_PRECONDITION);
}

fn exit_codes_arrive(pod: &Pod) {
    for wanted in [0, 1, 42, 255] {
        let ended = pod.run(
            &format!("c{wanted}"),
            &Config::script(&format!("exit {wanted}")),
            b"",
        );
        assert_eq!(ended.status.exit_code(), wanted);
        assert!(!ended.status.has_signal() && !ended.status.oom_killed);
        assert!(ended.status.exited_at_ns > 1_500_000_000_000_000_000);
    }
}

fn a_missing_command_is_not_one_that_cannot_run(pod: &Pod) {
    let try_start = |id: &str, command: &str| {
        pod.create(id, &Config::command(&[command])).unwrap();
        drop((
            pod.attach(id, Stream::STDOUT),
            pod.attach(id, Stream::STDERR),
        ));
        let error = pod.begin(id).expect("it started");
        assert!(error.message.contains(command), "{}", error.message);
        assert!(matches!(pod.wait(id).exit_code(), 126 | 127));
        remove(pod, id, false).unwrap();
        error.kind.unwrap()
    };
    use start_error::Kind;
    assert_eq!(try_start("a", "no-such-command"), Kind::COMMAND_NOT_FOUND);
    assert_eq!(try_start("b", "/no/such/command"), Kind::COMMAND_NOT_FOUND);
    assert_eq!(try_start("c", "/etc"), Kind::COMMAND_NOT_EXECUTABLE);
    assert_eq!(try_start("d", "/etc/passwd"), Kind::COMMAND_NOT_EXECUTABLE);
}

fn names_are_unique_until_removed(pod: &Pod) {
    let config = Config::script("true");
    assert_eq!(pod.run("same", &config, b"").status.exit_code(), 0);
    assert_eq!(code(pod.create("same", &config)), Code::ALREADY_EXISTS);
    remove(pod, "same", false).unwrap();
    assert_eq!(pod.run("same", &config, b"").status.exit_code(), 0);
    assert_eq!(code(remove(pod, "other", false)), Code::NOT_FOUND);
    assert_eq!(code(remove(pod, "../same", false)), Code::NOT_FOUND);
    for name in ["", "..", "a/b", "../../podvmm"] {
        assert_eq!(
            code(pod.create(name, &config)),
            Code::INVALID_ARGUMENT,
            "{name:?}"
        );
    }
    let unknown = StartContainerRequest {
        container_id: "x".to_owned(),
        ..Default::default()
    };
    assert_eq!(
        code(pod.client.start_container(context(), &unknown)),
        Code::NOT_FOUND
    );
}

fn signals_end_a_first_process_without_handlers(pod: &Pod) {
    for (number, all) in [(2, false), (15, false), (9, false), (9, true)] {
        let id = format!("s{number}{all}");
        pod.start_quiet(&id, &Config::command(&["sleep", "1000"]));
        pod.signal(&id, number, all).unwrap();
        let status = pod.wait(&id);
        assert!(status.has_signal());
        assert_eq!(status.signal(), number);
        pod.signal(&id, 15, false)
            .expect("signalling what has exited is no error");
    }
    pod.start_quiet("x", &Config::command(&["sleep", "1000"]));
    assert_eq!(code(pod.signal("x", 0, false)), Code::INVALID_ARGUMENT);
    assert_eq!(code(pod.signal("x", 65, false)), Code::INVALID_ARGUMENT);
}

fn handlers_of_a_first_process_run(pod: &Pod) {
    let config = Config::script("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done");
    pod.create("h", &config).unwrap();
    let mut stdout = pod.attach("h", Stream::STDOUT);
    drop(pod.attach("h", Stream::STDERR));
    assert_eq!(pod.begin("h"), None);
    let mut line = [0; 6];
    std::io::Read::read_exact(&mut stdout, &mut line).unwrap();
    pod.signal("h", 15, false).unwrap();
    assert_eq!(pod.wait("h").exit_code(), 7);
}

fn a_running_container_is_removed_by_force_only(pod: &Pod) {
    pod.start_quiet("r", &Config::script("sleep 1000 & sleep 1000 & sleep 1000"));
    assert_eq!(code(remove(pod, "r", false)), Code::FAILED_PRECONDITION);
    remove(pod, "r", true).unwrap();
    assert!(pod.container_cgroups().is_empty());
    assert_eq!(code(remove(pod, "r", true)), Code::NOT_FOUND);
}

fn a_created_container_can_be_removed(pod: &Pod) {
    pod.create("c", &Config::script("true")).unwrap();
    remove(pod, "c", false).unwrap();
    assert!(pod.container_cgroups().is_empty());
}

fn start_waits_for_streams(pod: &Pod) {
    pod.create("c", &Config::script("true")).unwrap();
    let request = StartContainerRequest {
        container_id: "c".to_owned(),
        ..Default::default()
    };
    let _stdout = pod.attach("c", Stream::STDOUT);
    assert_eq!(
        code(pod.client.start_container(context(), &request)),
        Code::FAILED_PRECONDITION
    );
    let _stderr = pod.attach("c", Stream::STDERR);
    assert_eq!(pod.begin("c"), None);
    assert_eq!(
        code(pod.client.start_container(context(), &request)),
        Code::FAILED_PRECONDITION
    );
}

fn exits_are_told_on_the_lifeline(pod: &Pod) {
    pod.run("e", &Config::script("exit 3"), b"");
    let event: AgentEvent = read_message(&mut &pod.lifeline).unwrap().unwrap();
    assert_eq!(event.container_exited().container_id, "e");
    assert_eq!(event.container_exited().status.exit_code(), 3);
}

fn case_24_a_stuck_container_blocks_no_other(pod: &Pod) {
    // Writes to a stream that nobody reads, and is waited for, while others come and go.
    pod.create("stuck", &Config::script("yes")).unwrap();
    let _unread = pod.attach("stuck", Stream::STDOUT);
    drop(pod.attach("stuck", Stream::STDERR));
    assert_eq!(pod.begin("stuck"), None);
    let client = pod.client.clone();
    let waiter = std::thread::spawn(move || {
        let id = "stuck".to_owned();
        let request = WaitContainerRequest {
            container_id: id,
            ..Default::default()
        };
        client
            .wait_container(context(), &request)
            .unwrap()
            .status
            .signal()
    });
    for index in 0..5 {
        assert_eq!(
            pod.run(&format!("o{index}"), &Config::script("true"), b"")
                .status
                .exit_code(),
            0
        );
    }
    remove(pod, "stuck", true).unwrap();
    assert_eq!(waiter.join().unwrap(), 9);
}

fn case_25_many_containers_leave_nothing(pod: &Pod) {
    let descriptors = || {
        let path = format!("/proc/{}/fd", pod.agent_pid());
        fs::read_dir(path).unwrap().count()
    };
    let mounts = || {
        let path = format!("/proc/{}/mountinfo", pod.agent_pid());
        fs::read_to_string(path).unwrap()
    };
    pod.script("first", "true");
    remove(pod, "first", false).unwrap();
    let before = (descriptors(), mounts());
    for index in 0..30 {
        let id = format!("c{index}");
        if index % 3 == 0 {
            // One that cannot be created.
            let mut config = Config::script("true");
            config.rootfs = "not-there".to_owned();
            assert_eq!(code(pod.create(&id, &config)), Code::INTERNAL);
        } else {
            pod.run(&id, &Config::script("exit 1"), b"");
            remove(pod, &id, false).unwrap();
        }
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while descriptors() != before.0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!((descriptors(), mounts()), before);
    assert!(pod.container_cgroups().is_empty());
}

fn time_and_memory_are_told(pod: &Pod) {
    let guest = pod.stats("").guest;
    assert!(guest.memory_total >= guest.memory_available && guest.memory_available > 0);
    assert_eq!(guest.load_hundredths.len(), 3);
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap();
    let cpus = cpus.lines().filter(|line| line.starts_with("processor"));
    assert_eq!(guest.online_cpus as usize, cpus.count());
    pod.run(
        "a",
        &Config::script("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"),
        b"",
    );
    pod.must_create("b", &Config::script("true"));
    let all = pod.stats("").containers;
    let names: Vec<&str> = all
        .iter()
        .map(|stats| stats.container_id.as_str())
        .collect();
    assert_eq!(names, ["a", "b"]);
    let one = pod.stats("a").containers.remove(0);
    assert!(one.cpu.usage_usec > 0 && one.cpu.usage_usec == all[0].cpu.usage_usec);
    assert!(one.cpu.user_usec + one.cpu.system_usec <= one.cpu.usage_usec);
    let unknown = StatsRequest {
        container_id: "other".to_owned(),
        ..Default::default()
    };
    assert_eq!(code(pod.client.stats(context(), &unknown)), Code::NOT_FOUND);
}

fn power_off_ends_what_runs(pod: &Pod) {
    pod.start_quiet(
        "stubborn",
        &Config::script("trap '' TERM; sleep 1000 & wait; sleep 1000"),
    );
    pod.start_quiet(
        "polite",
        &Config::script("trap 'exit 0' TERM; sleep 1000 & wait"),
    );
    let begin = Instant::now();
    let request = PowerOffRequest {
        grace_ms: 300,
        ..Default::default()
    };
    pod.client.power_off(context(), &request).unwrap();
    let event: AgentEvent = read_message(&mut &pod.lifeline).unwrap().unwrap();
    assert!(event.has_stopping());
    let created = pod.create("late", &Config::script("true"));
    assert!(
        created.is_err(),
        "containers are made while the guest stops"
    );
    while read_message::<AgentEvent, _>(&mut &pod.lifeline)
        .unwrap()
        .is_some()
    {}
    assert!(begin.elapsed() < Duration::from_secs(10));
}
