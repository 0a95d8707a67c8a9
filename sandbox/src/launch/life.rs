//! What a VMM process reports, and how it ends.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Child;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{VmmProcess, lock};
use crate::control::{self, End, GuestFile, Report};
use crate::pod::PodError;

/// How often whoever waits for the end looks whether another thread has been told of it.
const SECOND_LOOK: Duration = Duration::from_millis(20);

/// How long a VMM may take to end when it was asked to, and its process to be gone after that. What it has to do is
/// finish requests that disks are slow to serve, and unmap memory. One that a guest has taken over need not
/// want to: it is killed then.
const LAST_PATIENCE: Duration = Duration::from_secs(60);

/// Longest error output of a dead VMM that is repeated.
const MAX_STDERR: u64 = 4096;

/// What whoever waits for the process's end finds out.
#[derive(Debug)]
pub(super) struct Life {
    pub child: Child,
    /// What it wrote to standard error, where that is not ours.
    pub stderr: Option<File>,
    /// Whether it has said that the VM runs.
    pub is_running: bool,
    pub ended: Option<(End, String)>,
}

impl VmmProcess {
    /// Readable when the process has something to say or is gone.
    pub fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Waits until the process has something to say or is gone; `false` when `timeout` was over first.
    pub fn is_reporting_within(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut set = [PollFd::new(&self.control, PollFlags::IN)];
            match poll(&mut set, Some(&timeout)) {
                Ok(ready) => return ready > 0,
                Err(_) if left.is_zero() => return false,
                Err(_) => {}
            }
        }
    }

    /// Takes the next report, waiting for it. `Err` once the VM has stopped or was never made.
    pub fn next_report(&self) -> Result<(), PodError> {
        // One at a time: who comes second finds what the first was told.
        let mut life = lock(&self.life);
        if let Some((end, console)) = life.ended.clone() {
            return Err(PodError::Ended { end, console });
        }
        match control::receive::<Report>(&self.control) {
            // Once: what it says is kept, and logged.
            Ok(Some((Report::Running { gaps }, _))) if !life.is_running => {
                life.is_running = true;
                self.note_gaps(gaps);
                Ok(())
            }
            Ok(Some((Report::Running { .. }, _))) => Err(PodError::Control {
                source: io::Error::new(io::ErrorKind::InvalidData, "it says twice that it runs"),
            }),
            Ok(Some((Report::Failed { file, message }, _))) => Err(self.refused(file, message)),
            Ok(Some((Report::Stopped { end, console }, _))) => {
                life.ended = Some((end.clone(), console.clone()));
                Err(PodError::Ended { end, console })
            }
            Ok(None) => Err(life.died()),
            Err(source) => Err(PodError::Control { source }),
        }
    }

    /// Tells the VM to stop, and does not wait for it.
    pub fn ask_to_stop(&self) {
        // Half-closing is the order to stop; the answer still comes through.
        let _ = rustix::net::shutdown(&self.control, rustix::net::Shutdown::Write);
    }

    /// Whether the VM is known to have ended.
    pub fn has_ended(&self) -> bool {
        // Whoever holds it waits for the next report: there was none of the end.
        let life = self.life.try_lock();
        life.is_ok_and(|life| life.ended.is_some())
    }

    /// Waits until the VM has ended; `false` when `timeout` was over first.
    pub fn ends_within(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // The socket tells nothing of a report that another thread takes first.
            if self.has_ended()
                || self.is_reporting_within(left.min(SECOND_LOOK)) && self.next_report().is_err()
            {
                return true;
            }
            if left.is_zero() {
                return false;
            }
        }
    }

    /// Ends the VM, if it still runs. By then its process has let go of the host's files.
    pub fn halt(&self) {
        self.halt_within(LAST_PATIENCE);
    }

    fn halt_within(&self, patience: Duration) {
        self.ask_to_stop();
        if !self.ends_within(patience) {
            self.kill();
        }
        while self.next_report().is_ok() {}
    }

    /// Ends the VM, if it still runs, and the process, and tells how the VM ended.
    pub fn stop(&self) -> Option<End> {
        self.stop_within(LAST_PATIENCE)
    }

    fn stop_within(&self, patience: Duration) -> Option<End> {
        self.halt_within(patience);
        // That it says so does not mean that it has.
        let warden = self.warden;
        if warden.is_some_and(|warden| !warden.ends_within(patience).unwrap_or(true)) {
            self.kill();
        }
        let mut life = lock(&self.life);
        let _ = life.child.wait();
        life.ended.as_ref().map(|(end, _)| end.clone())
    }

    /// Kills the process, by its warden: whoever waits for its end does not let go of `life`.
    fn kill(&self) {
        log::warn!("the VMM process does not end when it is asked to: it is killed");
        if let Some(Err(error)) = self.warden.map(|warden| warden.kill(Duration::ZERO)) {
            log::error!("the VMM process cannot be killed: {error}");
        }
    }

    /// The VM could not be made: says which parameter is at fault where one is.
    fn refused(&self, file: Option<GuestFile>, message: String) -> PodError {
        let (parameter, path) = match file {
            None => return PodError::Vmm { message },
            Some(GuestFile::Kernel) => ("--kernel", &self.kernel),
            Some(GuestFile::Initrd) => ("--initrd", &self.initrd),
        };
        PodError::BadAsset {
            parameter,
            path: path.clone(),
            message,
        }
    }
}

