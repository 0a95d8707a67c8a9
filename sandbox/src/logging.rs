//! The log of both processes: one line each on standard error, only when asked for.

use std::io::Write;

use log::{LevelFilter, Log, Metadata, Record};

/// Environment variable that sets the level of both processes.
pub const LEVEL_VARIABLE: &str = "PODVMM_LOG";

struct Stderr {
    process: &'static str,
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = record.level().as_str().to_ascii_lowercase();
            // A closed standard error must not end the process.
            let _ = writeln!(
                std::io::stderr(),
                "{}: {level}: {}",
                self.process,
                record.args()
            );
        }
    }

    fn flush(&self) {}
}

/// Logs as `process` at `level`, or at the one that `PODVMM_LOG` names, or not at all.
pub fn init(process: &'static str, level: Option<LevelFilter>) {
    let from_environment = || {
        std::env::var(LEVEL_VARIABLE)
            .ok()
            .and_then(|level| level.parse().ok())
    };
    let level = level.or_else(from_environment).unwrap_or(LevelFilter::Off);
    if level != LevelFilter::Off && log::set_boxed_logger(Box::new(Stderr { process })).is_ok() {
        log::set_max_level(level);
    }
}

/// An error and its causes in one line.
#[must_use]
pub fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
