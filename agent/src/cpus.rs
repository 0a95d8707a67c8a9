//! The guest's CPUs.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The kernel's directory of them.
#[derive(Debug)]
pub(crate) struct Cpus(PathBuf);

/// Numbers of CPUs.
type Numbers = BTreeSet<u32>;

impl Cpus {
    /// Those of the guest.
    pub(crate) fn of_guest() -> Self {
        Self(PathBuf::from("/sys/devices/system/cpu"))
    }

    /// How many are online.
    pub(crate) fn online(&self) -> io::Result<u32> {
        self.list("online").map(|online| online.len() as u32)
    }

    /// How many there are.
    pub(crate) fn present(&self) -> io::Result<u32> {
        self.list("present").map(|present| present.len() as u32)
    }

    /// Brings CPUs up, then others down, until the `count` with the lowest numbers are online.
    pub(crate) fn bring_online(&self, count: u32) -> Result<(), String> {
        let failed = |what: &str, error: io::Error| format!("{what}: {error}");
        let present = self
            .list("present")
            .map_err(|error| failed("CPUs present", error))?;
        let online = self
            .list("online")
            .map_err(|error| failed("CPUs online", error))?;
        let wanted: Numbers = present.into_iter().take(count as usize).collect();
        let up = wanted.difference(&online).map(|cpu| (cpu, "1"));
        let surplus = online.iter().rev().filter(|cpu| !wanted.contains(cpu));
        let down = surplus.map(|cpu| (cpu, "0"));
        for (cpu, value) in up.chain(down) {
            let file = self.0.join(format!("cpu{cpu}/online"));
            let what = if value == "1" { "up" } else { "down" };
            fs::write(file, value)
                .map_err(|error| failed(&format!("bring CPU {cpu} {what}"), error))?;
        }
        Ok(())
    }

    fn list(&self, file: &str) -> io::Result<Numbers> {
        read_list(&self.0.join(file))
    }
}

fn read_list(path: &Path) -> io::Result<Numbers> {
    Ok(list(&fs::read_to_string(path)?))
}

/// A kernel's list such as `0-3,6`.
fn list(text: &str) -> Numbers {
    let ranges = text.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?)
    });
    ranges.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_ranges_and_single_numbers() {
        assert_eq!(list("0-2,5\n"), Numbers::from([0, 1, 2, 5]));
        assert_eq!(list("7"), Numbers::from([7]));
        assert_eq!(list("\n"), Numbers::new());
    }

    /// A directory like the kernel's. CPU 0 cannot be taken down and has no file.
    fn directory(present: &str, online: &str) -> (tempfile::TempDir, Cpus) {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("present"), present).unwrap();
        fs::write(directory.path().join("online"), online).unwrap();
        for cpu in list(present) {
            let path = directory.path().join(format!("cpu{cpu}"));
            fs::create_dir(&path).unwrap();
            if cpu > 0 {
                fs::write(path.join("online"), "").unwrap();
            }
        }
        let cpus = Cpus(directory.path().to_owned());
        (directory, cpus)
    }

    fn written(directory: &tempfile::TempDir) -> Vec<String> {
        let read = |cpu| fs::read_to_string(directory.path().join(format!("cpu{cpu}/online")));
        (1..4).map(|cpu| read(cpu).unwrap_or_default()).collect()
    }

    #[test]
    fn the_lowest_numbers_come_up() {
        let (directory, cpus) = directory("0-3\n", "0\n");
        assert_eq!((cpus.present().unwrap(), cpus.online().unwrap()), (4, 1));
        cpus.bring_online(3).unwrap();
        assert_eq!(written(&directory), ["1", "1", ""]);
    }

    #[test]
    fn the_highest_numbers_go_down() {
        let (directory, cpus) = directory("0-3\n", "0-3\n");
        cpus.bring_online(2).unwrap();
        assert_eq!(written(&directory), ["", "0", "0"]);
    }

    #[test]
    fn what_is_as_it_should_be_is_not_touched() {
        let (directory, cpus) = directory("0-3\n", "0-1,3\n");
        cpus.bring_online(3).unwrap();
        assert_eq!(written(&directory), ["", "1", "0"]);
        let error = Cpus(PathBuf::from("/no/such")).bring_online(1).unwrap_err();
        assert!(error.starts_with("CPUs present: "), "{error}");
    }
}
