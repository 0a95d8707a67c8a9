//! One `podvmm run`, from the command line to what it left behind.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::left_behind::Traces;
use crate::rootfs;

/// The lab runs at a twentieth of a real machine's speed.
pub fn slowness() -> u32 {
    if std::env::var_os("LAB").is_some() {
        10
    } else {
        1
    }
}

/// An error that needs no VM is said within this time.
pub fn at_once() -> Duration {
    Duration::from_secs(1) * slowness().min(4)
}

fn limit() -> Duration {
    Duration::from_secs(10) * slowness()
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is a folder of the repository")
}

/// The program under test.
pub fn podvmm() -> PathBuf {
    std::env::var_os("PODVMM_BIN").map_or_else(
        || repository().join("target/x86_64-unknown-linux-gnu/release/podvmm"),
        PathBuf::from,
    )
}

/// Where the guest's kernel and initramfs are.
pub fn guest_dir() -> PathBuf {
    std::env::var_os("PODVMM_GUEST_DIR")
        .map_or_else(|| repository().join("build/guest"), PathBuf::from)
}

/// Panics unless pods can run here at all.
fn require_kvm() {
    static VERDICT: OnceLock<Result<(), String>> = OnceLock::new();
    let verdict = VERDICT.get_or_init(|| {
        let speed = vmm::probe::measure().map_err(|error| error.to_string())?;
        speed.verdict().map_err(|error| error.to_string())
    });
    if let Err(reason) = verdict {
        panic!("this test needs a usable KVM, run it by `make test`: {reason}");
    }
}

/// What each test holds while it runs: pods of one test at a time, so that what is left behind is
/// that test's.
pub struct Bench {
    before: Traces,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    /// For a test that runs pods.
    pub fn new() -> Self {
        require_kvm();
        Self::without_kvm()
    }

    /// For a test of what podvmm says where it cannot run any.
    pub fn without_kvm() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let podvmm = podvmm();
        assert!(
            podvmm.exists(),
            "{} is missing: run `make build`",
            podvmm.display()
        );
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            before: Traces::now(),
            _alone: alone,
        }
    }

    /// `podvmm run` with these arguments.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Run {
        let mut command = Command::new(podvmm());
        command
            .arg("run")
            .args(args)
            .env("PODVMM_GUEST_DIR", guest_dir());
        Run::new(command)
    }

    /// A shell script in a container with a root of busybox.
    pub fn sh(&self, script: &str) -> Run {
        self.sh_with([""; 0], script)
    }

    /// The same, with more options.
    pub fn sh_with<A: AsRef<OsStr>>(
        &self,
        options: impl IntoIterator<Item = A>,
        script: &str,
    ) -> Run {
        let mut run = self.run(["--rootfs"]);
        run.command
            .arg(rootfs::shared())
            .args(options)
            .args(["--", "sh", "-c", script]);
        run
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.before.expect_no_more();
        }
    }
}

/// A run that has not started.
pub struct Run {
    pub command: Command,
    stdin: Vec<u8>,
    limit: Duration,
}

impl Run {
    pub fn new(command: Command) -> Self {
        Self {
            command,
            stdin: Vec::new(),
            limit: limit(),
        }
    }

    /// What the command reads before its end of file.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// A longer limit than usual, for a real machine.
    pub fn within(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds) * slowness();
        self
    }

    pub fn start(mut self) -> Running {
        let shown = format!("{:?}", self.command);
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        let mut stdin = child.stdin.take().expect("it is piped");
        let bytes = self.stdin;
        // A command that does not read all of it closes it early, which is its good right.
        thread::spawn(move || drop(stdin.write_all(&bytes)));
        let stdout = collect(child.stdout.take().expect("it is piped"));
        let stderr = collect(child.stderr.take().expect("it is piped"));
        Running {
            child,
            shown,
            stdout,
            stderr,
            began: Instant::now(),
            limit: self.limit,
        }
    }

    /// Runs it to its end.
    pub fn outcome(self) -> Outcome {
        self.start().wait()
    }
}

type Collected = (JoinHandle<()>, std::sync::Arc<Mutex<Vec<u8>>>);

