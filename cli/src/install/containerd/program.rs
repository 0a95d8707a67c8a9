//! The containerd of the system that is installed into: which one it is, and what it makes of its
//! configuration.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::document::Document;
use crate::install::root::Root;

/// Where programs are looked for in another system than this one.
const DIRS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];
/// Lines of what it complains of.
const COMPLAINT: usize = 5;

/// The program.
#[derive(Clone, Debug)]
pub struct Containerd {
    root: Root,
    program: PathBuf,
    /// Its version, as it tells it.
    pub version: String,
    /// The first number of it.
    pub major: u32,
}

impl Containerd {
    /// Looks for it. Nothing where there is none, or where it cannot be run.
    pub fn find(root: &Root) -> anyhow::Result<Option<Self>> {
        let path = std::env::var_os("PATH").filter(|_| root.is_own());
        let path = path.iter().flat_map(std::env::split_paths);
        let mut dirs = path.chain(DIRS.map(PathBuf::from));
        let program = dirs.find_map(|dir| {
            let program = dir.join("containerd");
            let there = root.resolve(&program).ok()?;
            there.is_file().then_some(program)
        });
        // Only root can go where the program's libraries are.
        let enter = root.is_own() || rustix::process::geteuid().is_root();
        let Some(program) = program.filter(|_| enter) else {
            return Ok(None);
        };
        let mut containerd = Self {
            root: root.clone(),
            program,
            version: String::new(),
            major: 0,
        };
        let said = match containerd.run(&[OsStr::new("--version")]) {
            // Of another architecture, or in an image that is not complete.
            Err(_) if !root.is_own() => return Ok(None),
            said => said?,
        };
        let version = said.split_whitespace().find_map(number);
        let (version, major) = version.with_context(|| {
            format!(
                "{} tells no version: {}",
                containerd.program.display(),
                said.trim()
            )
        })?;
        containerd.version = version;
        containerd.major = major;
        Ok(Some(containerd))
    }

    /// What it would run with, plain; what it has by itself if there is no file.
    pub fn effective(&self, config: Option<&Path>) -> anyhow::Result<Value> {
        let words: &[&str] = match config {
            None => &["config", "default"],
            // `dump` of the second generation shows older versions before they are converted.
            Some(_) if self.major >= 2 => &["config", "migrate"],
            Some(_) => &["config", "dump"],
        };
        let mut arguments: Vec<&OsStr> = Vec::new();
        if let Some(config) = config {
            arguments.extend([OsStr::new("--config"), config.as_os_str()]);
        }
        arguments.extend(words.iter().map(OsStr::new));
        let text = self.run(&arguments)?;
        let document = Document::parse(&text);
        let document = document.with_context(|| format!("`containerd {}`", words.join(" ")))?;
        Ok(document.plain())
    }

    fn run(&self, arguments: &[&OsStr]) -> anyhow::Result<String> {
        let mut command = if self.root.is_own() {
            Command::new(&self.program)
        } else {
            let mut command = Command::new("chroot");
            command.arg(self.root.path()).arg(&self.program);
            command
        };
        let output = command
            .args(arguments)
            .output()
            .with_context(|| format!("{} cannot be run", command.get_program().display()))?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = stderr.trim().lines().collect();
        let last = lines[lines.len().saturating_sub(COMPLAINT)..].join("\n");
        ensure!(
            output.status.success(),
            "{}: {}",
            self.program.display(),
            last
        );
        match String::from_utf8(output.stdout) {
            Ok(text) => Ok(text),
            Err(_) => bail!("{} prints no text", self.program.display()),
        }
    }
}

/// A word like `1.6.20~ds1` or `v2.1.0`, and its first number.
fn number(word: &str) -> Option<(String, u32)> {
    let version = word.strip_prefix('v').unwrap_or(word);
    let (major, minor) = version.split_once('.')?;
    minor
        .starts_with(|c: char| c.is_ascii_digit())
        .then_some(())?;
    Some((version.to_owned(), major.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_in_several_ways() {
        for (line, expected) in [
            (
                "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1",
                Some(1),
            ),
            (
                "containerd github.com/containerd/containerd/v2 2.1.9+unknown",
                Some(2),
            ),
            (
                "containerd containerd.io v1.7.27 05044ec0a9a75232cad458027ca83437aae3f4da",
                Some(1),
            ),
            ("something else", None),
        ] {
            let found = line.split_whitespace().find_map(number);
            assert_eq!(found.map(|(_, major)| major), expected, "{line}");
        }
    }
}
