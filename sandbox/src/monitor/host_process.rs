//! Processes of the host, told apart from later ones of the same number.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process: its number, and when it began, which two of the same number never share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostProcess {
    /// Its number.
    pub pid: u32,
    /// When it began, in clock ticks since the host started.
    pub began: u64,
}

impl HostProcess {
    /// The process that has the number `pid` now.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let began = began(&stat)?;
        Some(Self { pid, began })
    }

    /// This process.
    #[must_use]
    pub fn this() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// Ends it with SIGKILL, unless it has ended, and waits at most `limit` until it is gone.
    /// Tells whether it is.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn kill(self, limit: Duration) -> io::Result<bool> {
        let Some(process) = self.open()? else {
            return Ok(true);
        };
        match pidfd_send_signal(&process, Signal::KILL) {
            Err(Errno::SRCH) => return Ok(true),
            other => other?,
        }
        is_gone_within(&process, limit)
    }

    /// Waits at most `limit` until it has ended, and tells whether it has.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn ends_within(self, limit: Duration) -> io::Result<bool> {
        self.open()?
            .map_or(Ok(true), |process| is_gone_within(&process, limit))
    }

    /// A descriptor of it, if it still lives.
    fn open(self) -> io::Result<Option<OwnedFd>> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let Some(pid) = pid else {
            return Ok(None);
        };
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            // Newer kernels tell one that is just being reaped (EINVAL) from a number that is a thread's (ENOENT).
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => return Ok(None),
            other => other?,
        };
        // The descriptor came first: if the number is still of the same process, so is the descriptor.
        Ok((Self::of(self.pid) == Some(self)).then_some(process))
    }
}

fn is_gone_within(process: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let limit = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    };
    let mut set = [PollFd::new(process, PollFlags::IN)];
    let ready = rustix::io::retry_on_intr(|| poll(&mut set, Some(&limit)))?;
    Ok(ready > 0)
}

/// The 22nd field of `/proc/PID/stat`. The second, the name, may hold spaces and parentheses.
fn began(stat: &str) -> Option<u64> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name.split_whitespace().nth(19)?.parse().ok()
}

/// Differs between two starts of the host.
#[must_use]
pub fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1 2";
        assert_eq!(began(stat), Some(12_345));
        assert_eq!(began("nonsense"), None);
    }

    #[test]
    fn only_the_process_that_was_meant_is_killed() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = HostProcess::of(child.id()).unwrap();
        let another = HostProcess {
            began: process.began + 1,
            ..process
        };
        assert!(another.kill(Duration::ZERO).unwrap());
        assert!(child.try_wait().unwrap().is_none());
        assert!(process.kill(Duration::from_secs(10)).unwrap());
        assert!(!child.wait().unwrap().success());
        assert!(process.kill(Duration::ZERO).unwrap());
    }
    #[test]
    fn a_number_that_is_no_process_is_of_one_that_is_gone() {
        // What the kernel says of a thread's number it also says of a process that is just being reaped.
        let (send, receive) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let waiting = std::thread::spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_pid()).unwrap();
            let _ = receive.recv();
        });
        let pid = u32::try_from(told.recv().unwrap()).unwrap();
        let process = HostProcess::of(pid).unwrap();
        assert!(process.kill(Duration::ZERO).unwrap());
        drop(send);
        waiting.join().unwrap();
    }
}
