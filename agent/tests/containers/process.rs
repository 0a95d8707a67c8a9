//! Who the command is and what it may do.

use serde_json::json;

use crate::Case;
use crate::config::Config;
use crate::pod::Pod;

pub const CASES: &[Case] = &[
    (
        "the_command_is_alone_and_first",
        the_command_is_alone_and_first,
    ),
    ("identity_is_as_configured", identity_is_as_configured),
    (
        "root_holds_the_listed_capabilities_only",
        root_holds_the_listed_capabilities_only,
    ),
    (
        "limits_environment_and_directory",
        limits_environment_and_directory,
    ),
    (
        "signals_are_as_a_program_expects",
        signals_are_as_a_program_expects,
    ),
    (
        "namespaces_are_the_containers_own",
        namespaces_are_the_containers_own,
    ),
    ("a_hostname_of_its_own", a_hostname_of_its_own),
];

fn the_command_is_alone_and_first(pod: &Pod) {
    let seen = pod.script("ps", "echo $$; ls -d /proc/[0-9]* | wc -l");
    let mut lines = seen.lines();
    assert_eq!(lines.next(), Some("1"));
    // The shell, and the two of the pipe.
    assert!(
        lines.next().unwrap().trim().parse::<u32>().unwrap() <= 3,
        "{seen}"
    );
    // Descriptor 3 is the directory that is listed.
    let descriptors = pod.run("fd", &Config::command(&["ls", "/proc/self/fd"]), b"");
    assert_eq!(
        descriptors.stdout_text(),
        "0\n1\n2\n3\n",
        "descriptors leak into the container"
    );
}

fn identity_is_as_configured(pod: &Pod) {
    let mut config = Config::script(
        "id -u; id -g; id -G; umask; grep -E '^(CapEff|CapPrm|NoNewPrivs)' /proc/self/status",
    );
    config.spec["process"]["user"] =
        json!({"uid": 1234, "gid": 2345, "umask": 0o027, "additionalGids": [10, 20]});
    let seen = pod.run("id", &config, b"").stdout_text();
    let lines: Vec<String> = seen.lines().map(|line| line.replace('\t', "")).collect();
    assert_eq!(lines[0..4], ["1234", "2345", "2345 10 20", "0027"]);
    // Execution by another user than root drops what is not ambient.
    let none = format!("{:016x}", 0);
    assert_eq!(
        lines[4..],
        [
            format!("CapPrm:{none}"),
            format!("CapEff:{none}"),
            "NoNewPrivs:1".into()
        ]
    );
}

fn root_holds_the_listed_capabilities_only(pod: &Pod) {
    let bits = |names: &[u32]| names.iter().fold(0u64, |set, bit| set | 1 << bit);
    let wanted = format!("{:016x}", bits(&[0, 1, 3, 5, 27, 10, 6, 7]));
    let seen = pod.script("caps", "grep ^Cap /proc/self/status");
    for line in seen.lines() {
        let (name, set) = line.split_once(":\t").unwrap();
        match name {
            "CapPrm" | "CapEff" | "CapBnd" => assert_eq!(set, wanted, "{name}"),
            _ => assert_eq!(set, format!("{:016x}", 0), "{name}"),
        }
    }
}

fn limits_environment_and_directory(pod: &Pod) {
    let mut config =
        Config::script("ulimit -n; ulimit -c; pwd; echo $HOME $A; cat /proc/self/oom_score_adj");
    config.spec["process"]["cwd"] = json!("/not/there/yet");
    config.spec["process"]["env"] = json!(["PATH=/bin:/usr/bin", "A=b c"]);
    config.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 321, "hard": 400},
                                              {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    config.spec["process"]["oomScoreAdj"] = json!(123);
    let ended = pod.run("l", &config, b"");
    assert_eq!(ended.stderr_text(), "");
    assert_eq!(
        ended.stdout_text(),
        "321\n0\n/not/there/yet\n/root b c\n123\n"
    );
}

fn signals_are_as_a_program_expects(pod: &Pod) {
    let seen = pod.script("s", "grep -E '^Sig(Blk|Ign)' /proc/self/status");
    for line in seen.lines() {
        let (name, set) = line.split_once(":\t").unwrap();
        // The agent changes SIGPIPE and SIGCHLD; others are as this test was started with.
        let changed = 1u64 << (13 - 1) | 1 << (17 - 1);
        assert_eq!(u64::from_str_radix(set, 16).unwrap() & changed, 0, "{name}");
    }
}

fn namespaces_are_the_containers_own(pod: &Pod) {
    let agents = |name: &str| {
        let link = std::fs::read_link(format!("/proc/{}/ns/{name}", pod.agent_pid())).unwrap();
        link.into_os_string().into_string().unwrap()
    };
    let own = ["mnt", "pid", "cgroup"];
    let shared = ["net", "ipc", "uts"];
    let seen = pod.script(
        "a",
        "for n in mnt pid cgroup net ipc uts; do readlink /proc/self/ns/$n; done",
    );
    let seen: Vec<&str> = seen.lines().collect();
    assert_eq!(seen.len(), 6);
    for (name, found) in own.into_iter().zip(&seen[..3]) {
        assert_ne!(*found, agents(name));
    }
    for (name, found) in shared.into_iter().zip(&seen[3..]) {
        assert_eq!(*found, agents(name));
    }
    assert_eq!(pod.script("c", "grep ^0: /proc/self/cgroup"), "0::/\n");
}

fn a_hostname_of_its_own(pod: &Pod) {
    let mut config = Config::script("hostname");
    config.spec["hostname"] = json!("inner-name");
    config.spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "uts"}));
    assert_eq!(pod.run("h", &config, b"").stdout_text(), "inner-name\n");
    assert_ne!(pod.script("o", "hostname"), "inner-name\n");
}