impl Life {
    /// The process ended without a report: says what is known of it.
    fn died(&mut self) -> PodError {
        let status = self.child.wait();
        let mut message = match status {
            Ok(status) => format!("it ended with {status}"),
            Err(error) => format!("its status is unknown: {error}"),
        };
        let mut said = String::new();
        if let Some(file) = &mut self.stderr
            && file.seek(SeekFrom::Start(0)).is_ok()
            && file.take(MAX_STDERR).read_to_string(&mut said).is_ok()
            && !said.trim().is_empty()
        {
            message = format!("{message}, saying: {}", said.trim());
        }
        PodError::VmmDied { message }
    }
}

impl Drop for VmmProcess {
    fn drop(&mut self) {
        let life = self.life.get_mut().unwrap_or_else(PoisonError::into_inner);
        if matches!(life.child.try_wait(), Ok(None)) {
            let _ = life.child.kill();
            let _ = life.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;
    use std::sync::Mutex;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;
    use crate::jail::JailMode;
    use crate::monitor::HostProcess;

    const PATIENCE: Duration = Duration::from_millis(100);

    /// A VMM that does as `script` says. Its end of the socket is standard input.
    fn vmm(script: &str) -> VmmProcess {
        let pair = || {
            let (unix, packets) = (AddressFamily::UNIX, SocketType::SEQPACKET);
            socketpair(unix, packets, SocketFlags::CLOEXEC, None).unwrap()
        };
        let ((control, theirs), (requests, _)) = (pair(), pair());
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(theirs);
        let child = command.spawn().unwrap();
        VmmProcess {
            pid: child.id(),
            warden: HostProcess::of(child.id()),
            control,
            requests: Mutex::new(requests),
            life: Mutex::new(Life {
                child,
                stderr: None,
                is_running: false,
                ended: None,
            }),
            jail: JailMode::Off,
            gaps: Mutex::default(),
            kernel: PathBuf::new(),
            initrd: PathBuf::new(),
        }
    }

    #[test]
    fn case_24_a_vmm_that_does_not_want_to_end_is_killed() {
        // The second says that it has ended, and goes on.
        for (script, said) in [
            ("exec sleep 1000", None),
            (
                "printf '{\"stopped\":{\"end\":\"stopped\",\"console\":\"\"}}' >&0; exec sleep 1000",
                Some(End::Stopped),
            ),
        ] {
            let vmm = vmm(script);
            let began = Instant::now();
            let end = std::thread::scope(|scope| {
                // Somebody waits for its end all the time.
                scope.spawn(|| while vmm.next_report().is_ok() {});
                vmm.stop_within(PATIENCE)
            });
            assert_eq!(end, said, "{script}");
            assert!(began.elapsed() < Duration::from_secs(100));
            assert!(vmm.warden.unwrap().ends_within(Duration::ZERO).unwrap());
        }
    }

    #[test]
    fn case_08_a_vmm_says_once_that_it_runs() {
        let script = "while printf '{\"running\":{\"gaps\":[\"x\"]}}' >&0; do :; done 2>/dev/null";
        let vmm = vmm(script);
        vmm.next_report().unwrap();
        for _ in 0..10 {
            let error = vmm.next_report().unwrap_err();
            assert!(matches!(error, PodError::Control { .. }), "{error}");
        }
        assert_eq!(vmm.gaps(), ["x"]);
        assert_eq!(vmm.stop_within(PATIENCE), None);
    }

    #[test]
    fn a_vmm_that_ends_is_waited_for() {
        let vmm = vmm("sleep 0.2; exit 3");
        assert_eq!(vmm.stop_within(Duration::from_secs(100)), None);
        let status = lock(&vmm.life).child.wait().unwrap();
        assert_eq!(status.code(), Some(3), "nobody killed it");
    }
}
