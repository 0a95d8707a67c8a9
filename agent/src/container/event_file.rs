//! Files of a cgroup whose changes the kernel tells of: cgroup.events and memory.events.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

/// Longest content in bytes; the kernel writes a handful of counters.
const MAX_LEN: usize = 512;

/// An open one. Polling it tells of changes since it was last read ([`Interest::Change`]).
///
/// [`Interest::Change`]: crate::events::Interest::Change
#[derive(Debug)]
pub(crate) struct EventFile(File);

impl EventFile {
    pub(super) fn new(file: File) -> Self {
        Self(file)
    }

    /// Reads one of its counters.
    pub(super) fn counter(&self, name: &str) -> io::Result<u64> {
        let mut content = [0; MAX_LEN];
        let count = self.0.read_at(&mut content, 0)?;
        let content = String::from_utf8_lossy(&content[..count]);
        Ok(counter(&content, name))
    }
}

impl AsFd for EventFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn counter(content: &str, name: &str) -> u64 {
    content
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .find_map(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_its_whole_name() {
        let content = "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(counter(content, "oom_kill"), 2);
        assert_eq!(counter(content, "oom"), 3);
        assert_eq!(counter(content, "none"), 0);
        assert_eq!(counter("oom_kill x\n", "oom_kill"), 0);
    }
}
