//! The guest's CPUs.

use std::fs;
use std::io;

const DIRECTORY: &str = "/sys/devices/system/cpu";

/// Numbers of the CPUs that are online.
pub(crate) fn online() -> io::Result<Vec<u32>> {
    Ok(list(&fs::read_to_string(format!("{DIRECTORY}/online"))?))
}

/// A kernel's list such as `0-3,6`.
fn list(text: &str) -> Vec<u32> {
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
        assert_eq!(list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(list("7"), [7]);
        assert_eq!(list("\n"), [0; 0]);
    }
}
