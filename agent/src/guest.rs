//! Being PID 1 of a guest whose initramfs holds this program and nothing else.
//!
//! The order is chosen for the time until the host hears the agent's hello: what only containers need is
//! made afterwards, while the host prepares its first calls.

use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};

use agent_protocol::SHARE_PATH;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit};
use rustix::system::RebootCommand;

use crate::kmsg::{self, Level};
use crate::network;
use crate::sys::{port, process};
use crate::transport::Transport;
use crate::{lifeline, serve};

/// Open files: of the agent, and the most that a container may ask for (the kernel's fs.nr_open).
const AGENT_FILES: u64 = 65_536;
const MAX_FILES: u64 = 1_048_576;

/// The VMM's power-off port and value: ACPI's PM1a control of QEMU's q35, sleep type 0 and enable.
const POWER_OFF_PORT: u16 = 0x604;
const POWER_OFF_VALUE: u16 = 0x2000;

/// The root that replaces the initramfs, while it is made.
const NEW_ROOT: &str = "/new";

/// One step of making the new root. Paths are inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Directory(&'static str),
    /// File system, place, options.
    Mount(
        &'static str,
        &'static str,
        MountFlags,
        Option<&'static std::ffi::CStr>,
    ),
    /// Brings a mount of the initramfs along.
    Move(&'static str),
    /// Makes it the root.
    Enter,
}

const QUIET: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// pivot_root does not work from an initramfs (its root has no parent mount), and containers need it: so
/// the agent moves to a tmpfs first, as switch_root does.
///
/// /tmp and /run need no mounts of their own: the root is a tmpfs. Nothing but the agent runs outside of
/// containers, so there are no terminals and message queues; containers mount their own.
const NEW_ROOT_STEPS: [Step; 14] = [
    Step::Mount("tmpfs", "", MountFlags::empty(), Some(c"mode=755")),
    Step::Directory("/dev"),
    Step::Move("/dev"),
    Step::Directory("/dev/shm"),
    Step::Mount("tmpfs", "/dev/shm", QUIET, Some(c"mode=1777")),
    Step::Directory("/proc"),
    Step::Mount("proc", "/proc", QUIET, None),
    Step::Directory("/sys"),
    Step::Mount("sysfs", "/sys", QUIET, None),
    Step::Mount("cgroup2", "/sys/fs/cgroup", QUIET, Some(c"nsdelegate")),
    Step::Directory("/run"),
    Step::Directory("/run/podvmm"),
    Step::Directory("/run/podvmm/stage"),
    Step::Enter,
];

/// What the steps need of the kernel.
trait Kernel {
    fn make_directory(&mut self, path: &str) -> io::Result<()>;
    fn mount(
        &mut self,
        filesystem: &str,
        path: &str,
        flags: MountFlags,
        options: Option<&std::ffi::CStr>,
    ) -> io::Result<()>;
    fn move_mount(&mut self, from: &str, to: &str) -> io::Result<()>;
    fn make_root(&mut self, path: &str) -> io::Result<()>;
}

/// Runs the agent as PID 1; does not return.
pub fn main() -> ! {
    if rustix::process::getpid() != rustix::process::Pid::INIT {
        eprintln!("podvmm-agent is PID 1 of a podvmm guest and does nothing else");
        process::exit_now(1);
    }
    process::ignore_broken_pipes();
    lifeline::report_panics();
    let outcome = open_devices().and_then(|()| serve(Transport::Vsock, prepare));
    match outcome {
        Ok(()) => power_off(),
        Err(error) => {
            lifeline::report_failure(&format!("agent failed: {error}"));
            stop()
        }
    }
}

/// Mounts /dev and fills descriptors 0 to 2, which the kernel leaves closed without a console: sockets
/// would take their places and end up as somebody's standard output.
fn open_devices() -> io::Result<()> {
    Live.make_directory("/dev")?;
    Live.mount(
        "devtmpfs",
        "/dev",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        None,
    )?;
    loop {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())?;
        if null.as_raw_fd() > 2 {
            return Ok(());
        }
        // Stays open as long as the agent lives.
        let _ = null.into_raw_fd();
    }
}

/// Everything that containers need and the hello does not.
fn prepare() -> io::Result<()> {
    for step in NEW_ROOT_STEPS {
        carry_out(step, &mut Live)
            .map_err(|error| io::Error::new(error.kind(), format!("{step:?}: {error}")))?;
    }
    Live.make_directory(SHARE_PATH)?;
    std::fs::write("/proc/self/oom_score_adj", "-1000")?;
    let files = Rlimit {
        current: Some(AGENT_FILES),
        maximum: Some(MAX_FILES),
    };
    rustix::process::setrlimit(Resource::Nofile, files)?;
    if let Err(error) = network::loopback_up() {
        kmsg::log(Level::Warning, &format!("lo: {error}"));
    }
    Ok(())
}

