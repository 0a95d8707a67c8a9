//! The guest's console, by way of the kernel's log. Every line costs exits to the VMM: say little.

use std::fs::OpenOptions;
use std::io::Write;

/// How the kernel ranks a line (printk levels).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Level {
    Error = 3,
    Warning = 4,
}

/// Writes one line; without a log there is nobody to tell about that.
pub(crate) fn log(level: Level, message: &str) {
    if let Ok(mut kmsg) = OpenOptions::new().write(true).open("/dev/kmsg") {
        // One write is one record.
        let line = format!("<{}>podvmm-agent: {message}\n", level as u8);
        let _ = kmsg.write_all(line.as_bytes());
    }
}
