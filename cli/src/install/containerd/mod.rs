//! How containerd learns of the handler, without losing anything that it knows.
//!
//! ```text
//!   Tree (files) ─▶ where to write ─▶ Document (one file, edited) ─▶ verify: containerd itself
//!                                                                    reads a copy of it all
//! ```
//!
//! Where the handler is written is not a matter of taste:
//! - containerd 1 takes the whole CRI section from the last file that has one. A drop-in with nothing
//!   but a handler would wipe out the section of config.toml. So there, the last file that has a
//!   section is changed.
//! - containerd 2 merges sections. If configurations of its version (3) include `*.toml` of a
//!   directory, the handler becomes a file in there. The file has config.toml's version: with a later
//!   one, containerd would not convert config.toml any more.
//! - containerd 1 has runc by itself only while no runtime is named. Whoever names the first one has
//!   to name runc too.
//!
//! A plan is made, and checked by containerd, before anything is changed.

pub mod document;
mod program;
mod tree;
mod verify;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Map, Value};
use toml_edit::Table;

use self::document::{Document, HANDLER, RUNTIME_TYPE};
pub use self::program::Containerd;
use self::tree::{ConfigFile, Tree};
use super::manifest::Manifest;
use super::root::Root;
use super::transaction::Content;

/// What is to become of the configuration.
#[derive(Debug)]
pub enum Change {
    /// It has the handler.
    None,
    /// A file of our own.
    File { path: PathBuf, text: String },
    /// A file that is there.
    Edit {
        path: PathBuf,
        text: String,
        /// What it says now.
        now: String,
        /// What it says without the handler.
        bare: String,
        /// The tables that it gets.
        runtimes: Map<String, Value>,
    },
}

/// A change, and what should be known about it.
#[derive(Debug)]
pub struct Plan {
    pub change: Change,
    pub notes: Vec<String>,
    /// containerd's version, if it was found.
    pub containerd: Option<String>,
}

/// What the configuration is to say.
pub struct Wanted<'a> {
    pub root: &'a Root,
    /// The configuration's first file.
    pub config: &'a Path,
    /// The shim, where containerd would not find it by its name.
    pub shim: Option<&'a str>,
    /// What an earlier installation has put in place.
    pub recorded: &'a Manifest,
}

/// Plans the handler.
pub fn plan(wanted: &Wanted<'_>) -> anyhow::Result<Plan> {
    let tree = Tree::read(wanted.root, wanted.config)?;
    let containerd = Containerd::find(wanted.root).context("containerd")?;
    let mut notes = Vec::new();
    if tree.files.iter().any(|file| file.document.disables_cri()) {
        notes.push(format!(
            "disabled_plugins of {} switches containerd's CRI plugin off: `ctr` works, Kubernetes does not",
            wanted.config.display()
        ));
    }
    let before = effective(&tree, containerd.as_ref(), wanted.config)?;
    if before.is_none() {
        notes.push(format!(
            "no containerd was found below {} that could check the configuration: it has not been checked",
            wanted.root.path().display()
        ));
    }
    let major = containerd.as_ref().map(|containerd| containerd.major);
    let change = change(wanted, &tree, major, before.as_ref(), &mut notes)?;
    if let (Some(containerd), Some(before)) = (&containerd, &before) {
        verify::addition(wanted.root, containerd, &tree, &change, before)?;
    }
    Ok(Plan {
        change,
        notes,
        containerd: containerd.map(|containerd| containerd.version),
    })
}

/// What containerd makes of the configuration as it is.
fn effective(
    tree: &Tree,
    containerd: Option<&Containerd>,
    config: &Path,
) -> anyhow::Result<Option<Value>> {
    let Some(containerd) = containerd else {
        return Ok(None);
    };
    let config = tree.main().map(|_| config);
    let read = containerd.effective(config);
    read.map(Some).with_context(|| {
        format!(
            "containerd {} does not accept its configuration as it is; mend it first",
            containerd.version
        )
    })
}

fn change(
    wanted: &Wanted<'_>,
    tree: &Tree,
    major: Option<u32>,
    before: Option<&Value>,
    notes: &mut Vec<String>,
) -> anyhow::Result<Change> {
    let handler = document::handler(wanted.shim);
    let Some(main) = tree.main() else {
        // The version that every containerd reads, unless it is known to have a later one.
        let version = if major.is_some_and(|major| major >= 2) {
            3
        } else {
            2
        };
        return own_file(wanted.config, version, major, before, handler);
    };
    if let Some((file, present)) = find_handler(tree) {
        let edit = wanted.recorded.edit.as_ref();
        let ours = edit.is_some_and(|edit| {
            edit.path == file.path && edit.runtimes.get(HANDLER) == Some(&present)
        });
        if ours {
            let names = edit.into_iter().flat_map(|edit| edit.runtimes.keys());
            let names: Vec<_> = names.map(String::as_str).collect();
            return update(file, &names, major, before, handler);
        }
        let digest = Content::Text(file.text.clone()).digest()?;
        if !wanted.recorded.has(&file.path, &digest) {
            accept(file, &present, wanted.shim)?;
            notes.push(format!(
                "{} has the handler {HANDLER} already; it is left as it is",
                file.path.display()
            ));
            return Ok(Change::None);
        }
        let version = file.document.version()?;
        return own_file(&file.path, version, major, before, handler);
    }
    let version = main.document.version()?;
    if version >= 3
        && let Some(dir) = tree.drop_ins()?
    {
        let path = dir.join("podvmm.toml");
        return own_file(&path, version, major, before, handler);
    }
    let mut with_section = tree.files.iter().rev();
    let file = with_section.find(|file| file.document.section().is_some());
    edit(
        file.unwrap_or(main),
        &file.unwrap_or(main).document,
        major,
        before,
        handler,
    )
}

