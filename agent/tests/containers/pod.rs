//! A pod without a guest, and the host's side of it.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agent_protocol::client;
use agent_protocol::frame::read_message;
use agent_protocol::proto::stream_open::Stream;
use agent_protocol::proto::{
    AgentClient, AgentEvent, CreateContainerRequest, ExitStatus, HelloRequest, PowerOffRequest,
    Rootfs, SetupPodRequest, SignalContainerRequest, StartContainerRequest, StartError,
    StatsRequest, StatsResponse, Stdio, StreamOpen, WaitContainerRequest,
};
use agent_protocol::{CONTROL_PORT, PROTOCOL_VERSION, STREAM_PORT};
use tempfile::TempDir;
use ttrpc::context::Context;

use crate::agent::AGENT_MODE;
use crate::config::Config;

/// Longest time that anything may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

static PODS: AtomicU32 = AtomicU32::new(0);

/// Why no case can run here.
pub fn missing() -> Option<String> {
    let uid = fs::metadata("/proc/self")
        .map(|proc| proc.uid())
        .unwrap_or(u32::MAX);
    if uid != 0 {
        return Some("needs root".to_owned());
    }
    let unshare = Command::new("unshare")
        .args(["-mpf", "--mount-proc", "true"])
        .status();
    if !unshare.is_ok_and(|status| status.success()) {
        return Some("unshare(1) cannot make namespaces here".to_owned());
    }
    cgroup2_mount()
        .is_none()
        .then(|| "no cgroup2 is mounted".to_owned())
}

fn cgroup2_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    line.split(' ').nth(1).map(PathBuf::from)
}

