//! Signals to the first process of a pid namespace.
//!
//! The kernel drops those for which such a process has no handler (pid_namespaces(7)), so a plain program
//! run as a container's first process could not be interrupted. For the signals with which people and
//! orchestrators end programs, the agent carries out the default action itself.

use std::fs;

use rustix::process::Pid;

const ENDING: [i32; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

/// Whether `signal` would end an ordinary process and be dropped for this one.
pub(super) fn needs_default_action(pid: Pid, signal: i32) -> bool {
    ENDING.contains(&signal)
        && fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))
            .is_ok_and(|status| has_default_action(&status, signal))
}

/// A blocked signal is kept for whoever waits for it, with or without a handler.
fn has_default_action(status: &str, signal: i32) -> bool {
    let in_set = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
            .is_none_or(|set| set & (1 << (signal - 1)) != 0)
    };
    !in_set("SigBlk") && !in_set("SigIgn") && !in_set("SigCgt")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(blocked: u64, ignored: u64, caught: u64) -> String {
        format!(
            "Name:\tx\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
        )
    }

    #[test]
    fn handlers_blocks_and_ignores_are_respected() {
        let bit = 1 << (libc::SIGTERM - 1);
        assert!(has_default_action(&status(0, 0, 0), libc::SIGTERM));
        assert!(has_default_action(&status(!bit, !bit, !bit), libc::SIGTERM));
        for (blocked, ignored, caught) in [(bit, 0, 0), (0, bit, 0), (0, 0, bit)] {
            assert!(!has_default_action(
                &status(blocked, ignored, caught),
                libc::SIGTERM
            ));
        }
        assert!(!has_default_action("", libc::SIGTERM));
    }
}
