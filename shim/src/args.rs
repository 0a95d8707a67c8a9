//! The command line of a runtime v2 shim, in the form of Go's flag package.

use std::ffi::OsString;
use std::path::PathBuf;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// See to it that the container has a shim, and tell its address.
    Start,
    /// Clean up after a shim that is gone.
    Delete,
    /// Finish what `delete` had no time for.
    CleanUp,
    /// Be a shim.
    Serve,
    /// Tell the version.
    Version,
    /// Tell about the runtime.
    Info,
}

/// The command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Args {
    /// Last word.
    pub action: Action,
    /// containerd's namespace.
    pub namespace: String,
    /// containerd's address.
    pub address: String,
    /// The container.
    pub id: String,
    /// The bundle, where it is not the working directory.
    pub bundle: Option<PathBuf>,
    /// Whether to log everything.
    pub debug: bool,
}

/// Longest identifier and namespace that containerd has.
const MAX_IDENTIFIER: usize = 76;

impl Args {
    /// Parses the arguments after the program's name.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut args = Self {
            action: Action::Serve,
            namespace: String::new(),
            address: String::new(),
            id: String::new(),
            bundle: None,
            debug: false,
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let word = text(word)?;
            let Some(flag) = word.strip_prefix('-') else {
                args.action = match word.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    "clean-up" => Action::CleanUp,
                    other => return Err(format!("unknown command {other:?}")),
                };
                break;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, mut value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let mut value = || match value
                .take()
                .map_or_else(|| words.next().map(text), |v| Some(Ok(v)))
            {
                Some(value) => value,
                None => Err(format!("-{name} needs a value")),
            };
            match name {
                "debug" => args.debug = true,
                "v" | "version" => args.action = Action::Version,
                "info" => args.action = Action::Info,
                "namespace" => args.namespace = value()?,
                "address" => args.address = value()?,
                "id" => args.id = value()?,
                "bundle" => args.bundle = Some(value()?.into()),
                // The command that publishes events; there is a socket for that.
                "publish-binary" | "socket" => drop(value()?),
                other => return Err(format!("unknown flag -{other}")),
            }
        }
        if !matches!(args.action, Action::Version | Action::Info) {
            identifier("-namespace", &args.namespace)?;
            identifier("-id", &args.id)?;
        }
        Ok(args)
    }
}

fn text(word: OsString) -> Result<String, String> {
    word.into_string()
        .map_err(|word| format!("{} is not UTF-8", word.display()))
}

/// Both become parts of paths.
fn identifier(name: &str, value: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let starts = value.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && value.len() <= MAX_IDENTIFIER && value.chars().all(allowed) {
        Ok(())
    } else {
        Err(format!(
            "{name} {value:?}: has to be 1 to {MAX_IDENTIFIER} characters of a-z, A-Z, 0-9, `-`, `_` and `.`"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_line_that_containerd_writes() {
        let args = parse(
            "-namespace k8s.io -address /run/containerd/containerd.sock \
             -publish-binary /usr/bin/containerd -id abc -debug start",
        )
        .unwrap();
        assert_eq!(args.action, Action::Start);
        assert_eq!(
            (args.namespace.as_str(), args.id.as_str()),
            ("k8s.io", "abc")
        );
        assert!(args.debug);
        let args = parse("--namespace=default -id x -bundle /run/x delete").unwrap();
        assert_eq!(args.bundle, Some("/run/x".into()));
    }

    #[test]
    fn names_cannot_leave_their_directory() {
        for id in ["..", ".x", "a/b", &"x".repeat(77)] {
            assert!(parse(&format!("-namespace n -id {id} start")).is_err());
            assert!(parse(&format!("-namespace {id} -id x start")).is_err());
        }
        assert!(parse("-namespace n start").is_err());
    }

    #[test]
    fn what_is_unknown_is_named() {
        assert!(parse("-frobnicate").unwrap_err().contains("frobnicate"));
        assert!(
            parse("-namespace n -id x stop")
                .unwrap_err()
                .contains("stop")
        );
        assert!(parse("-id").unwrap_err().contains("-id"));
    }
}
