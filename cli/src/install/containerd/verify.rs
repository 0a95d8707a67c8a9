//! containerd itself reads a changed configuration before it is put in place.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

use super::Change;
use super::document::{self, Document, HANDLER, RUNTIME_TYPE};
use super::program::Containerd;
use super::tree::Tree;
use crate::install::root::Root;

/// A copy of a configuration, in a directory that goes with it.
struct Copy {
    there: PathBuf,
    inside: PathBuf,
}

impl Copy {
    fn new(root: &Root) -> anyhow::Result<Self> {
        for dir in ["/tmp", "/run"] {
            let inside = Path::new(dir).join(format!("podvmm-install.{}", std::process::id()));
            let there = root.resolve(&inside)?;
            if DirBuilder::new().mode(0o700).create(&there).is_ok() {
                return Ok(Self { there, inside });
            }
        }
        bail!("no directory can be made in /tmp or /run, to check containerd's configuration in")
    }

    /// Writes a file; gives its path in its system.
    fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let place = self.there.join(name);
        fs::write(&place, text).with_context(|| place.display().to_string())?;
        Ok(self.inside.join(name))
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.there);
    }
}

/// Fails if the changed configuration means anything but the one before and the handler.
pub fn addition(
    root: &Root,
    containerd: &Containerd,
    tree: &Tree,
    change: &Change,
    before: &Value,
) -> anyhow::Result<()> {
    let (path, text) = match change {
        Change::None => return Ok(()),
        Change::File { path, text } | Change::Edit { path, text, .. } => (path, text),
    };
    let copy = Copy::new(root)?;
    let changed = copy.write("changed.toml", text)?;
    let mut imports: Vec<PathBuf> = Vec::new();
    for file in tree.files.iter().skip(1) {
        imports.push(if file.path == *path {
            changed.clone()
        } else {
            file.path.clone()
        });
    }
    let main = match tree.main() {
        None => None,
        Some(main) if main.path == *path => Some(Document::parse(text)?),
        Some(main) => {
            if !imports.contains(&changed) {
                imports.push(changed.clone());
            }
            Some(main.document.clone())
        }
    };
    let config = match main {
        None => changed,
        Some(main) => {
            let imports: Option<Vec<_>> = imports
                .iter()
                .map(|path| path.to_str().map(str::to_owned))
                .collect();
            let imports =
                imports.context("a file of containerd's configuration has no name in UTF-8")?;
            copy.write("config.toml", &main.with_imports(&imports).text())?
        }
    };
    let after = containerd.effective(Some(&config)).with_context(|| {
        format!(
            "containerd {} would not accept the changed configuration",
            containerd.version
        )
    })?;
    compare(before, &after).with_context(|| {
        format!(
            "{} is left as it is, because containerd {} reads a copy with the handler in otherwise",
            path.display(),
            containerd.version
        )
    })
}

/// Fails if there is more between two effective configurations than the handler.
fn compare(before: &Value, after: &Value) -> anyhow::Result<()> {
    let found = document::runtimes(after).and_then(|tables| tables.get(HANDLER));
    match found
        .and_then(|table| table.get("runtime_type"))
        .and_then(Value::as_str)
    {
        Some(RUNTIME_TYPE) => {}
        _ => bail!(
            "the handler {HANDLER} does not appear: this containerd does not heed sections of the file's \
             version; give it `version = 2`, with the sections' names of that version"
        ),
    }
    let strip = |value: &Value| {
        let mut value = document::without(value, &[HANDLER]);
        if let Some(map) = value.as_object_mut() {
            // The list of files.
            map.remove("imports");
        }
        value
    };
    match difference("", &strip(before), &strip(after)) {
        Some(place) => bail!("{place} would change"),
        None => Ok(()),
    }
}

/// The first place where two values differ.
fn difference(place: &str, one: &Value, other: &Value) -> Option<String> {
    let (Some(left), Some(right)) = (one.as_object(), other.as_object()) else {
        return (one != other).then(|| place.to_owned());
    };
    let keys = left.keys().chain(right.keys());
    keys.into_iter().find_map(|key| {
        let below = if place.is_empty() {
            key.clone()
        } else {
            format!("{place}.{key}")
        };
        match (left.get(key), right.get(key)) {
            (Some(left), Some(right)) => difference(&below, left, right),
            _ => Some(below),
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn effective(runtimes: &Value) -> Value {
        json!({
            "version": 2, "imports": ["x"], "plugins": {
                "io.containerd.grpc.v1.cri": {"cni": {"dir": "a"}, "containerd": {"runtimes": runtimes}}
            }
        })
    }

    #[test]
    fn only_the_handler_may_come() {
        let runc = json!({"runc": {"runtime_type": "io.containerd.runc.v2"}});
        let before = effective(&runc);
        let mut after = runc.clone();
        after["podvmm"] = json!({"runtime_type": RUNTIME_TYPE, "snapshotter": ""});
        compare(&before, &effective(&after)).unwrap();
        let error = compare(&before, &before).unwrap_err().to_string();
        assert!(error.contains("does not appear"), "{error}");
        after.as_object_mut().unwrap().remove("runc");
        let error = compare(&before, &effective(&after))
            .unwrap_err()
            .to_string();
        assert!(error.contains("containerd would change"), "{error}");
        let mut other = effective(&json!({"podvmm": {"runtime_type": RUNTIME_TYPE}}));
        other["plugins"]["io.containerd.grpc.v1.cri"]["cni"]["dir"] = json!("b");
        let error = compare(&effective(&json!({})), &other)
            .unwrap_err()
            .to_string();
        assert!(error.contains("cni.dir would change"), "{error}");
    }
}
