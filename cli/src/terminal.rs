//! This process's terminal.

use rustix::termios::{self, OptionalActions, Termios};

/// Size of a terminal that cannot be asked: rows and columns.
const DEFAULT_SIZE: (u16, u16) = (24, 80);

/// Puts the terminal into raw mode until dropped.
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Enters raw mode; `None` when standard input is no terminal.
    pub fn enter() -> Option<Self> {
        let before = termios::tcgetattr(rustix::stdio::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// Rows and columns of the terminal.
pub fn size() -> (u16, u16) {
    let ask =
        |size: Result<termios::Winsize, _>| size.ok().filter(|s| s.ws_row > 0 && s.ws_col > 0);
    let size = ask(termios::tcgetwinsize(rustix::stdio::stdout()))
        .or_else(|| ask(termios::tcgetwinsize(rustix::stdio::stdin())));
    size.map_or(DEFAULT_SIZE, |size| (size.ws_row, size.ws_col))
}
