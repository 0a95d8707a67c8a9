//! What containers write, kept in files of bounded size.
//!
//! ```text
//!   container ──stdout, stderr──▶ LogFile ──▶ NAME.log, NAME.log.1, … ──▶ LogReader ──▶ podvmm logs
//! ```
//!
//! Each line of a file is in the format that Kubernetes has container runtimes write (the "CRI log
//! format"): time, stream, whether the line goes on, content.
//!
//! ```text
//!   2026-11-24T12:35:47.000000001Z stdout F listening on port 80
//!   2026-11-24T12:35:48.000000001Z stderr P a line so long, or so slow, that it comes in parts
//! ```
//!
//! [`line`](mod@line) is the format, [`writer`] rotates, [`reader`] follows through rotations.

pub mod line;
pub mod reader;
pub mod writer;

use std::path::{Path, PathBuf};

pub use line::{Entry, Stream};
pub use reader::{LogReader, Watch};
pub use writer::{LogFile, LogLimits};

/// The directory of logs in a pod's directory.
const DIR: &str = "logs";

/// Where the logs of the pod with the directory `pod` are.
#[must_use]
pub fn dir(pod: &Path) -> PathBuf {
    pod.join(DIR)
}

/// The newest log file of a container.
#[must_use]
pub fn path(pod: &Path, container: &str) -> PathBuf {
    dir(pod).join(format!("{container}.log"))
}

/// The `age`th file before `log`, which is the 0th.
fn rotated(log: &Path, age: u32) -> PathBuf {
    if age == 0 {
        return log.to_owned();
    }
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{age}"));
    name.into()
}
