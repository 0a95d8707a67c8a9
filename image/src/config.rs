//! An image's configuration, and what a container's process is by it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::digest::{Digest, Hasher};
use crate::manifest::{Manifest, ManifestError, or_default, parse};
use crate::path::normal;
use crate::platform::Platform;

/// A configuration from which no process can be made.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RunConfigError {
    /// Neither the image nor the caller says what to run.
    #[error("the image names no command; write one after `--`")]
    NoCommand,
    /// A signal that Linux does not have.
    #[error("the image's StopSignal `{0}` is no signal")]
    StopSignal(String),
}

/// The configuration of an image, as far as podvmm heeds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Architecture.
    #[serde(default, deserialize_with = "or_default")]
    pub architecture: String,
    /// Operating system.
    #[serde(default, deserialize_with = "or_default")]
    pub os: String,
    /// Kind of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// When it was made, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// What its containers are like.
    #[serde(default, deserialize_with = "or_default")]
    pub config: Settings,
    /// What its root file system is made of.
    pub rootfs: Layers,
}

/// What the containers of an image are like unless told otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Settings {
    /// The program and its first arguments.
    #[serde(deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program if there is no entry point.
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// Variables, as `NAME=value`.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// `USER[:GROUP]`, by name or number.
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    /// Working directory.
    #[serde(deserialize_with = "or_default")]
    pub working_dir: String,
    /// Directories that are to be volumes; the values mean nothing.
    #[serde(deserialize_with = "or_default")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    /// Ports that it listens on; the values mean nothing.
    #[serde(deserialize_with = "or_default")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    /// How to stop it, by name or number.
    #[serde(deserialize_with = "or_default")]
    pub stop_signal: String,
    /// What somebody noted about it.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
}

/// What a root file system is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// Digests of the layers before they were compressed, the lowest first.
    pub diff_ids: Vec<Digest>,
}

impl Layers {
    /// The name of all layers, one upon the other, as OCI computes it.
    #[must_use]
    pub fn chain_id(&self) -> Option<Digest> {
        let mut ids = self.diff_ids.iter();
        let first = *ids.next()?;
        Some(ids.fold(first, |below, id| {
            let mut hasher = Hasher::default();
            hasher.update(format!("{below} {id}").as_bytes());
            hasher.finish()
        }))
    }
}

/// What whoever starts a container wants to be different from what its image says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Another entry point; an empty one is none. The image's arguments go with its entry point.
    pub entrypoint: Option<String>,
    /// Other arguments, if any.
    pub args: Vec<String>,
    /// Further variables.
    pub env: Vec<String>,
    /// Another user.
    pub user: Option<String>,
    /// Another working directory.
    pub workdir: Option<String>,
}

/// What a container's process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunConfig {
    /// Program and arguments; there is at least the program.
    pub args: Vec<String>,
    /// Variables, each name once.
    pub env: Vec<String>,
    /// `USER[:GROUP]`, by name or number; empty for root.
    pub user: String,
    /// Absolute path.
    pub workdir: String,
    /// Absolute paths of directories that are to be volumes.
    pub volumes: Vec<String>,
    /// The number of the signal that ends it; SIGTERM unless the image says otherwise.
    pub stop_signal: u32,
}

impl ImageConfig {
    /// Reads a configuration whose digest has been verified, and compares it with its manifest.
    pub(crate) fn parse(manifest: &Manifest, bytes: &[u8]) -> Result<Self, ManifestError> {
        let digest = manifest.config.digest;
        let config: Self = parse("configuration", digest, bytes)?;
        let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(ManifestError::Layers {
                digest,
                layers,
                diff_ids,
            });
        }
        Ok(config)
    }

    /// What it runs on.
    #[must_use]
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone().filter(|variant| !variant.is_empty()),
        }
    }

    /// What the process of a container is, by the rules that docker has:
    ///
    /// - Arguments replace `Cmd`. Another entry point replaces `Entrypoint` and `Cmd`.
    /// - Variables are added to the image's, and replace those of the same name.
    /// - User and working directory replace the image's.
    ///
    /// # Errors
    /// [`RunConfigError`] when there is nothing to run, or the image says what cannot be.
    pub fn run_config(&self, overrides: &Overrides) -> Result<RunConfig, RunConfigError> {
        let settings = &self.config;
        let (entrypoint, cmd) = match &overrides.entrypoint {
            Some(program) if program.is_empty() => (Vec::new(), &[][..]),
            Some(program) => (vec![program.clone()], &[][..]),
            None => (settings.entrypoint.clone(), &settings.cmd[..]),
        };
        let mut args = entrypoint;
        args.extend_from_slice(if overrides.args.is_empty() {
            cmd
        } else {
            &overrides.args
        });
        if args.is_empty() {
            return Err(RunConfigError::NoCommand);
        }
        let workdir = overrides.workdir.as_deref();
        Ok(RunConfig {
            args,
            env: merge(&settings.env, &overrides.env),
            user: overrides.user.as_ref().unwrap_or(&settings.user).clone(),
            workdir: absolute(workdir.unwrap_or(&settings.working_dir)),
            volumes: settings.volumes.keys().map(|path| absolute(path)).collect(),
            stop_signal: signal(&settings.stop_signal)
                .ok_or_else(|| RunConfigError::StopSignal(settings.stop_signal.clone()))?,
        })
    }
}

/// Variables in their order, the last of a name in the place of the first.
fn merge(first: &[String], second: &[String]) -> Vec<String> {
    let mut merged: Vec<String> = Vec::new();
    for variable in first.iter().chain(second) {
        let name = name_of(variable);
        if name.is_empty() {
            continue;
        }
        match merged.iter_mut().find(|known| name_of(known) == name) {
            Some(known) => known.clone_from(variable),
            None => merged.push(variable.clone()),
        }
    }
    merged
}

