//! The two short commands that containerd runs, with what should not be in a bundle.

#![allow(clippy::unwrap_used)] // all of this is a test

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::Message;
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

/// Runs the program as containerd does, with the bundle as working directory.
fn shim(bundle: &Path, command: &str) -> Output {
    run(
        bundle,
        &format!("podvmm-test-{}", std::process::id()),
        command,
    )
}

fn run(bundle: &Path, id: &str, command: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_containerd-shim-podvmm-v2"))
        .args(["-namespace", "test", "-address", "", "-id", id, command])
        .current_dir(bundle)
        .output()
        .unwrap()
}

/// `start` with this config.json fails, and says all these words.
fn refused(config: Option<&str>, words: &[&str]) {
    let bundle = TempDir::new().unwrap();
    if let Some(config) = config {
        fs::write(bundle.path().join("config.json"), config).unwrap();
    }
    let output = shim(bundle.path(), "start");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{config:?}: {output:?}");
    assert!(output.stdout.is_empty(), "an address: {output:?}");
    for word in words {
        assert!(said.contains(word), "no {word:?} in {said:?}");
    }
    let left = fs::read_dir(bundle.path()).unwrap().count();
    assert_eq!(left, usize::from(config.is_some()), "files were left");
}

#[test]
fn a_bundle_that_is_none_is_refused() {
    refused(None, &["config.json"]);
    for text in ["", "{", "[]", "\"x\"", "\u{0}"] {
        refused(Some(text), &["config.json", "no OCI configuration"]);
    }
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(1 << 20));
    refused(Some(&long), &["config.json", "at most 1048576"]);
}

#[test]
fn annotations_under_our_prefix_are_refused_by_name() {
    for name in [
        "io.podvmm.kernel",
        "io.podvmm.vmm.path",
        "io.podvmm.kernel-arguments",
        "io.podvmm.",
    ] {
        let config = format!(r#"{{"annotations":{{"{name}":"/etc/passwd"}}}}"#);
        refused(Some(&config), &[name, "take it out"]);
    }
}

#[test]
fn a_container_of_no_pod_is_refused() {
    let kind = r#""io.kubernetes.cri.container-type":"container""#;
    let with = |sandbox: &str| {
        format!(r#"{{"annotations":{{{kind},"io.kubernetes.cri.sandbox-id":"{sandbox}"}}}}"#)
    };
    refused(Some(&with("gone")), &["the pod gone has no shim"]);
    for hostile in ["", "../../etc", "a/b", "..", ".hidden"] {
        refused(
            Some(&with(hostile)),
            &["sandbox-id", "no name of a sandbox"],
        );
    }
    refused(
        Some(&format!(r#"{{"annotations":{{{kind}}}}}"#)),
        &["sandbox-id is missing"],
    );
    refused(
        Some(r#"{"annotations":{"io.kubernetes.cri.container-type":"pod"}}"#),
        &["unknown type", "pod"],
    );
}

#[test]
fn deleting_what_is_not_there_works_and_can_be_repeated() {
    let bundle = TempDir::new().unwrap();
    for _ in 0..2 {
        let output = shim(bundle.path(), "delete");
        assert!(output.status.success(), "{output:?}");
        let response = DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!(response.exit_status, 137);
    }
}

/// A shim for a container of no pod, in a bundle of its own. It is only made for root.
struct Shim {
    bundle: TempDir,
    id: String,
}

impl Shim {
    fn start(name: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let bundle = TempDir::new().unwrap();
        fs::write(bundle.path().join("config.json"), "{}").unwrap();
        let id = format!("podvmm-test-{name}-{}", std::process::id());
        let shim = Self { bundle, id };
        let output = shim.run("start");
        assert!(output.status.success(), "{output:?}");
        let address = String::from_utf8(output.stdout).unwrap();
        assert_eq!(address, format!("unix://{}", shim.socket().display()));
        Some(shim)
    }

    fn run(&self, command: &str) -> Output {
        run(self.bundle.path(), &self.id, command)
    }

    fn socket(&self) -> PathBuf {
        Path::new("/run/podvmm-shim/test").join(format!("{}.sock", self.id))
    }

    /// The number of the process that serves, which is not the one that made the socket.
    fn pid(&self) -> Pid {
        loop {
            let connection = UnixStream::connect(self.socket()).unwrap();
            let pid = socket_peercred(&connection).unwrap().pid;
            if test_kill_process(pid).is_ok() {
                return pid;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_gone_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.socket().exists() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

#[test]
fn a_shim_that_containerd_has_forgotten_ends_when_its_container_is_deleted() {
    let Some(shim) = Shim::start("forgotten") else {
        return;
    };
    assert!(shim.run("delete").status.success());
    assert!(shim.is_gone_within(Duration::from_secs(10)));
}

#[test]
fn a_shim_that_hangs_is_killed_after_delete_has_answered() {
    let Some(shim) = Shim::start("hanging") else {
        return;
    };
    kill_process(shim.pid(), Signal::STOP).unwrap();
    // As many as can wait for it, for instance because somebody has tried again and again.
    let address = SocketAddrUnix::new(shim.socket()).unwrap();
    let mut waiting = Vec::new();
    loop {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let ours = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        match connect(&ours, &address) {
            Ok(()) => waiting.push(ours),
            Err(error) => break assert_eq!(error, Errno::AGAIN),
        }
    }
    let began = Instant::now();
    assert!(shim.run("delete").status.success());
    // containerd waits five seconds.
    assert!(began.elapsed() < Duration::from_secs(4), "{began:?}");
    assert!(shim.is_gone_within(Duration::from_secs(30)));
}

#[test]
fn a_name_is_free_for_another_shim_once_the_former_has_ended() {
    let Some(shim) = Shim::start("again") else {
        return;
    };
    let former = shim.pid();
    let again = std::thread::scope(|scope| {
        let again = scope.spawn(|| shim.run("start"));
        std::thread::sleep(Duration::from_millis(300));
        kill_process(former, Signal::KILL).unwrap();
        again.join().unwrap()
    });
    assert!(again.status.success(), "{again:?}");
    assert_ne!(shim.pid(), former);
    assert!(shim.run("delete").status.success());
    assert!(shim.is_gone_within(Duration::from_secs(10)));
}
