//! What was done, for people and for programs.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

/// The version of the JSON form. It grows when a field goes away or changes its meaning.
const SCHEMA_VERSION: u32 = 1;
/// How containerd is restarted.
pub const RESTART: &str = "systemctl restart containerd";

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It was not there.
    New,
    /// It was another.
    Changed,
    /// It was there.
    Same,
    /// It is gone.
    Removed,
    /// It has been changed by somebody else, and was left.
    Left,
}

/// Whether containerd has to be restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Its configuration is as it was.
    NotNeeded,
    /// It reads its configuration when it starts.
    Needed,
    /// It was.
    Done,
}

/// A file.
#[derive(Clone, Debug, Serialize)]
pub struct Touched {
    pub action: Action,
    pub path: PathBuf,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    schema_version: u32,
    podvmm_version: &'static str,
    /// `install` or `uninstall`.
    pub command: &'static str,
    pub dry_run: bool,
    /// Why nothing was done, if nothing was.
    pub refused: Option<String>,
    pub files: Vec<Touched>,
    /// containerd's version, if there is one.
    pub containerd: Option<String>,
    pub restart: Restart,
    pub notes: Vec<String>,
}

impl Outcome {
    pub fn new(command: &'static str, dry_run: bool) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            podvmm_version: env!("CARGO_PKG_VERSION"),
            command,
            dry_run,
            refused: None,
            files: Vec::new(),
            containerd: None,
            restart: Restart::NotNeeded,
            notes: Vec::new(),
        }
    }

    pub fn file(&mut self, action: Action, path: impl Into<PathBuf>) {
        self.files.push(Touched {
            action,
            path: path.into(),
        });
    }

    /// The form for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        for Touched { action, path } in &self.files {
            let word = match action {
                Action::New => "new",
                Action::Changed => "changed",
                Action::Same => "same",
                Action::Removed => "removed",
                Action::Left => "left",
            };
            writeln!(text, "{word:<8} {}", path.display())?;
        }
        for note in &self.notes {
            writeln!(text, "note: {note}")?;
        }
        if let Some(reason) = &self.refused {
            return writeln!(text, "Refused: {reason}");
        }
        if self.dry_run {
            return writeln!(text, "Nothing was done (--dry-run).");
        }
        match (self.command, self.restart) {
            ("install", Restart::NotNeeded) => writeln!(text, "podvmm is installed."),
            ("install", Restart::Done) => {
                writeln!(text, "podvmm is installed; containerd was restarted.")
            }
            ("install", Restart::Needed) => {
                writeln!(
                    text,
                    "podvmm is installed. Pods of Kubernetes find it after: {RESTART}"
                )
            }
            (_, Restart::NotNeeded) => writeln!(text, "podvmm is not installed any more."),
            (_, Restart::Done) => {
                writeln!(
                    text,
                    "podvmm is not installed any more; containerd was restarted."
                )
            }
            (_, Restart::Needed) => {
                writeln!(
                    text,
                    "podvmm is not installed any more. containerd forgets it after: {RESTART}"
                )
            }
        }
    }
}
