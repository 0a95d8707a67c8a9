//! The process outside: it starts the VMM in namespaces of its own, waits, and cleans up.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, geteuid, kill_process, waitpid};

use super::{JailMode, Placement, identity, sys};
use crate::{logging, rundir};

/// First argument of the program inside; the second is the gate's descriptor.
pub const INSIDE: &str = "--inside";
/// Name of the VMM process.
const NAME: &std::ffi::CStr = c"podvmm-vmm";
/// Its warden's.
const WARDEN_NAME: &std::ffi::CStr = c"podvmm-warden";

const OWN_FAILURE: u8 = 125;

const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// What the warden is told on its command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WardenOptions {
    /// How much of a jail there must be.
    pub mode: JailMode,
    /// The pod's directory, removed when the VMM has ended and nobody owns it.
    pub runtime_dir: PathBuf,
    /// The cgroup (v2) that the VMM is started in.
    pub cgroup: Option<PathBuf>,
}

impl WardenOptions {
    /// The options as arguments.
    #[must_use]
    pub fn to_args(&self) -> Vec<std::ffi::OsString> {
        let mut args = vec!["--jail".into(), self.mode.to_string().into()];
        args.extend(["--runtime-dir".into(), self.runtime_dir.clone().into()]);
        if let Some(cgroup) = &self.cgroup {
            args.extend(["--cgroup".into(), cgroup.into()]);
        }
        args
    }

    /// Reads what [`to_args`](Self::to_args) wrote.
    ///
    /// # Errors
    /// The argument that was not understood.
    pub fn from_args(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Self, String> {
        let mut options = Self::default();
        let mut args = args.into_iter();
        while let Some(name) = args.next() {
            let value = args.next().ok_or("an argument without a value")?;
            match name.to_str() {
                Some("--jail") => options.mode = value.to_string_lossy().parse()?,
                Some("--runtime-dir") => options.runtime_dir = value.into(),
                Some("--cgroup") => options.cgroup = Some(value.into()),
                _ => return Err(format!("unknown argument {}", name.display())),
            }
        }
        if options.runtime_dir.as_os_str().is_empty() {
            return Err("no --runtime-dir".into());
        }
        Ok(options)
    }
}

/// Is the warden: returns when the VMM has ended, with its status.
#[must_use]
pub fn warden(options: &WardenOptions) -> ExitCode {
    let status = start(options).and_then(|vmm| wait_for(vmm).map_err(io::Error::from));
    rundir::remove_abandoned(&options.runtime_dir);
    match status {
        Ok(status) => exit_code(status),
        Err(error) => {
            eprintln!("podvmm-warden: the VMM process cannot be started: {error}");
            ExitCode::from(OWN_FAILURE)
        }
    }
}

fn exit_code(status: WaitStatus) -> ExitCode {
    if let Some(code) = status.exit_status() {
        return ExitCode::from(u8::try_from(code).unwrap_or(OWN_FAILURE));
    }
    let signal = status.terminating_signal().unwrap_or(0);
    eprintln!("podvmm-warden: signal {signal} ended the VMM process");
    ExitCode::from(u8::try_from(128 + signal).unwrap_or(OWN_FAILURE))
}

fn wait_for(vmm: Pid) -> rustix::io::Result<WaitStatus> {
    loop {
        match rustix::io::retry_on_intr(|| waitpid(Some(vmm), WaitOptions::empty()))? {
            Some((_, status)) if status.exited() || status.signaled() => return Ok(status),
            _ => {}
        }
    }
}

fn start(options: &WardenOptions) -> io::Result<Pid> {
    sys::close_all_others()?;
    rustix::thread::set_name(WARDEN_NAME)?;
    let open = |path: &std::path::Path| {
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    };
    let program = open("/proc/self/exe".as_ref())?;
    let cgroup = match &options.cgroup {
        None => None,
        Some(path) => Some(open(path).map_err(|errno| {
            io::Error::other(format!("cgroup {}: {}", path.display(), errno.kind()))
        })?),
    };
    let mut gaps = Vec::new();
    for &level in Level::to_try(options.mode) {
        match try_level(level, &program, cgroup.as_ref()) {
            Ok(started) => {
                let placement = Placement {
                    mode: options.mode,
                    namespaces: level != Level::None,
                    user_namespace: level == Level::User,
                    all_ids: started.all_ids,
                    uid: started.uid.filter(|_| options.mode != JailMode::Off),
                    gaps,
                };
                return started.let_in(&placement);
            }
            Err(error) => match level.gap(&error) {
                Some(gap) => gaps.push(gap),
                None => return Err(error),
            },
        }
    }
    Err(io::Error::other("no process can be made"))
}

/// Which namespaces are made, from best to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    User,
    Plain,
    None,
}

impl Level {
    fn to_try(mode: JailMode) -> &'static [Self] {
        match (mode, geteuid().is_root()) {
            (JailMode::Off, _) => &[Self::None],
            (_, true) => &[Self::User, Self::Plain, Self::None],
            // Without a user namespace only root makes the others.
            (_, false) => &[Self::User, Self::None],
        }
    }

    fn flags(self) -> i32 {
        match self {
            Self::User => NAMESPACES | libc::CLONE_NEWUSER,
            Self::Plain => NAMESPACES,
            Self::None => 0,
        }
    }

    /// What is missing after this failed; `None` where nothing else is left to try.
    fn gap(self, error: &io::Error) -> Option<String> {
        match self {
            Self::User => Some(format!(
                "no user namespace: {error}; see user.max_user_namespaces and, in a container, its seccomp profile"
            )),
            Self::Plain => Some(format!(
                "no mount, PID and network namespaces: {error}; they take CAP_SYS_ADMIN"
            )),
            Self::None => None,
        }
    }
}

