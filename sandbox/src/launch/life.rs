//! What a VMM process reports, and how it ends.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
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

/// Longest error output of a dead VMM that is repeated.
const MAX_STDERR: u64 = 4096;

/// What whoever waits for the process's end finds out.
#[derive(Debug)]
pub(super) struct Life {
    pub child: Child,
    /// What it wrote to standard error, where that is not ours.
    pub stderr: Option<File>,
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
            Ok(Some((Report::Running { gaps }, _))) => {
                self.note_gaps(gaps);
                Ok(())
            }
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
        self.ask_to_stop();
        while self.next_report().is_ok() {}
    }

    /// Ends the VM, if it still runs, and the process, and tells how the VM ended.
    pub fn stop(&self) -> Option<End> {
        self.halt();
        let mut life = lock(&self.life);
        let _ = life.child.wait();
        life.ended.as_ref().map(|(end, _)| end.clone())
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
