//! Runs the payload.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use podvmm_sandbox::jail::{Terms, WardenOptions, confine};
use podvmm_sandbox::{JailMode, control};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde_json::{Value, json};

/// The other user that root tries as.
const USER: u32 = 54_321;
/// 128 and the number of SIGSYS.
const REFUSED_CALL: i32 = 159;

/// One attempt.
#[derive(Clone, Debug)]
pub struct Try {
    name: String,
    mode: JailMode,
    seccomp: &'static str,
    thread: &'static str,
    user: Option<u32>,
}

impl Try {
    /// In the jail, without a filter.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            mode: JailMode::Full,
            seccomp: "off",
            thread: "main",
            user: None,
        }
    }

    pub fn without_jail(self) -> Self {
        Self {
            mode: JailMode::Off,
            ..self
        }
    }

    pub fn by(self, user: Option<u32>) -> Self {
        Self { user, ..self }
    }

    pub fn filtered_as(self, thread: &'static str) -> Self {
        Self {
            seccomp: "enforce",
            thread,
            ..self
        }
    }
}

/// How it ended.
#[derive(Debug)]
pub struct Outcome {
    report: Option<Value>,
    status: Option<i32>,
    stderr: String,
}

impl Outcome {
    /// Whether nobody refused.
    pub fn worked(&self) -> bool {
        // Who executes another program does not come back to say so.
        self.status == Some(0) && matches!(&self.report, Some(report) if report == "Done")
            || self.status == Some(0) && self.report.is_none() && self.stderr.is_empty()
    }

    /// The error number of a refusal.
    pub fn refused(&self) -> Option<i32> {
        i32::try_from(self.report.as_ref()?.get("Refused")?.as_i64()?).ok()
    }

    /// Whether this machine allows no jail to this user, which is said.
    pub fn is_no_jail(&self, user: Option<u32>) -> bool {
        let reason = self.report.as_ref().and_then(|report| report.get("NoJail"));
        if let Some(reason) = reason {
            println!("skipped: no full jail on this machine for {user:?}: {reason}");
        }
        reason.is_some()
    }

    /// Ended by the filter, for this call.
    #[track_caller]
    pub fn ended_for(&self, call: &str) {
        assert_eq!(self.status, Some(REFUSED_CALL), "{call}: {self:?}");
        let said = format!(": system call {call} (");
        assert!(
            self.stderr.starts_with("podvmm-vmm: thread ") && self.stderr.contains(&said),
            "{call}: {self:?}"
        );
    }
}

/// What attempts are about: shares, a process, sockets.
pub struct Bed {
    dir: PathBuf,
    process: Child,
    network: TcpListener,
    _abstract: UnixListener,
}

impl Bed {
    pub fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("podvmm-jail-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        for name in ["root", "writable", "read-only"] {
            fs::create_dir_all(dir.join(name)).unwrap();
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o777)).unwrap();
        }
        fs::copy("/bin/true", dir.join("writable/program")).unwrap();
        let network = TcpListener::bind("127.0.0.1:0").unwrap();
        let process = Command::new("sleep").arg("1000").spawn().unwrap();
        let address = format!("podvmm-jail-{}", process.id());
        let address = SocketAddr::from_abstract_name(address).unwrap();
        let bed = Self {
            _abstract: UnixListener::bind_addr(&address).unwrap(),
            dir,
            process,
            network,
        };
        if bed.is_root() {
            // The node of /dev/zero, which anybody may read.
            let node = bed.dir.join("writable/node");
            let (kind, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(0o666));
            let device = rustix::fs::makedev(1, 5);
            rustix::fs::mknodat(rustix::fs::CWD, &node, kind, mode, device).unwrap();
            fs::set_permissions(&node, fs::Permissions::from_mode(0o666)).unwrap();
        } else {
            // Nobody else makes one; a name is all there is then.
            std::os::unix::fs::symlink("/dev/zero", bed.dir.join("writable/node")).unwrap();
        }
        bed
    }

    pub fn is_root(&self) -> bool {
        rustix::process::geteuid().is_root()
    }

    /// Who tries: this user, and for root another one as well.
    pub fn users(&self) -> Vec<Option<u32>> {
        if self.is_root() {
            vec![None, Some(USER)]
        } else {
            vec![None]
        }
    }

    pub fn attempt(&self, what: &Try) -> Outcome {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let warden = WardenOptions {
            mode: what.mode,
            runtime_dir: self.dir.join("runtime"),
            cgroup: None,
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_podvmm-jail-payload"));
        command
            .args(warden.to_args())
            .stdin(theirs)
            .stderr(Stdio::piped());
        if let Some(user) = what.user {
            command.uid(user).gid(user);
        }
        let mut child = command.spawn().unwrap();
        drop(command);
        self.order(what, &ours);
        let report = control::receive::<Value>(&ours).unwrap();
        let mut stderr = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        Outcome {
            report: report.map(|(report, _)| report),
            status: child.wait().unwrap().code(),
            stderr,
        }
    }

    fn order(&self, what: &Try, to: &OwnedFd) {
        let number = match what.name.as_str() {
            "connect-by-network" => self.network.local_addr().unwrap().port().into(),
            _ => self.process.id(),
        };
        let order = json!({
            "attempt": what.name,
            "number": number,
            "thread": what.thread,
            "seccomp": what.seccomp,
        });
        let open = ["root", "writable", "read-only"].map(|name| open(&self.dir.join(name)));
        let terms = [true, false, true].map(|read_only| Terms {
            read_only,
            ..Terms::default()
        });
        let shares: Vec<_> = open.iter().map(AsFd::as_fd).zip(terms).collect();
        let given = if what.mode == JailMode::Off {
            open.into()
        } else {
            confine(&shares).unwrap()
        };
        let fds: Vec<_> = given.iter().map(AsFd::as_fd).collect();
        control::send(to, &order, &fds).unwrap();
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
}