/// Which of `controllers` no cgroup of a pod can have here.
pub fn missing_controllers(controllers: &[&'static str]) -> Option<String> {
    let path = cgroup2_mount()?.join("cgroup.controllers");
    let present = fs::read_to_string(path).unwrap_or_default();
    let missing = controllers
        .iter()
        .find(|name| !present.split_whitespace().any(|has| has == **name))?;
    Some(format!("cgroup2 has no controller {missing:?} here"))
}

/// A running agent, greeted and set up.
pub struct Pod {
    pub client: AgentClient,
    pub lifeline: UnixStream,
    directory: TempDir,
    cgroup: PathBuf,
    process: Child,
}

impl Pod {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("volumes")).unwrap();
        let number = PODS.fetch_add(1, Ordering::Relaxed);
        let name = format!("podvmm-test-{}-{number}", std::process::id());
        let hierarchy = cgroup2_mount().unwrap();
        for controller in crate::limits::CONTROLLERS {
            // Those cases that need one are skipped where it is missing.
            let _ = fs::write(
                hierarchy.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
        let cgroup = hierarchy.join(name);
        fs::create_dir(&cgroup).unwrap();
        let listener = UnixListener::bind(directory.path().join("lifeline.sock")).unwrap();
        let script = "echo $$ > \"$1\"/cgroup.procs && shift && \
                      exec unshare -mpnCf --kill-child --propagation private --mount-proc \"$@\"";
        let mut process = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&cgroup)
            .arg(std::env::current_exe().unwrap())
            .arg(AGENT_MODE)
            .arg(directory.path())
            .spawn()
            .unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut lifeline = loop {
            match listener.accept() {
                Ok((lifeline, _)) => break lifeline,
                Err(_) => assert_eq!(process.try_wait().unwrap(), None, "the agent did not start"),
            }
            thread::sleep(Duration::from_millis(1));
        };
        let event: AgentEvent = read_message(&mut lifeline).unwrap().unwrap();
        assert_eq!(event.hello().protocol_version, PROTOCOL_VERSION);
        fs::write(hierarchy.join("cgroup.procs"), process.id().to_string()).unwrap();
        let control = directory.path().join(format!("{CONTROL_PORT}.sock"));
        let client = client::connect(UnixStream::connect(control).unwrap()).unwrap();
        let pod = Self {
            client,
            lifeline,
            directory,
            cgroup,
            process,
        };
        let hello = HelloRequest {
            protocol_version: PROTOCOL_VERSION,
            ..Default::default()
        };
        pod.client.hello(context(), &hello).unwrap();
        let setup = SetupPodRequest {
            shared_pids: true,
            ..Default::default()
        };
        pod.client.setup_pod(context(), &setup).unwrap();
        pod
    }

    /// Powers off and looks that nothing is left.
    pub fn finish(mut self) {
        let _ = self.client.power_off(context(), &PowerOffRequest::new());
        let deadline = Instant::now() + PATIENCE;
        while self.process.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the agent does not end");
            thread::sleep(Duration::from_millis(2));
        }
        let events = fs::read_to_string(self.cgroup.join("cgroup.events")).unwrap();
        assert!(
            events.contains("populated 0"),
            "processes are left: {events}"
        );
        remove_cgroup(&self.cgroup);
    }

    /// A further connection to the control port.
    pub fn connect(&self) -> AgentClient {
        let path = self.directory.path().join(format!("{CONTROL_PORT}.sock"));
        client::connect(UnixStream::connect(path).unwrap()).unwrap()
    }

    /// A connection to the stream port.
    pub fn stream_connection(&self) -> UnixStream {
        let path = self.directory.path().join(format!("{STREAM_PORT}.sock"));
        UnixStream::connect(path).unwrap()
    }

    /// Attaches a stream.
    pub fn attach(&self, id: &str, stream: Stream) -> UnixStream {
        let mut connection = self.stream_connection();
        let open = StreamOpen {
            container_id: id.to_owned(),
            stream: stream.into(),
            ..Default::default()
        };
        client::open_stream(&mut connection, &open).unwrap();
        connection
    }

    /// The directory that containers find as `volumes` of the share.
    pub fn volumes(&self) -> PathBuf {
        self.directory.path().join("volumes")
    }

    /// Names of the containers' cgroups.
    pub fn container_cgroups(&self) -> Vec<String> {
        fs::read_dir(self.cgroup.join("podvmm"))
            .unwrap()
            .filter_map(Result::ok)
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect()
    }

    /// Identifier of the agent's process on this machine.
    pub fn agent_pid(&self) -> String {
        let parent = self.process.id();
        let children = format!("/proc/{parent}/task/{parent}/children");
        fs::read_to_string(children)
            .unwrap()
            .split_whitespace()
            .next()
            .unwrap()
            .to_owned()
    }

    pub fn create(&self, id: &str, config: &Config) -> ttrpc::Result<()> {
        let stdio = Stdio {
            tty: config.tty,
            rows: 24,
            cols: 80,
            stdin: config.stdin,
            stdout: !config.tty,
            stderr: !config.tty,
            ..Default::default()
        };
        let rootfs = Rootfs {
            path: config.rootfs.clone(),
            mode: config.mode.into(),
            ..Default::default()
        };
        let request = CreateContainerRequest {
            container_id: id.to_owned(),
            oci_spec_json: config.spec.to_string().into_bytes(),
            rootfs: Some(rootfs).into(),
            stdio: Some(stdio).into(),
            seccomp_bpf: config.seccomp_bpf.clone(),
            pid_namespace_of: config.pid_namespace_of.clone(),
            ..Default::default()
        };
        self.client.create_container(context(), &request).map(drop)
    }

    /// Creates a container that can be created.
    pub fn must_create(&self, id: &str, config: &Config) {
        if let Err(error) = self.create(id, config) {
            panic!("{id}: {error}");
        }
    }

    /// Creates and starts a container whose output nobody wants.
    pub fn start_quiet(&self, id: &str, config: &Config) {
        self.must_create(id, config);
        drop([Stream::STDOUT, Stream::STDERR].map(|stream| self.attach(id, stream)));
        assert_eq!(self.begin(id), None);
    }

    /// The next event, with the time it may take.
    pub fn event(&self) -> AgentEvent {
        self.lifeline.set_read_timeout(Some(PATIENCE)).unwrap();
        read_message(&mut &self.lifeline).unwrap().unwrap()
    }

    pub fn signal(&self, id: &str, signal: u32, all: bool) -> ttrpc::Result<()> {
        let request = SignalContainerRequest {
            container_id: id.to_owned(),
            signal,
            all,
            ..Default::default()
        };
        self.client.signal_container(context(), &request).map(drop)
    }

    pub fn begin(&self, id: &str) -> Option<StartError> {
        let request = StartContainerRequest {
            container_id: id.to_owned(),
            ..Default::default()
        };
        self.client
            .start_container(context(), &request)
            .unwrap()
            .start_error
            .into_option()
    }

    pub fn wait(&self, id: &str) -> ExitStatus {
        let request = WaitContainerRequest {
            container_id: id.to_owned(),
            ..Default::default()
        };
        self.client
            .wait_container(context(), &request)
            .unwrap()
            .status
            .unwrap()
    }

    pub fn stats(&self, id: &str) -> StatsResponse {
        let request = StatsRequest {
            container_id: id.to_owned(),
            ..Default::default()
        };
        self.client.stats(context(), &request).unwrap()
    }

    /// Runs a container to its end with `input`, and gives what it wrote.
    pub fn run(&self, id: &str, config: &Config, input: &[u8]) -> Ended {
        self.must_create(id, config);
        let stdin = config.stdin.then(|| self.attach(id, Stream::STDIN));
        let stdout = self.attach(id, Stream::STDOUT);
        let stderr = self.attach(id, Stream::STDERR);
        let (stdout, stderr) = (collect(stdout), collect(stderr));
        assert_eq!(self.begin(id), None);
        if let Some(mut stdin) = stdin {
            // Who ends early need not have read it all.
            let _ = stdin.write_all(input);
            let _ = stdin.shutdown(Shutdown::Write);
        }
        let status = self.wait(id);
        Ended {
            status,
            stdout: stdout.join().unwrap(),
            stderr: stderr.join().unwrap(),
        }
    }

    /// Runs a shell script in the usual container; what it wrote must be all on standard output.
    pub fn script(&self, id: &str, script: &str) -> String {
        let ended = self.run(id, &Config::script(script), b"");
        assert_eq!(ended.stderr_text(), "");
        assert_eq!(ended.status.exit_code(), 0);
        ended.stdout_text()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // After a failed case; the agent takes its containers along.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if self.cgroup.exists() {
            let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
            let deadline = Instant::now() + Duration::from_secs(2);
            while self.cgroup.exists() && Instant::now() < deadline {
                remove_cgroup(&self.cgroup);
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

fn remove_cgroup(path: &Path) {
    let below = fs::read_dir(path)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    below
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .for_each(|path| remove_cgroup(&path));
    let _ = fs::remove_dir(path);
}

/// Reads a stream to its end in a thread.
pub fn collect(mut stream: UnixStream) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

pub fn context() -> Context {
    ttrpc::context::with_duration(PATIENCE)
}

/// The code of a refused call.
pub fn code<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> ttrpc::Code {
    match result.unwrap_err() {
        ttrpc::Error::RpcStatus(status) => status.code(),
        other => panic!("no status: {other}"),
    }
}

/// What a container left.
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Ended {
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}