/// A VMM process that waits at its gate.
struct Started {
    pid: Pid,
    gate: OwnedFd,
    all_ids: bool,
    uid: Option<u32>,
}

fn try_level(level: Level, program: &OwnedFd, cgroup: Option<&OwnedFd>) -> io::Result<Started> {
    let flags = SocketFlags::CLOEXEC;
    let (gate, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let is_root = geteuid().is_root();
    let keep_capabilities = level == Level::User && !is_root;
    let pid = sys::start(level.flags() as u64, cgroup.map(AsFd::as_fd), || {
        // Else it would not see that the warden is gone.
        sys::close_in_child(&gate);
        let error = enter_program(program, &theirs, keep_capabilities);
        eprintln!("podvmm-vmm: cannot be executed: {error}");
        OWN_FAILURE.into()
    })?;
    let all_ids = match level {
        Level::User => match map_ids(pid) {
            Ok(all_ids) => all_ids,
            Err(error) => {
                let _ = kill_process(pid, Signal::KILL);
                let _ = wait_for(pid);
                return Err(error);
            }
        },
        Level::Plain | Level::None => true,
    };
    let uid = identity::user_of(pid).filter(|_| is_root && all_ids);
    Ok(Started {
        pid,
        gate,
        all_ids,
        uid,
    })
}

impl Started {
    /// Opens the gate: the program is executed, and reads its placement.
    fn let_in(self, placement: &Placement) -> io::Result<Pid> {
        let bytes = serde_json::to_vec(placement)?;
        rustix::net::send(&self.gate, b"!", SendFlags::NOSIGNAL)?;
        rustix::net::send(&self.gate, &bytes, SendFlags::NOSIGNAL)?;
        // It stays open: that it is closed tells the VMM that its warden is gone.
        std::mem::forget(self.gate);
        Ok(self.pid)
    }
}

/// The child, from clone to exec.
fn enter_program(program: &OwnedFd, gate: &OwnedFd, keep_capabilities: bool) -> io::Error {
    let prepare = || -> io::Result<(Vec<CString>, Vec<CString>)> {
        let mut byte = [0];
        // Nothing goes on before the id maps are there.
        if rustix::net::recv(gate, &mut byte[..], RecvFlags::empty())?.0 != 1 {
            return Err(io::Error::other("its warden is gone"));
        }
        if keep_capabilities {
            identity::keep_capabilities_over_exec()?;
        }
        let arguments = vec![
            NAME.to_owned(),
            CString::new(INSIDE)?,
            sys::passed_number(gate)?,
        ];
        let level = std::env::var(logging::LEVEL_VARIABLE).ok();
        let environment = level.map(|level| format!("{}={level}", logging::LEVEL_VARIABLE));
        let environment = environment.map(CString::new).transpose()?;
        Ok((arguments, environment.into_iter().collect()))
    };
    match prepare() {
        Ok((arguments, environment)) => sys::execute(program.as_fd(), &arguments, &environment),
        Err(error) => error,
    }
}

/// Writes the maps of the child's user namespace: all ids of this one as they are, or, where that is
/// not allowed, this user alone. Gives whether it is all.
fn map_ids(pid: Pid) -> io::Result<bool> {
    let dir = format!("/proc/{}", pid.as_raw_nonzero());
    if geteuid().is_root() {
        let all = |kind: &str| -> io::Result<()> {
            let map = identity_map(&fs::read_to_string(format!("/proc/self/{kind}"))?);
            fs::write(format!("{dir}/{kind}"), map)
        };
        match all("uid_map") {
            Ok(()) => return all("gid_map").map(|()| true),
            Err(error) => log::debug!("not all users can be mapped: {error}"),
        }
    }
    let (uid, gid) = (geteuid().as_raw(), rustix::process::getegid().as_raw());
    fs::write(format!("{dir}/uid_map"), format!("{uid} {uid} 1\n"))?;
    fs::write(format!("{dir}/setgroups"), "deny")?;
    fs::write(format!("{dir}/gid_map"), format!("{gid} {gid} 1\n"))?;
    Ok(false)
}

/// A map of the ids that `own`, this process's map, has: each to itself.
fn identity_map(own: &str) -> String {
    let mut map = String::new();
    for line in own.lines() {
        let mut fields = line.split_whitespace();
        if let (Some(first), Some(_), Some(count)) = (fields.next(), fields.next(), fields.next()) {
            map.push_str(&format!("{first} {first} {count}\n"));
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_back_as_they_went() {
        let options = WardenOptions {
            mode: JailMode::Full,
            runtime_dir: "/run/podvmm/web".into(),
            cgroup: Some("/sys/fs/cgroup/pods/web".into()),
        };
        assert_eq!(WardenOptions::from_args(options.to_args()), Ok(options));
    }

    #[test]
    fn started_by_hand_it_says_what_is_wrong() {
        for (args, word) in [
            (&[][..], "--runtime-dir"),
            (&["--jail"][..], "value"),
            (&["--jail", "some"][..], "some"),
            (&["--help", ""][..], "--help"),
        ] {
            let error = WardenOptions::from_args(args.iter().map(Into::into)).unwrap_err();
            assert!(error.contains(word), "{args:?}: {error}");
        }
    }

    #[test]
    fn ids_map_to_themselves_in_the_ranges_that_there_are() {
        let whole = "         0          0 4294967295\n";
        assert_eq!(identity_map(whole), "0 0 4294967295\n");
        let rootless = "0 1000 1\n1 100000 65536\n";
        assert_eq!(identity_map(rootless), "0 0 1\n1 1 65536\n");
    }
}
