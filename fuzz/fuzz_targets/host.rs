//! What the host's side reads of others: frames of the agent, reports of a VMM process that its guest has
//! taken over, OCI configurations.
#![no_main]

use std::io::Read;

use agent_protocol::SHARE_PATH;
use agent_protocol::frame::{MAX_FRAME_LEN, encode_frame, read_frame, read_message};
use agent_protocol::proto::{AgentEvent, StreamOpened};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use podvmm_agent_protocol as agent_protocol;
use podvmm_sandbox::bundle::{Bundle, process_for_guest};
use podvmm_sandbox::control::{self, Answer, Report};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde_json::{Map, Value};

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// What an agent writes, in pieces of this size.
    Frames(&'a [u8], u8),
    /// What a VMM process sends.
    Packet(&'a [u8]),
    /// The same, as JSON.
    Report(Json),
    Configuration(Json),
    Process(Json),
}

/// JSON out of words that mean something here.
#[derive(Arbitrary, Debug)]
enum Json {
    Null,
    Bool(bool),
    Number(i64),
    Word(u8),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(u8, Json)>),
}

const WORDS: &[&str] = &[
    "process",
    "args",
    "cwd",
    "terminal",
    "user",
    "uid",
    "env",
    "apparmorProfile",
    "selinuxLabel",
    "capabilities",
    "root",
    "path",
    "readonly",
    "hostname",
    "annotations",
    "hooks",
    "prestart",
    "poststop",
    "mounts",
    "destination",
    "type",
    "source",
    "options",
    "bind",
    "rbind",
    "ro",
    "rshared",
    "rprivate",
    "proc",
    "tmpfs",
    "/proc/self/status",
    "/dev/null",
    "/run/pod/shm",
    "/",
    "..",
    "linux",
    "namespaces",
    "pid",
    "mount",
    "ipc",
    "uts",
    "network",
    "user",
    "time",
    "cgroup",
    "cgroupsPath",
    "mountLabel",
    "rootfsPropagation",
    "resources",
    "devices",
    "memory",
    "cpu",
    "limit",
    "quota",
    "period",
    "sysctl",
    "seccomp",
    "defaultAction",
    "defaultErrnoRet",
    "architectures",
    "flags",
    "syscalls",
    "names",
    "action",
    "errnoRet",
    "index",
    "value",
    "valueTwo",
    "op",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ARCH_X86_64",
    "SCMP_ARCH_X86",
    "SCMP_CMP_EQ",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_GT",
    "read",
    "clone",
    "no_such_call",
    "running",
    "gaps",
    "failed",
    "file",
    "message",
    "kernel",
    "stopped",
    "end",
    "console",
    "power-off",
    "panic",
    "done",
    "refused",
];

fn word(number: u8) -> &'static str {
    WORDS[usize::from(number) % WORDS.len()]
}

impl From<Json> for Value {
    fn from(json: Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => value.into(),
            Json::Number(value) => value.into(),
            Json::Word(number) => word(number).into(),
            Json::Text(text) => text.into(),
            Json::List(items) => items.into_iter().map(Self::from).collect(),
            Json::Object(fields) => {
                let fields = fields.into_iter();
                let all = fields.map(|(name, value)| (word(name).to_owned(), value.into()));
                Self::Object(all.collect::<Map<_, _>>())
            }
        }
    }
}

/// Gives its bytes in pieces.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.len().min(buffer.len()).min(self.1);
        let (now, later) = self.0.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.0 = later;
        Ok(count)
    }
}

fn frames(bytes: &[u8], piece: u8) {
    let piece = usize::from(piece) + 1;
    let mut whole = Pieces(bytes, usize::MAX);
    let mut torn = Pieces(bytes, piece);
    loop {
        let (one, other) = (read_frame(&mut whole), read_frame(&mut torn));
        assert_eq!(one.is_ok(), other.is_ok());
        let (Ok(Some(one)), Ok(Some(other))) = (one, other) else {
            break;
        };
        assert_eq!(one, other, "pieces change nothing");
        assert!(one.len() <= MAX_FRAME_LEN);
        let again = encode_frame(&one).expect("it was one");
        assert_eq!(read_frame(&mut &again[..]).expect("it is one"), Some(one));
    }
    let mut reader = Pieces(bytes, piece);
    while let Ok(Some(_)) = read_message::<AgentEvent, _>(&mut reader) {}
    let _ = read_message::<StreamOpened, _>(&mut Pieces(bytes, piece));
}

fn packet(bytes: &[u8]) {
    let pair = || {
        socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
    };
    let (ours, theirs) = pair().expect("a pair of sockets");
    for _ in 0..2 {
        let _ = rustix::io::write(&theirs, bytes);
    }
    drop(theirs);
    if let Ok(Some((report, _))) = control::receive::<Report>(&ours) {
        // What was understood can be said again.
        let (a, b) = pair().expect("a pair of sockets");
        if control::send(&a, &report, &[]).is_ok() {
            let again = control::receive::<Report>(&b).expect("it was one");
            assert_eq!(again.map(|(report, _)| report), Some(report));
        }
    }
    let _ = control::receive::<Answer>(&ours);
}

fn configuration(text: &[u8]) {
    let Ok(bundle) = Bundle::from_json(text) else {
        return;
    };
    let _ = (
        bundle.limits(),
        bundle.sysctls(),
        bundle.hostname(),
        bundle.cgroups_path(),
    );
    let _ = bundle.annotations().count();
    let is_pod_shm = |path: &std::path::Path| path.ends_with("pod/shm");
    let Ok(guest) = bundle.for_guest("id", is_pod_shm) else {
        return;
    };
    let spec: Value = serde_json::from_slice(&guest.spec_json()).expect("it is JSON");
    assert!(spec.get("annotations").is_none() && spec.get("hooks").is_none());
    for mount in spec["mounts"].as_array().into_iter().flatten() {
        let options = mount["options"].as_array().into_iter().flatten();
        let is_bind =
            mount["type"] == "bind" || options.clone().any(|o| o == "bind" || o == "rbind");
        let source = mount["source"].as_str().unwrap_or_default();
        assert!(
            !is_bind || source == "/dev/shm" || source.starts_with(SHARE_PATH),
            "{mount}: a path of the host"
        );
        assert!(
            !options.clone().any(|option| option == "rshared"),
            "{mount}"
        );
    }
    for share in &guest.shares {
        assert!(share.name.starts_with("id-") && !share.name.contains('/'));
    }
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Frames(bytes, piece) => frames(bytes, piece),
    Input::Packet(bytes) => packet(bytes),
    Input::Report(json) => packet(Value::from(json).to_string().as_bytes()),
    Input::Configuration(json) => {
        // What every configuration has, so that more than the first check is met.
        let mut spec = Value::from(json);
        if let Some(spec) = spec.as_object_mut() {
            spec.entry("process")
                .or_insert_with(|| serde_json::json!({}));
            let linux = spec.entry("linux").or_insert_with(|| serde_json::json!({}));
            let namespaces: Vec<_> = ["pid", "mount", "ipc", "uts", "network"]
                .map(|kind| serde_json::json!({ "type": kind }))
                .into();
            if let Some(linux) = linux.as_object_mut() {
                linux.entry("namespaces").or_insert(namespaces.into());
            }
        }
        configuration(spec.to_string().as_bytes());
    }
    Input::Process(json) => {
        let _ = process_for_guest(Value::from(json).to_string().as_bytes());
    }
});
