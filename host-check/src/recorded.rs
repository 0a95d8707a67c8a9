//! A machine that was recorded: a directory of its files and the answers that are in no file.
//!
//! ```text
//!   DIR/
//!     answers.json     CPUID, /dev/kvm, the probe, calls that were tried
//!     files/sys/…      the machine's files, at their paths
//! ```
//!
//! `answers.json` may say `"like": "OTHER"`: the recording beside it that this one differs from.
//! Files are looked for here first and there second; answers are merged field by field, and `null`
//! takes one back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::errno::Errno;
use crate::host::{Attempt, FileSystem, Hex, Host, Kvm, Node, Probe, Registers};

/// The file of the answers.
pub const ANSWERS: &str = "answers.json";
/// The directory of the files.
pub const FILES: &str = "files";

/// A file that stands for "there is a directory": archives and git may forget empty ones.
pub const PLACEHOLDER: &str = ".directory";

/// What a machine said that is in none of its files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Answers {
    /// What kind of machine this is, for people.
    pub about: String,
    /// Where pods and images are kept.
    pub store: String,
    /// CPUID by leaf.
    pub cpuid: BTreeMap<Hex, Registers>,
    /// Model-specific registers.
    pub msr: BTreeMap<Hex, Result<u64, Errno>>,
    /// `/dev/kvm`.
    pub kvm: Kvm,
    /// The test machine.
    pub probe: Probe,
    /// Calls that were tried.
    pub attempts: BTreeMap<Attempt, Result<u64, Errno>>,
    /// Device nodes.
    pub nodes: BTreeMap<String, Node>,
    /// File systems by a path on them.
    pub file_systems: BTreeMap<String, FileSystem>,
    /// Names of groups.
    pub groups: BTreeMap<u32, String>,
    /// Files that are there and could not be read.
    pub unreadable: BTreeMap<String, Errno>,
    /// Files of the machine that this one is like which are not there.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub absent: BTreeSet<String>,
}

/// Why a recording cannot be used.
#[derive(Debug, Error)]
pub enum RecordedError {
    /// The file cannot be read.
    #[error("recording {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// The file holds something else.
    #[error("recording {0}")]
    Parse(PathBuf, #[source] serde_json::Error),
    /// It refers to itself, or to too many others.
    #[error("recording {0}: too many machines that are like each other")]
    TooDeep(PathBuf),
}

/// A recorded machine.
#[derive(Debug)]
pub struct Recorded {
    answers: Answers,
    /// Where files are looked for, in this order.
    trees: Vec<PathBuf>,
}

impl Recorded {
    /// Loads a recording.
    ///
    /// # Errors
    /// [`RecordedError`] names the file at fault.
    pub fn load(dir: &Path) -> Result<Self, RecordedError> {
        const MAX_LAYERS: usize = 4;
        let mut trees = Vec::new();
        let mut layers = Vec::new();
        let mut next = Some(dir.to_path_buf());
        while let Some(dir) = next.take() {
            if layers.len() == MAX_LAYERS {
                return Err(RecordedError::TooDeep(dir));
            }
            let path = dir.join(ANSWERS);
            let text = fs::read_to_string(&path)
                .map_err(|source| RecordedError::Read(path.clone(), source))?;
            let mut layer: Value = serde_json::from_str(&text)
                .map_err(|source| RecordedError::Parse(path.clone(), source))?;
            let like = layer.as_object_mut().and_then(|map| map.remove("like"));
            next = like
                .as_ref()
                .and_then(Value::as_str)
                .and_then(|name| Some(dir.parent()?.join(name)));
            trees.push(dir.join(FILES));
            layers.push(layer);
        }
        let mut merged = Value::Null;
        for layer in layers.into_iter().rev() {
            if let (Some(map), Some(_)) = (merged.as_object_mut(), layer.get("probe")) {
                // One outcome, not fields: a test machine that was measured cannot have hung, too.
                map.remove("probe");
            }
            merge(&mut merged, layer);
        }
        let answers = serde_json::from_value(merged)
            .map_err(|source| RecordedError::Parse(dir.join(ANSWERS), source))?;
        Ok(Self { answers, trees })
    }

