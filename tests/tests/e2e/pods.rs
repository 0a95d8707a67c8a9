//! Pods that are left to themselves: `run -d`, and what is done with them afterwards.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Bench, Outcome, Run, guest_dir, podvmm, slowness};
use crate::rootfs;

/// A verb with its arguments.
pub fn verb(args: &[&str]) -> Run {
    let mut command = Command::new(podvmm());
    command.args(args);
    Run::new(command)
}

/// Its outcome.
pub fn podvmm_does(args: &[&str]) -> Outcome {
    verb(args).outcome()
}

/// A pod of a shell script, left to itself; removed when dropped.
pub struct Pod(pub String);

impl Pod {
    pub fn start(name: &str, options: &[&str], script: &str) -> Self {
        let pod = Self(name.to_owned());
        detached(name, options, script)
            .outcome()
            .prints(&format!("{name}\n"));
        pod
    }

    pub fn record(&self) -> serde_json::Value {
        let text = podvmm_does(&["inspect", &self.0]).status(0).text();
        let pods: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        pods[0].clone()
    }

    pub fn status(&self) -> String {
        let record = self.record();
        record["status"].as_str().expect("each has one").to_owned()
    }

    /// Waits until `ps` says so.
    pub fn wait_for_status(&self, status: &str) -> serde_json::Value {
        let until = Instant::now() + Duration::from_secs(10) * slowness();
        loop {
            let record = self.record();
            if record["status"] == status {
                return record;
            }
            assert!(Instant::now() < until, "it is not {status}: {record:#}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the log holds this.
    pub fn wait_for_log(&self, text: &str) {
        let until = Instant::now() + Duration::from_secs(10) * slowness();
        while !podvmm_does(&["logs", &self.0]).text().contains(text) {
            assert!(Instant::now() < until, "no {text:?} in its log");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = podvmm_does(&["rm", "-f", &self.0]);
    }
}

/// `run -d` of a shell script.
pub fn detached(name: &str, options: &[&str], script: &str) -> Run {
    let mut command = Command::new(podvmm());
    command
        .args(["run", "-d", "--mem", "256M", "--name", name, "--rootfs"])
        .arg(rootfs::shared())
        .args(options)
        .args(["--", "sh", "-c", script])
        .env("PODVMM_GUEST_DIR", guest_dir());
    Run::new(command)
}

const COUNTS: &str = "trap 'echo stopped; exit 7' TERM; n=0; \
                      while :; do n=$((n+1)); echo line $n; echo error $n >&2; sleep 0.2 & wait $!; done";

#[test]
fn a_pod_lives_on_and_is_listed_asked_stopped_and_removed() {
    let _bench = Bench::new();
    let pod = Pod::start("e2e-life", &[], COUNTS);
    let listed = podvmm_does(&["ps"]).status(0).text();
    let line = listed.lines().nth(1).expect("it is listed");
    assert!(line.starts_with("e2e-life   Up "), "{listed}");
    let record = pod.record();
    assert_eq!(record["record"]["containers"][0]["phase"], "running");
    assert!(
        record["record"]["kernel"]
            .as_str()
            .unwrap()
            .ends_with("-podvmm")
    );
    assert_eq!(record["plan"]["memory"], 256 << 20);

    podvmm_does(&["rm", "e2e-life"]).failed(125, &["e2e-life", "in use", "rm -f"]);
    podvmm_does(&["run", "--name", "e2e-life", "--rootfs", "/", "true"])
        .failed(125, &["--name", "e2e-life"]);
    let mut attached = verb(&["attach", "e2e-life"]).start();
    attached.wait_for("line ");
    podvmm_does(&["stop", "e2e-life"]).prints("e2e-life\n");
    let seen = attached.wait();
    assert!(seen.stderr.contains("error "), "{}", seen.stderr);
    let seen = seen.status(7).text();
    // From when on it looked, to the end.
    assert!(
        !seen.contains("line 1\n") && seen.ends_with("stopped\n"),
        "{seen}"
    );
    assert_eq!(pod.status(), "stopped");
    podvmm_does(&["wait", "e2e-life"]).prints("7\n");
    podvmm_does(&["stop", "e2e-life"]).prints("e2e-life\n");
    let log = podvmm_does(&["logs", "e2e-life"]).status(0).text();
    assert!(
        log.starts_with("line 1\n") && log.ends_with("stopped\n"),
        "{log}"
    );
    assert_eq!(podvmm_does(&["ps", "-q"]).status(0).text(), "");
    let all = podvmm_does(&["ps", "-a"]).status(0).text();
    assert!(all.contains("Exited (7)"), "{all}");

    podvmm_does(&["run", "--name", "e2e-life", "--rootfs", "/", "true"])
        .failed(125, &["--name e2e-life", "podvmm rm e2e-life"]);
    podvmm_does(&["exec", "e2e-life", "true"]).failed(125, &["e2e-life", "stopped"]);
    podvmm_does(&["rm", "e2e-life"]).prints("e2e-life\n");
    podvmm_does(&["rm", "e2e-life"]).failed(125, &["no pod e2e-life"]);
    podvmm_does(&["rm", "-f", "e2e-life"]).prints("");
}

#[test]
fn commands_are_added_with_their_streams_and_statuses() {
    let _bench = Bench::new();
    let _pod = Pod::start(
        "e2e-exec",
        &["-e", "A=container", "-w", "/home"],
        "echo up; sleep 1000",
    );
    let exec = |args: &[&str]| {
        let all: Vec<_> = ["exec"].iter().chain(args).copied().collect();
        verb(&all)
    };
    let script = "echo out; echo err >&2; echo $A $B; pwd; id -u; exit 9";
    let outcome = exec(&["-e", "B=exec", "e2e-exec", "--", "sh", "-c", script]).outcome();
    assert_eq!(outcome.stderr, "err\n");
    let outcome = outcome.status(9);
    assert_eq!(outcome.text(), "out\ncontainer exec\n/home\n0\n");
    exec(&[
        "-u",
        "7:8",
        "-w",
        "/tmp",
        "e2e-exec",
        "sh",
        "-c",
        "id -u; id -g; pwd",
    ])
    .outcome()
    .prints("7\n8\n/tmp\n");
    exec(&["-i", "e2e-exec/main", "cat"])
        .stdin("typed")
        .outcome()
        .prints("typed");
    // Without -i there is nothing to read.
    exec(&["e2e-exec", "cat"]).stdin("x").outcome().prints("");
    let bytes = exec(&["e2e-exec", "--", "head", "-c", "3000000", "/dev/zero"]);
    assert_eq!(bytes.outcome().status(0).stdout.len(), 3_000_000);
    exec(&["e2e-exec", "sh", "-c", "kill -TERM $$"])
        .outcome()
        .status(143);
    exec(&["e2e-exec", "no-such-command"])
        .outcome()
        .failed(127, &["no-such-command"]);
    exec(&["e2e-exec", "/etc/passwd"])
        .outcome()
        .failed(126, &["/etc/passwd"]);
    exec(&["e2e-exec/other", "true"])
        .outcome()
        .failed(125, &["no container \"other\"", "main"]);
    exec(&["no-such-pod", "true"])
        .outcome()
        .failed(125, &["no pod no-such-pod"]);
    let stats = podvmm_does(&["stats", "--no-stream", "--json", "e2e-exec"]);
    let stats: serde_json::Value = serde_json::from_str(&stats.status(0).text()).unwrap();
    assert_eq!(stats["containers"][0]["name"], "main");
    assert!(stats["memoryTotal"].as_u64().unwrap() > 128 << 20);
    assert!(
        stats["containers"][0]["pids"].as_u64().unwrap() >= 1,
        "{stats}"
    );
}

#[test]
fn files_are_copied_in_and_out() {
    let _bench = Bench::new();
    let _pod = Pod::start("e2e-cp", &["-u", "7:8", "-w", "/home"], "sleep 1000");
    let dir = rootfs::TempDir::new();
    let to = |path: &str| format!("{}/{path}", dir.path().display());
    let cp = |from: &str, to: &str| podvmm_does(&["cp", from, to]);
    let sh = |script: &str| podvmm_does(&["exec", "-u", "0", "e2e-cp", "sh", "-c", script]);

    // Large enough for many packets; from root, for a container whose user it is not.
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n >> 3) as u8).collect();
    std::fs::create_dir_all(dir.join("tree/sub")).unwrap();
    std::fs::write(dir.join("tree/sub/big"), &bytes).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.join("tree/link")).unwrap();
    cp(&to("tree"), "e2e-cp:/srv").prints("");
    cp(&to("tree/."), "e2e-cp/main:srv").prints("");
    let all = "cd /srv; wc -c < sub/big; readlink link; stat -c %u:%g sub/big; md5sum < sub/big";
    let listed = sh(all).status(0).text();
    assert!(
        listed.starts_with("3000000\n/etc/passwd\n0:0\n"),
        "{listed}"
    );
    cp("e2e-cp:/srv", &to("back")).prints("");
    assert!(std::fs::read(dir.join("back/sub/big")).unwrap() == bytes);
    let link = std::fs::read_link(dir.join("back/link")).unwrap();
    assert_eq!(link, std::path::Path::new("/etc/passwd"));

    // A link is looked up in the container, and what it leads to is the container's.
    sh("ln -s / /tmp/away; mkfifo /tmp/pipe; mkdir /tmp/d; cp -a /tmp/pipe /tmp/d; echo x > /tmp/d/f")
        .status(0);
    cp("e2e-cp:/tmp/away/etc/passwd", &to("passwd")).prints("");
    let passwd = std::fs::read_to_string(dir.join("passwd")).unwrap();
    assert!(passwd.starts_with("root:x:0:0::/:/bin/sh\n"), "{passwd}");
    let outcome = cp("e2e-cp:/tmp/d", dir.path().to_str().unwrap()).status(0);
    assert!(
        outcome.stderr.contains("/tmp/d/pipe: left out"),
        "{}",
        outcome.stderr
    );
    assert!(dir.join("d/f").exists() && !dir.join("d/pipe").exists());

    let archive = cp("e2e-cp:/srv/sub", "-").status(0).stdout;
    assert_eq!(archive.len() % 512, 0);
    verb(&["cp", "-", "e2e-cp:/home"])
        .stdin(archive)
        .outcome()
        .prints("");
    sh("cmp /home/sub/big /srv/sub/big").prints("");

    for (from, into, words) in [
        (
            "e2e-cp:/none",
            to("x"),
            &["in the container", "/none: No such file"][..],
        ),
        ("e2e-cp:/srv", to("passwd"), &["passwd", "is no directory"]),
        (
            &to("passwd"),
            "e2e-cp:/none/x".into(),
            &["in the container", "/none"],
        ),
        (&to("none"), "e2e-cp:/".into(), &["none", "No such file"]),
        (
            &to("passwd"),
            "e2e-cp:/proc/version".into(),
            &["in the container", "/proc/version"],
        ),
        ("e2e-cp:/a", "e2e-cp:/b".into(), &["POD:PATH"]),
        (&to("passwd"), to("x"), &["POD:PATH"]),
        ("no-such-pod:/a", to("x"), &["no pod no-such-pod"]),
    ] {
        cp(from, &into).failed(125, words);
    }
    // Nothing is left beside a target.
    let hidden = std::fs::read_dir(dir.path()).unwrap().flatten();
    let hidden: Vec<_> = hidden
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

#[test]
fn a_signal_reaches_a_command_that_was_added() {
    let _bench = Bench::new();
    let _pod = Pod::start("e2e-execsig", &[], "sleep 1000");
    let script = "trap 'echo int; exit 5' INT; echo ready; while :; do sleep 0.1; done";
    let mut running = verb(&["exec", "e2e-execsig", "sh", "-c", script]).start();
    running.wait_for("ready\n");
    running.signal(rustix::process::Signal::INT);
    assert_eq!(running.wait().status(5).text(), "ready\nint\n");
}

#[test]
fn commands_that_come_together_have_their_own_streams() {
    let _bench = Bench::new();
    let _pod = Pod::start("e2e-together", &[], "sleep 1000");
    let script = "read word; echo out $word; echo error $word >&2; exit $word";
    let running: Vec<_> = (1..=8)
        .map(|number| {
            verb(&["exec", "-i", "e2e-together", "sh", "-c", script])
                .stdin(format!("{number}\n"))
                .within(60)
                .start()
        })
        .collect();
    for (running, number) in running.into_iter().zip(1..) {
        let outcome = running.wait().status(number);
        assert_eq!(outcome.text(), format!("out {number}\n"));
        assert_eq!(outcome.stderr, format!("error {number}\n"));
    }
    // One that does not run takes nobody else's place.
    podvmm_does(&["exec", "e2e-together", "/no/such"]).failed(127, &["/no/such"]);
    podvmm_does(&["exec", "e2e-together", "echo", "after"]).prints("after\n");
}

#[test]
fn logs_are_followed_to_the_end_and_cut_where_asked() {
    let _bench = Bench::new();
    let pod = Pod::start(
        "e2e-logs",
        &[],
        "n=0; while [ $n -lt 20 ]; do n=$((n+1)); echo line $n; echo error $n >&2; sleep 0.1; done; printf end",
    );
    let followed = verb(&["logs", "-f", "e2e-logs"]).within(60).outcome();
    let errors: String = (1..=20).map(|n| format!("error {n}\n")).collect();
    let lines: String = (1..=20).map(|n| format!("line {n}\n")).collect();
    assert_eq!(followed.stderr, errors);
    assert_eq!(followed.status(0).text(), lines + "end");
    podvmm_does(&["wait", "e2e-logs"]).prints("0\n");
    let tail = podvmm_does(&["logs", "--tail", "3", "e2e-logs"]).status(0);
    assert_eq!(tail.text(), "line 20\nend");
    assert_eq!(tail.stderr, "error 20\n");
    let timed = podvmm_does(&["logs", "-t", "--tail", "2", "e2e-logs/main"]);
    let timed = timed.status(0).text();
    assert!(
        timed.contains("Z end\n") && timed.starts_with("20"),
        "{timed}"
    );
    let later = podvmm_does(&["logs", "--since", "2100-01-01T00:00:00Z", "e2e-logs"]);
    later.prints("");
    let file = format!(
        "{}/logs/main.log",
        pod.record()["directory"].as_str().unwrap()
    );
    let first = std::fs::read_to_string(file).unwrap();
    let first: Vec<_> = first.lines().next().unwrap().splitn(4, ' ').collect();
    assert_eq!(
        (first[2], first[3].split(' ').next()),
        (
            "F",
            Some(if first[1] == "stdout" {
                "line"
            } else {
                "error"
            })
        )
    );
}

#[test]
fn logs_are_bounded() {
    let _bench = Bench::new();
    let pod = Pod::start(
        "e2e-bounds",
        &["--log-max-size", "64K", "--log-max-files", "2"],
        "n=0; while [ $n -lt 4000 ]; do n=$((n+1)); echo this is line number $n; done",
    );
    podvmm_does(&["wait", "e2e-bounds"]).prints("0\n");
    let dir = format!("{}/logs", pod.record()["directory"].as_str().unwrap());
    let sizes: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .collect();
    assert!(sizes.len() == 2, "{sizes:?}");
    // One write of up to 64 KiB, in lines with their times, may be the first of its file.
    assert!(sizes.iter().all(|size| *size < 256 << 10), "{sizes:?}");
    let last = podvmm_does(&["logs", "--tail", "1", "e2e-bounds"]);
    last.prints("this is line number 4000\n");
}

#[test]
fn a_start_that_fails_is_reported_by_the_run_that_asked() {
    let _bench = Bench::new();
    let run = |command: &str| {
        let mut run = verb(&[
            "run", "-d", "--mem", "256M", "--name", "e2e-bad", "--rootfs",
        ]);
        run.command
            .arg(rootfs::shared())
            .args(["--", command])
            .env("PODVMM_GUEST_DIR", guest_dir());
        run.outcome()
    };
    run("no-such-command").failed(127, &["no-such-command"]);
    run("/etc/passwd").failed(126, &["/etc/passwd"]);
    podvmm_does(&["run", "-d", "--rootfs", "/no-such-dir", "true"])
        .refused(&["--rootfs", "/no-such-dir"]);
    podvmm_does(&["run", "-d", "--name", "../x", "--rootfs", "/", "true"]).refused(&["--name"]);
    assert_eq!(podvmm_does(&["ps", "-aq"]).status(0).text(), "");
}

#[test]
fn who_ignores_sigterm_is_killed_after_the_grace() {
    let _bench = Bench::new();
    let pod = Pod::start(
        "e2e-deaf",
        &[],
        "trap '' TERM; echo up; while :; do sleep 1; done",
    );
    pod.wait_for_log("up");
    let stop = podvmm_does(&["stop", "-t", "2", "e2e-deaf"]).status(0);
    assert!(stop.took >= Duration::from_secs(2), "{:?}", stop.took);
    podvmm_does(&["wait", "e2e-deaf"]).prints("137\n");
}

#[test]
fn signals_are_sent_and_a_killed_pod_ends() {
    let _bench = Bench::new();
    let pod = Pod::start(
        "e2e-kill",
        &["--restart", "always"],
        "trap 'echo user' USR1; echo up; while :; do sleep 0.1; done",
    );
    pod.wait_for_log("up");
    podvmm_does(&["kill", "-s", "USR1", "e2e-kill"]).prints("e2e-kill\n");
    pod.wait_for_log("user");
    let waiting = verb(&["wait", "e2e-kill"]).start();
    podvmm_does(&["kill", "e2e-kill"]).prints("e2e-kill\n");
    waiting.wait().prints("137\n");
    assert_eq!(pod.status(), "stopped");
}

#[test]
fn a_container_is_started_again_as_its_policy_says() {
    let _bench = Bench::new();
    let pod = Pod::start("e2e-again", &["--restart", "on-failure"], "echo up; exit 3");
    // The first time at once, then after a pause. It waits before it is started for the second time, too.
    pod.wait_for_log("up\nup\n");
    let until = Instant::now() + Duration::from_secs(10) * slowness();
    loop {
        let record = pod.record();
        let container = &record["record"]["containers"][0];
        assert_eq!(container["restarts"], 1);
        if container["phase"] == "waiting" {
            assert_eq!(container["exit"]["code"], 3);
            break;
        }
        assert!(Instant::now() < until, "{record:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let listed = podvmm_does(&["ps"]).status(0).text();
    assert!(listed.contains("(restarting)"), "{listed}");
    assert_eq!(
        podvmm_does(&["logs", "e2e-again"]).status(0).text(),
        "up\nup\n"
    );
    podvmm_does(&["stop", "e2e-again"]).status(0);
    podvmm_does(&["wait", "e2e-again"]).prints("3\n");
}

#[test]
fn a_pod_in_the_foreground_is_steered_like_others() {
    let bench = Bench::new();
    let script = "trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 0.1; done";
    let mut running = bench.sh_with(["--name", "e2e-front"], script).start();
    running.wait_for("ready\n");
    let listed = podvmm_does(&["ps", "--json"]).status(0).text();
    let pods: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(pods[0]["name"], "e2e-front");
    assert_eq!(pods[0]["foreground"], true);
    podvmm_does(&["exec", "e2e-front", "echo", "inside"]).prints("inside\n");
    podvmm_does(&["logs", "e2e-front"]).failed(125, &["foreground"]);
    podvmm_does(&["stop", "e2e-front"]).prints("e2e-front\n");
    assert_eq!(running.wait().status(4).text(), "ready\nbye\n");
    assert_eq!(podvmm_does(&["ps", "-aq"]).status(0).text(), "");
}

/// What docs/embedding.md says of the library.
#[test]
fn a_program_of_its_own_does_all_of_it_with_the_library() {
    let _bench = Bench::new();
    let test = std::env::current_exe().expect("it has a path");
    let built = test
        .ancestors()
        .nth(2)
        .expect("it is in deps")
        .join("examples/stay");
    let mut command = Command::new(&built);
    command
        .arg(rootfs::shared())
        .env("PODVMM_VMM", podvmm().with_file_name("podvmm-vmm"))
        .env("PODVMM_GUEST_DIR", guest_dir());
    let said = Run::new(command).outcome().status(0).text();
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].ends_with(" is running"), "{said}");
    assert!(
        lines[1].starts_with("status 0: ") && lines[1].ends_with("-podvmm"),
        "{said}"
    );
    assert!(lines[2].starts_with("main: "), "{said}");
    assert_eq!(
        lines[3..],
        ["killed: 137", "stdout: up", "pods left: 0"],
        "{said}"
    );
}

#[test]
fn rm_goes_with_the_end_if_asked() {
    let _bench = Bench::new();
    let _pod = Pod::start("e2e-gone", &["--rm"], "sleep 1");
    podvmm_does(&["wait", "e2e-gone"]).prints("0\n");
    let until = Instant::now() + Duration::from_secs(1) * slowness();
    while !podvmm_does(&["ps", "-aq"]).status(0).text().is_empty() {
        assert!(Instant::now() < until, "it is still there");
    }
}
