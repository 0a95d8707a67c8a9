//! What went wrong while a process became a container.

use std::fmt::Display;
use std::io;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub(crate) struct InitError {
    step: String,
    #[source]
    source: io::Error,
}

impl InitError {
    /// A failed step without a system call.
    pub(crate) fn new(step: impl Display, problem: &'static str) -> Self {
        Self {
            step: step.to_string(),
            source: io::Error::other(problem),
        }
    }

    /// The whole chain in one line: this is the only place where it is seen.
    pub(crate) fn text(&self) -> String {
        format!("{}: {}", self.step, self.source)
    }
}

/// Names the step whose result this is.
pub(crate) trait Step<T> {
    /// Adds what was being done; `step` is evaluated on failure only.
    fn step<D: Display>(self, step: impl FnOnce() -> D) -> Result<T, InitError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step<D: Display>(self, step: impl FnOnce() -> D) -> Result<T, InitError> {
        self.map_err(|error| InitError {
            step: step().to_string(),
            source: error.into(),
        })
    }
}