fn collect(mut from: impl Read + Send + 'static) -> Collected {
    let bytes = std::sync::Arc::new(Mutex::new(Vec::new()));
    let into = bytes.clone();
    let thread = thread::spawn(move || {
        let mut part = vec![0; 1 << 16];
        while let Ok(read @ 1..) = from.read(&mut part) {
            into.lock()
                .expect("nobody panics with it")
                .extend_from_slice(&part[..read]);
        }
    });
    (thread, bytes)
}

/// A run on its way.
pub struct Running {
    child: Child,
    shown: String,
    stdout: Collected,
    stderr: Collected,
    began: Instant,
    limit: Duration,
}

impl Running {
    /// Sends a signal to `podvmm`, and to nobody else.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it is still running");
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the command has written this.
    pub fn wait_for(&mut self, text: &str) {
        while !self.has_written(text) {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                // The last bytes may still be on their way to us.
                thread::sleep(Duration::from_millis(100));
                assert!(
                    self.has_written(text),
                    "{} ended ({status}) before it wrote {text:?}; stderr: {}",
                    self.shown,
                    String::from_utf8_lossy(&self.stderr.1.lock().expect("nobody panics with it")),
                );
            }
            assert!(
                self.began.elapsed() < self.limit,
                "{} never wrote {text:?}",
                self.shown
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it has written so far.
    pub fn written(&self) -> String {
        let bytes = self.stdout.1.lock().expect("nobody panics with it");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn has_written(&self, text: &str) -> bool {
        let bytes = self.stdout.1.lock().expect("nobody panics with it");
        bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    }

    pub fn wait(mut self) -> Outcome {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                break status;
            }
            if self.began.elapsed() > self.limit {
                let _ = self.child.kill();
                let _ = self.child.wait();
                panic!(
                    "{} did not end within {:?}; stderr: {}",
                    self.shown,
                    self.limit,
                    String::from_utf8_lossy(&self.stderr.1.lock().expect("nobody panics with it")),
                );
            }
            thread::sleep(Duration::from_millis(5));
        };
        let took = self.began.elapsed();
        let finish = |(thread, bytes): Collected| {
            thread.join().expect("it does not panic");
            std::mem::take(&mut *bytes.lock().expect("nobody panics with it"))
        };
        Outcome {
            shown: self.shown,
            code: status.code(),
            signal: status.signal(),
            stdout: finish(self.stdout),
            stderr: String::from_utf8_lossy(&finish(self.stderr)).into_owned(),
            took,
        }
    }
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    pub shown: String,
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub took: Duration,
}

impl Outcome {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Exactly this status.
    #[track_caller]
    pub fn status(self, expected: i32) -> Self {
        assert_eq!(
            (self.code, self.signal),
            (Some(expected), None),
            "{}\nstdout: {}\nstderr: {}",
            self.shown,
            self.text().chars().take(2000).collect::<String>(),
            self.stderr,
        );
        self
    }

    /// Success, and exactly this output.
    #[track_caller]
    pub fn prints(self, expected: &str) -> Self {
        let outcome = self.status(0);
        assert_eq!(
            outcome.text(),
            expected,
            "{}\nstderr: {}",
            outcome.shown,
            outcome.stderr
        );
        outcome
    }

    /// Refused with one message that has all these words, without a VM and at once.
    #[track_caller]
    pub fn refused(self, words: &[&str]) -> Self {
        let outcome = self.failed(125, words);
        assert!(
            outcome.took < at_once(),
            "{} took {:?}",
            outcome.shown,
            outcome.took
        );
        outcome
    }

    /// Ended with this status and one message that has all these words.
    #[track_caller]
    pub fn failed(self, status: i32, words: &[&str]) -> Self {
        let outcome = self.status(status);
        let message = outcome.stderr.to_lowercase();
        for word in words {
            assert!(
                message.contains(&word.to_lowercase()),
                "{}: no {word:?} in: {}",
                outcome.shown,
                outcome.stderr,
            );
        }
        assert!(
            !message.contains("panicked at"),
            "{}: {}",
            outcome.shown,
            outcome.stderr
        );
        assert!(
            outcome.stdout.is_empty(),
            "{} printed {}",
            outcome.shown,
            outcome.text()
        );
        outcome
    }
}

/// The path of a file with these bytes.
pub fn file(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    File::create(&path)
        .and_then(|mut file| file.write_all(bytes))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}
