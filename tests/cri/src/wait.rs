//! Waiting, with an end.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

/// How much longer everything takes than on a real machine.
#[must_use]
pub fn slowness() -> u32 {
    if std::env::var_os("LAB").is_some() {
        5
    } else {
        1
    }
}

/// Asks again until there is an answer, for so many seconds of a real machine.
///
/// # Errors
///
/// Those of `ask`, at once, and that there was no answer in time.
pub fn until<T>(seconds: u32, what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let limit = Duration::from_secs(1) * seconds * slowness();
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().with_context(|| format!("while waiting until {what}"))? {
            return Ok(answer);
        }
        if began.elapsed() > limit {
            return Err(anyhow!("waited {limit:?} in vain until {what}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
