//! The files that containerd's configuration consists of: one, and those that it includes.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::document::Document;
use crate::install::root::Root;

/// More files than any configuration has: two that include each other would go on for ever.
const MAX_FILES: usize = 256;

/// One file.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// Where it is in its system.
    pub path: PathBuf,
    pub text: String,
    pub document: Document,
}

/// All files, in the order in which containerd reads them; none where there is no configuration.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    pub files: Vec<ConfigFile>,
}

impl Tree {
    /// Reads them.
    pub fn read(root: &Root, config: &Path) -> anyhow::Result<Self> {
        let mut tree = Self::default();
        let mut open = VecDeque::from([config.to_owned()]);
        let mut seen = Vec::new();
        while let Some(path) = open.pop_front() {
            let there = root.resolve(&path)?;
            if seen.contains(&there) {
                continue;
            }
            let shown = || format!("{}: containerd's configuration", there.display());
            if !there.try_exists().with_context(shown)? {
                // A file that is named and not there: containerd says so when it starts.
                continue;
            }
            ensure!(
                tree.files.len() < MAX_FILES,
                "{}: it includes too many files",
                shown()
            );
            let text = fs::read_to_string(&there).with_context(shown)?;
            let document = Document::parse(&text).with_context(shown)?;
            document.version().with_context(shown)?;
            for pattern in document.imports().with_context(shown)? {
                let dir = path.parent().unwrap_or(Path::new("/"));
                open.extend(expand(root, &dir.join(pattern)).with_context(shown)?);
            }
            seen.push(there);
            tree.files.push(ConfigFile {
                path,
                text,
                document,
            });
        }
        Ok(tree)
    }

    /// The file that was asked for.
    pub fn main(&self) -> Option<&ConfigFile> {
        self.files.first()
    }

    /// The directory of a pattern like `/etc/containerd/conf.d/*.toml`, if one is included.
    pub fn drop_ins(&self) -> anyhow::Result<Option<PathBuf>> {
        for file in &self.files {
            let dir = file.path.parent().unwrap_or(Path::new("/"));
            for pattern in file.document.imports()? {
                let pattern = dir.join(pattern);
                if pattern.file_name().is_some_and(|name| name == "*.toml") {
                    return Ok(pattern.parent().map(Path::to_owned));
                }
            }
        }
        Ok(None)
    }
}

/// The files of a pattern, in the order of their names. Only the name can have `*`.
fn expand(root: &Root, pattern: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (
        pattern.parent(),
        pattern.file_name().and_then(|name| name.to_str()),
    ) else {
        bail!("imports: {} is no path of a file", pattern.display());
    };
    if dir.to_string_lossy().contains(['*', '?', '[']) {
        bail!(
            "imports: {}: only a file's name may have a wildcard here",
            pattern.display()
        );
    }
    if !name.contains('*') {
        return Ok(vec![pattern.to_owned()]);
    }
    let there = root.resolve(dir)?;
    let Ok(entries) = fs::read_dir(&there) else {
        return Ok(Vec::new());
    };
    let mut names: Vec<_> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|entry| matches(name, entry))
        .collect();
    names.sort();
    Ok(names.into_iter().map(|entry| dir.join(entry)).collect())
}

/// Whether a name fits a pattern of letters and `*`.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((first, rest)) => name.strip_prefix(first).is_some_and(|left| {
            let mut ends = left.char_indices().map(|(at, _)| at).chain([left.len()]);
            ends.any(|at| matches(rest, &left[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::testkit::TempDir;

    #[test]
    fn names_fit_patterns() {
        for (pattern, name, expected) in [
            ("*.toml", "a.toml", true),
            ("*.toml", "a.toml.new", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("*", "", true),
            ("x", "x", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn files_are_read_in_containerds_order() {
        let dir = TempDir::new();
        fs::create_dir_all(dir.join("etc/conf.d")).unwrap();
        let write = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
        write(
            "etc/config.toml",
            "version = 2\nimports = ['conf.d/*.toml', '/etc/last', 'none']",
        );
        write("etc/conf.d/b.toml", "imports = ['../config.toml']");
        write("etc/conf.d/a.toml", "");
        write("etc/conf.d/other", "");
        write("etc/last", "");
        let root = Root::new(dir.path()).unwrap();
        let tree = Tree::read(&root, Path::new("/etc/config.toml")).unwrap();
        let paths: Vec<_> = tree
            .files
            .iter()
            .map(|file| file.path.to_str().unwrap())
            .collect();
        let expected = [
            "/etc/config.toml",
            "/etc/conf.d/a.toml",
            "/etc/conf.d/b.toml",
            "/etc/last",
        ];
        assert_eq!(paths, expected);
        assert_eq!(tree.drop_ins().unwrap(), Some("/etc/conf.d".into()));
        let none = Tree::read(&root, Path::new("/nothing.toml")).unwrap();
        assert!(none.main().is_none());
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let dir = TempDir::new();
        let root = Root::new(dir.path()).unwrap();
        for (text, word) in [
            ("version = ", "TOML"),
            ("imports = 3", "imports"),
            ("imports = ['/etc/*/x.toml']", "wildcard"),
        ] {
            fs::write(dir.join("config.toml"), text).unwrap();
            let error = Tree::read(&root, Path::new("/config.toml")).unwrap_err();
            let error = format!("{error:#}");
            assert!(
                error.contains(word) && error.contains("config.toml"),
                "{error}"
            );
        }
    }
}