    fn find(&self, path: &str) -> Option<PathBuf> {
        let gone = |absent: &String| {
            let below = path.strip_prefix(absent.as_str());
            below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let mut paths = self.trees.iter().map(|tree| join(tree, path));
        // What is absent is so in the other machines' trees: this one's own comes first.
        let own = paths.next().filter(|path| path.exists());
        own.or_else(|| {
            if self.answers.absent.iter().any(gone) {
                return None;
            }
            paths.find(|path| path.exists())
        })
    }
}

fn join(tree: &Path, path: &str) -> PathBuf {
    tree.join(path.trim_start_matches('/'))
}

/// RFC 7396: objects field by field, `null` removes, everything else replaces. The results that
/// serde writes as objects of one field replace each other, too.
fn merge(into: &mut Value, from: Value) {
    match from {
        Value::Object(from) if !is_result(&from) => {
            if !into.is_object() || into.as_object().is_some_and(is_result) {
                *into = Value::Object(serde_json::Map::new());
            }
            let Value::Object(into) = into else { return };
            for (key, value) in from {
                if value.is_null() {
                    into.remove(&key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        other => *into = other,
    }
}

fn is_result(map: &serde_json::Map<String, Value>) -> bool {
    map.contains_key("Ok") || map.contains_key("Err")
}

impl Host for Recorded {
    fn read(&self, path: &str) -> Result<String, Errno> {
        if let Some(errno) = self.answers.unreadable.get(path) {
            return Err(*errno);
        }
        let found = self.find(path).ok_or(Errno::NOENT)?;
        let bytes = fs::read(found)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn names(&self, path: &str) -> Result<Vec<String>, Errno> {
        let mut names = BTreeSet::new();
        let mut any = false;
        for tree in &self.trees {
            let Ok(entries) = fs::read_dir(join(tree, path)) else {
                continue;
            };
            any = true;
            for entry in entries {
                names.insert(entry?.file_name().to_string_lossy().into_owned());
            }
        }
        if !any {
            return Err(Errno::NOENT);
        }
        names.remove(PLACEHOLDER);
        let there = |name: &String| self.exists(&format!("{}/{name}", path.trim_end_matches('/')));
        Ok(names.into_iter().filter(there).collect())
    }

    fn exists(&self, path: &str) -> bool {
        self.answers.nodes.contains_key(path)
            || self.answers.unreadable.contains_key(path)
            || self.find(path).is_some()
    }

    fn node(&self, path: &str) -> Result<Node, Errno> {
        self.answers.nodes.get(path).cloned().ok_or(Errno::NOENT)
    }

    fn file_system(&self, path: &str) -> Result<FileSystem, Errno> {
        let found = Path::new(path).ancestors().find_map(|path| {
            let path = path.to_str()?;
            self.answers.file_systems.get(path)
        });
        found.cloned().ok_or(Errno::NOENT)
    }

    fn cpuid(&self, leaf: u32) -> Registers {
        let found = self.answers.cpuid.get(&Hex(leaf));
        found.copied().unwrap_or_default()
    }

    fn msr(&self, index: u32) -> Result<u64, Errno> {
        let found = self.answers.msr.get(&Hex(index));
        found.copied().unwrap_or(Err(Errno::NOENT))
    }

    fn kvm(&self) -> Kvm {
        self.answers.kvm.clone()
    }

    fn probe(&self) -> Probe {
        self.answers.probe.clone()
    }

    fn attempt(&self, attempt: Attempt) -> Result<u64, Errno> {
        let found = self.answers.attempts.get(&attempt);
        found.copied().unwrap_or(Err(Errno::NOSYS))
    }

    fn group_name(&self, id: u32) -> Option<String> {
        self.answers.groups.get(&id).cloned()
    }

    fn store(&self) -> String {
        self.answers.store.clone()
    }
}
