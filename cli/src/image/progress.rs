//! What is shown while an image comes: one line that changes on a terminal, lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use image::Progress;
use image::progress::Event;

use super::list::human;

/// On a terminal a line changes no more often than this.
const TICK: Duration = Duration::from_millis(100);
/// Elsewhere a large layer is told of this often.
const LINE: Duration = Duration::from_secs(10);

/// Shows progress on standard error.
pub struct Meter {
    shows: Shows,
    last: Mutex<Instant>,
}

#[derive(PartialEq, Eq)]
enum Shows {
    Nothing,
    Lines,
    ChangingLine,
}

impl Meter {
    fn new(shows: Shows) -> Self {
        Self {
            shows,
            last: Mutex::new(Instant::now()),
        }
    }

    /// Shows nothing.
    pub fn silent() -> Self {
        Self::new(Shows::Nothing)
    }

    /// Shows something everywhere.
    pub fn lines() -> Self {
        Self::new(if io::stderr().is_terminal() {
            Shows::ChangingLine
        } else {
            Shows::Lines
        })
    }

    /// Shows something on a terminal only: elsewhere standard error is the command's.
    pub fn on_terminal() -> Self {
        Self::new(if io::stderr().is_terminal() {
            Shows::ChangingLine
        } else {
            Shows::Nothing
        })
    }

    /// Takes the changing line away.
    pub fn finish(&self) {
        if self.shows == Shows::ChangingLine {
            eprint!("\r\x1b[K");
        }
    }

    fn due(&self, every: Duration) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.elapsed() >= every;
        if due {
            *last = Instant::now();
        }
        due
    }

    fn show(&self, text: &str) {
        // Nobody can be told that standard error is gone.
        let mut err = io::stderr().lock();
        let _ = match self.shows {
            Shows::Nothing => Ok(()),
            Shows::Lines => writeln!(err, "podvmm: {text}"),
            Shows::ChangingLine => write!(err, "\r\x1b[K{text}").and_then(|()| err.flush()),
        };
    }
}

impl Progress for Meter {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Resolving(name) => self.show(&format!("{name} ...")),
            Event::Fetching {
                digest,
                done,
                total,
            } => {
                let every = if self.shows == Shows::Lines {
                    LINE
                } else {
                    TICK
                };
                if self.due(every) {
                    let (done, total) = (human(done), human(total));
                    self.show(&format!("{}: {done} of {total}", digest.short()));
                }
            }
            Event::Fetched { digest, size } => {
                self.show(&format!("{}: {}", digest.short(), human(size)));
            }
            Event::Retrying { reason, after } => {
                self.show(&format!("{reason}; trying again in {} s", after.as_secs()));
            }
            Event::Unpacking { layer, of } => {
                self.show(&format!("unpacking layer {layer} of {of}"));
            }
        }
    }
}