fn name_of(variable: &str) -> &str {
    variable.split('=').next().unwrap_or_default()
}

/// The path from `/`.
fn absolute(path: &str) -> String {
    format!("/{}", normal(path))
}

/// Signals by name; docker takes the same.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
const SIGTERM: u32 = 15;
const SIGRTMIN: u32 = 34;
const SIGRTMAX: u32 = 64;

fn signal(text: &str) -> Option<u32> {
    if text.is_empty() {
        return Some(SIGTERM);
    }
    let number = if let Ok(number) = text.parse() {
        number
    } else {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(more) = name.strip_prefix("RTMIN") {
            let more: u32 = more.strip_prefix('+').map_or(Some(0), |n| n.parse().ok())?;
            SIGRTMIN.checked_add(more)?
        } else if let Some(less) = name.strip_prefix("RTMAX") {
            let less: u32 = less.strip_prefix('-').map_or(Some(0), |n| n.parse().ok())?;
            SIGRTMAX.checked_sub(less)?
        } else {
            let index = SIGNALS.iter().position(|known| *known == name)?;
            u32::try_from(index).ok()? + 1
        }
    };
    (1..=SIGRTMAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    fn image(settings: Settings) -> ImageConfig {
        ImageConfig {
            config: settings,
            ..ImageConfig::default()
        }
    }

    /// Entrypoint and Cmd of the image, `--entrypoint` and arguments of the user, and what is run.
    type Case<'a> = (
        &'a [&'a str],
        &'a [&'a str],
        Option<&'a str>,
        &'a [&'a str],
        &'a [&'a str],
    );

    const COMMANDS: [Case<'static>; 13] = [
        (&[], &["sh"], None, &[], &["sh"]),
        (&[], &["sh"], None, &["ls", "-l"], &["ls", "-l"]),
        (&["/app"], &[], None, &[], &["/app"]),
        (
            &["/app", "-v"],
            &["serve"],
            None,
            &[],
            &["/app", "-v", "serve"],
        ),
        (
            &["/app", "-v"],
            &["serve"],
            None,
            &["help"],
            &["/app", "-v", "help"],
        ),
        (&["/app"], &["serve"], Some("sh"), &[], &["sh"]),
        (
            &["/app"],
            &["serve"],
            Some("sh"),
            &["-c", "x"],
            &["sh", "-c", "x"],
        ),
        (&["/app"], &["serve"], Some(""), &["ls"], &["ls"]),
        (&["/app"], &["serve"], Some(""), &[], &[]),
        (&[], &["serve"], Some(""), &[], &[]),
        (&[], &[], None, &[], &[]),
        (&[], &[], None, &["ls"], &["ls"]),
        (&[], &[], Some("a b"), &[], &["a b"]),
    ];

    #[test]
    fn commands_are_put_together_as_docker_does() {
        for case @ (entrypoint, cmd, other, args, expected) in COMMANDS {
            let config = image(Settings {
                entrypoint: strings(entrypoint),
                cmd: strings(cmd),
                ..Settings::default()
            });
            let run = config.run_config(&Overrides {
                entrypoint: other.map(str::to_owned),
                args: strings(args),
                ..Overrides::default()
            });
            if expected.is_empty() {
                assert_eq!(run, Err(RunConfigError::NoCommand), "{case:?}");
            } else {
                assert_eq!(run.unwrap().args, expected, "{case:?}");
            }
        }
    }

    #[test]
    fn variables_user_and_directory_can_be_replaced() {
        let config = image(Settings {
            cmd: strings(&["sh"]),
            env: strings(&["PATH=/bin", "A=1", "=x", "B"]),
            user: "app".into(),
            working_dir: "srv/./x/..//y/".into(),
            volumes: [("/data/", "x"), ("cache", "y")]
                .map(|(path, value)| (path.to_owned(), value.into()))
                .into(),
            ..Settings::default()
        });
        let plain = config.run_config(&Overrides::default()).unwrap();
        assert_eq!(plain.env, ["PATH=/bin", "A=1", "B"]);
        assert_eq!(
            (plain.user.as_str(), plain.workdir.as_str()),
            ("app", "/srv/y")
        );
        assert_eq!(plain.volumes, ["/data", "/cache"]);
        let other = config.run_config(&Overrides {
            env: strings(&["A=2", "C=3=4"]),
            user: Some("0".into()),
            workdir: Some("/".into()),
            ..Overrides::default()
        });
        let other = other.unwrap();
        assert_eq!(other.env, ["PATH=/bin", "A=2", "B", "C=3=4"]);
        assert_eq!((other.user.as_str(), other.workdir.as_str()), ("0", "/"));
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("", Some(15)),
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("SIGSYS", Some(31)),
            ("0", None),
            ("65", None),
            ("SIGRTMIN+31", None),
            ("SIGRTMAX-99", None),
            ("SIGWHAT", None),
        ] {
            assert_eq!(signal(text), number, "{text}");
        }
    }

    #[test]
    fn what_is_null_counts_as_not_there() {
        let config: ImageConfig = serde_json::from_value(serde_json::json!({
            "architecture": "amd64", "os": "linux", "created": null,
            "config": { "Entrypoint": null, "Cmd": ["x"], "Volumes": null, "Env": null,
                        "Unknown": 1, "Labels": null, "User": null },
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(b"a"), Digest::of(b"b")] },
        }))
        .unwrap();
        assert_eq!(config.config.cmd, ["x"]);
        assert!(config.platform().runs_here());
        let chain = Digest::of(format!("{} {}", Digest::of(b"a"), Digest::of(b"b")).as_bytes());
        assert_eq!(config.rootfs.chain_id(), Some(chain));
    }
}