fn carry_out(step: Step, kernel: &mut impl Kernel) -> io::Result<()> {
    let inside = |path: &str| format!("{NEW_ROOT}{path}");
    match step {
        Step::Directory(path) => kernel.make_directory(&inside(path)),
        Step::Mount(filesystem, "", flags, options) => {
            kernel.make_directory(NEW_ROOT)?;
            kernel.mount(filesystem, NEW_ROOT, flags, options)
        }
        Step::Mount(filesystem, path, flags, options) => {
            kernel.mount(filesystem, &inside(path), flags, options)
        }
        Step::Move(path) => kernel.move_mount(path, &inside(path)),
        Step::Enter => kernel.make_root(NEW_ROOT),
    }
}

/// The kernel itself.
struct Live;

impl Kernel for Live {
    fn make_directory(&mut self, path: &str) -> io::Result<()> {
        match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => Ok(()),
            result => Ok(result?),
        }
    }

    fn mount(
        &mut self,
        filesystem: &str,
        path: &str,
        flags: MountFlags,
        options: Option<&std::ffi::CStr>,
    ) -> io::Result<()> {
        Ok(rustix::mount::mount(
            filesystem, path, filesystem, flags, options,
        )?)
    }

    fn move_mount(&mut self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::mount::mount_move(from, to)?)
    }

    fn make_root(&mut self, path: &str) -> io::Result<()> {
        rustix::process::chdir(path)?;
        rustix::mount::mount_move(".", "/")?;
        rustix::process::chroot(".")?;
        Ok(rustix::process::chdir("/")?)
    }
}

/// Ends the guest after all has been written back.
fn power_off() -> ! {
    rustix::fs::sync();
    // A detached mount is still flushed; files may be open in processes that could not be killed.
    let _ = rustix::mount::unmount(SHARE_PATH, UnmountFlags::DETACH);
    if let Err(error) = port::write_u16(POWER_OFF_PORT, POWER_OFF_VALUE) {
        kmsg::log(Level::Error, &format!("power-off port: {error}"));
    }
    // Not reached under podvmm's VMM.
    stop()
}

/// Ends the guest without ceremony: a reset, which the VMM does not take for a power-off.
pub(crate) fn stop() -> ! {
    let error = rustix::system::reboot(RebootCommand::Restart);
    kmsg::log(Level::Error, &format!("reboot: {error:?}"));
    // The end of PID 1 is a kernel panic, which the VMM sees as well.
    process::exit_now(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes down what is asked for.
    #[derive(Default)]
    struct Recorder(Vec<String>);

    impl Kernel for Recorder {
        fn make_directory(&mut self, path: &str) -> io::Result<()> {
            self.0.push(format!("mkdir {path}"));
            Ok(())
        }

        fn mount(
            &mut self,
            filesystem: &str,
            path: &str,
            flags: MountFlags,
            _options: Option<&std::ffi::CStr>,
        ) -> io::Result<()> {
            self.0.push(format!("mount {filesystem} {path}"));
            let may_have_devices = path == NEW_ROOT;
            assert!(
                flags.contains(QUIET) || may_have_devices,
                "{path}: {flags:?}"
            );
            Ok(())
        }

        fn move_mount(&mut self, from: &str, to: &str) -> io::Result<()> {
            self.0.push(format!("move {from} {to}"));
            Ok(())
        }

        fn make_root(&mut self, path: &str) -> io::Result<()> {
            self.0.push(format!("root {path}"));
            Ok(())
        }
    }

    fn calls() -> Vec<String> {
        let mut recorder = Recorder::default();
        for step in NEW_ROOT_STEPS {
            carry_out(step, &mut recorder).unwrap();
        }
        recorder.0
    }

    fn position(calls: &[String], call: &str) -> usize {
        calls
            .iter()
            .position(|found| found == call)
            .unwrap_or_else(|| panic!("no {call}"))
    }

    #[test]
    fn every_place_exists_before_it_is_mounted_on() {
        let calls = calls();
        let made_by_sysfs = "/new/sys/fs/cgroup";
        for (index, call) in calls.iter().enumerate() {
            let place = match call.split(' ').collect::<Vec<_>>()[..] {
                ["mount", _, place] | ["move", _, place] => place,
                _ => continue,
            };
            let before = &calls[..index];
            if place == made_by_sysfs {
                position(before, "mount sysfs /new/sys");
            } else {
                position(before, &format!("mkdir {place}"));
            }
        }
    }

    #[test]
    fn the_new_root_is_entered_last_and_with_its_devices() {
        let calls = calls();
        assert_eq!(position(&calls, "root /new"), calls.len() - 1);
        assert_eq!(calls[1], "mount tmpfs /new");
        assert!(position(&calls, "move /dev /new/dev") < position(&calls, "mkdir /new/dev/shm"));
    }
}