fn find_handler(tree: &Tree) -> Option<(&ConfigFile, Value)> {
    let mut files = tree.files.iter();
    files.find_map(|file| Some((file, file.document.runtime(HANDLER)?)))
}

/// A handler that somebody else has written has to lead to the same shim.
fn accept(file: &ConfigFile, present: &Value, shim: Option<&str>) -> anyhow::Result<()> {
    let text = |key: &str| present.get(key).and_then(Value::as_str).unwrap_or_default();
    let place = format!("{}: the handler {HANDLER}", file.path.display());
    if text("runtime_type") != RUNTIME_TYPE {
        bail!(
            "{place} that is there has runtime_type {:?}; take it out or rename it",
            text("runtime_type")
        );
    }
    let path = text("runtime_path");
    if !path.is_empty() && Some(path) != shim {
        bail!(
            "{place} that is there runs {path}; uninstall that one, or take out its runtime_path"
        );
    }
    Ok(())
}

/// Tables for a file whose runtimes are these.
fn additions(
    present: &[String],
    version: i64,
    major: Option<u32>,
    before: Option<&Value>,
    handler: Table,
) -> Vec<(String, Table)> {
    let mut added = Vec::new();
    let forgets = version < 3 && major.is_none_or(|major| major < 2);
    if forgets && !present.iter().any(|name| name != HANDLER) {
        match before.and_then(document::runtimes) {
            None => added.push(("runc".to_owned(), document::runc())),
            Some(tables) => {
                let tables = tables.iter().filter(|(name, _)| *name != HANDLER);
                added.extend(
                    tables.filter_map(|(name, plain)| {
                        Some((name.clone(), document::table_of(plain)?))
                    }),
                );
            }
        }
    }
    added.push((HANDLER.to_owned(), handler));
    added
}

fn own_file(
    path: &Path,
    version: i64,
    major: Option<u32>,
    before: Option<&Value>,
    handler: Table,
) -> anyhow::Result<Change> {
    let added = additions(&[], version, major, before, handler);
    Ok(Change::File {
        path: path.to_owned(),
        text: Document::new(version).with(&added)?,
    })
}

fn edit(
    file: &ConfigFile,
    from: &Document,
    major: Option<u32>,
    before: Option<&Value>,
    handler: Table,
) -> anyhow::Result<Change> {
    let shown = || {
        format!(
            "{} cannot be changed without harm; write the handler into it by hand, as docs/containerd.md \
             shows, and install again",
            file.path.display()
        )
    };
    let version = from
        .version()
        .with_context(|| file.path.display().to_string())?;
    let added = additions(&from.runtimes(), version, major, before, handler);
    let text = from.with(&added).with_context(shown)?;
    let changed = Document::parse(&text)?;
    let runtimes = added
        .iter()
        .filter_map(|(name, _)| Some((name.clone(), changed.runtime(name)?)));
    Ok(Change::Edit {
        path: file.path.clone(),
        runtimes: runtimes.collect(),
        now: file.text.clone(),
        bare: from.text(),
        text,
    })
}

/// Writes anew what an earlier installation has written.
fn update(
    file: &ConfigFile,
    names: &[&str],
    major: Option<u32>,
    before: Option<&Value>,
    handler: Table,
) -> anyhow::Result<Change> {
    let bare = Document::parse(&file.document.without(names)?)?;
    let change = edit(file, &bare, major, before, handler)?;
    Ok(match change {
        Change::Edit { ref text, .. }
            if Document::parse(text)?.plain() == file.document.plain() =>
        {
            Change::None
        }
        change => change,
    })
}

/// A configuration without what an installation has put into it.
#[derive(Debug)]
pub struct Removal {
    pub path: PathBuf,
    /// What the file says then; nothing if there is nothing of ours in it.
    pub text: Option<String>,
    pub notes: Vec<String>,
}

/// Plans the end of the tables that were put into a file. `copy` is the file from before, if nothing
/// else has changed since.
pub fn plan_removal(
    root: &Root,
    path: &Path,
    recorded: &Map<String, Value>,
    copy: Option<String>,
) -> anyhow::Result<Removal> {
    let mut removal = Removal {
        path: path.to_owned(),
        text: None,
        notes: Vec::new(),
    };
    let there = root.resolve(path)?;
    let shown = || there.display().to_string();
    if !there.try_exists().with_context(shown)? {
        return Ok(removal);
    }
    let text = std::fs::read_to_string(&there).with_context(shown)?;
    let document = Document::parse(&text).with_context(|| {
        format!(
            "{}: the handler {HANDLER} cannot be taken out of it; mend it first",
            shown()
        )
    })?;
    let (ours, changed): (Vec<_>, Vec<_>) = recorded
        .iter()
        .filter_map(|(name, table)| Some((name.as_str(), document.runtime(name)? == *table)))
        .partition(|(_, same)| *same);
    for (name, _) in changed {
        removal.notes.push(format!(
            "{}: the runtime {name} has been changed since it was installed; it is left there",
            path.display()
        ));
    }
    let mut names: Vec<_> = ours.into_iter().map(|(name, _)| name).collect();
    let others = document.runtimes();
    if others.iter().any(|name| !names.contains(&name.as_str())) {
        // containerd 1 would lose runc: it has it by itself only where no runtime is named.
        names.retain(|name| *name == HANDLER);
    }
    if !names.is_empty() {
        removal.text = Some(match copy {
            Some(copy) => copy,
            None => document.without(&names).with_context(shown)?,
        });
    }
    Ok(removal)
}

#[cfg(test)]
mod tests;
