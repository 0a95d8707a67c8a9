//! `podvmm uninstall`.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::args::Uninstall;
use super::containerd::{Removal, plan_removal};
use super::manifest::{Edit, Installed, Manifest};
use super::outcome::{Action, Outcome, Restart};
use super::root::Root;
use super::transaction::{Content, Transaction, digest_if_there};
use super::{finish, pods, restart};

/// Where pods have their state while they run; pods leave these empty.
const RUNTIME: [&str; 2] = ["/run/podvmm", "/run/podvmm-shim"];

/// Takes out what was installed; gives the status.
pub fn uninstall(args: &Uninstall) -> anyhow::Result<u8> {
    let common = &args.common;
    let root = Root::new(&common.root)?;
    let mut outcome = Outcome::new("uninstall", common.dry_run);
    let Some(manifest) = Manifest::read(&root, &common.prefix)? else {
        outcome.notes.push(format!(
            "nothing was installed: there is no {}",
            Manifest::path(&common.prefix).display()
        ));
        return finish(&outcome, common.json);
    };
    let running = pods::running(&root, &common.prefix)?;
    if !running.is_empty() && !args.force {
        let (pid, program) = &running[0];
        outcome.refused = Some(format!(
            "pods are running, {program} with process number {pid} for instance, {} processes in all; \
             end them, or --force goes ahead",
            running.len()
        ));
        return finish(&outcome, common.json);
    }
    let removal = manifest.edit.as_ref().map(|edit| removal(&root, edit));
    let removal = removal.transpose()?;
    if common.dry_run {
        foretell(&root, &manifest, removal.as_ref(), &mut outcome)?;
    } else {
        take_out(&root, &common.prefix, &manifest, removal, &mut outcome)?;
    }
    restart(&root, common.restart_containerd, &mut outcome)?;
    finish(&outcome, common.json)
}

fn removal(root: &Root, edit: &Edit) -> anyhow::Result<Removal> {
    let now = digest_if_there(&root.resolve(&edit.path)?)?;
    let untouched = now.is_some() && now == edit.sha256;
    let copy = fs::read_to_string(root.resolve(&edit.copy)?).ok();
    plan_removal(root, &edit.path, &edit.runtimes, copy.filter(|_| untouched))
}

fn foretell(
    root: &Root,
    manifest: &Manifest,
    removal: Option<&Removal>,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    if let Some(removal) = removal {
        outcome.notes.extend(removal.notes.iter().cloned());
        if removal.text.is_some() {
            outcome.file(Action::Changed, &removal.path);
            outcome.restart = Restart::Needed;
        }
    }
    for file in &manifest.files {
        match digest_if_there(&root.resolve(&file.path)?)? {
            None => {}
            Some(found) if file.is(&found) => outcome.file(Action::Removed, &file.path),
            Some(_) => outcome.file(Action::Left, &file.path),
        }
    }
    Ok(())
}

/// The handler goes first: while it is there, so is what it leads to.
fn take_out(
    root: &Root,
    prefix: &Path,
    manifest: &Manifest,
    removal: Option<Removal>,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    if let Some(removal) = removal {
        outcome.notes.extend(removal.notes);
        if let Some(text) = removal.text {
            let mut transaction = Transaction::default();
            let place = root.resolve(&removal.path)?;
            transaction.stage(&place, &Content::Text(text), 0o644)?;
            transaction.commit()?;
            outcome.file(Action::Changed, removal.path);
            outcome.restart = Restart::Needed;
        }
    }
    for file in manifest.files.iter().rev() {
        let was_there = outcome.files.len();
        remove_file(root, file, outcome)?;
        let removed = outcome.files.get(was_there);
        if removed.is_some_and(|it| it.action == Action::Removed && is_configuration(&it.path)) {
            outcome.restart = Restart::Needed;
        }
    }
    let record = root.resolve(&Manifest::path(prefix))?;
    fs::remove_file(&record).with_context(|| record.display().to_string())?;
    for dir in manifest.directories.iter().rev() {
        // One that others have put something into stays.
        let _ = fs::remove_dir(root.resolve(dir)?);
    }
    for dir in RUNTIME {
        let dir = root.resolve(Path::new(dir))?;
        // containerd's namespaces, while there is something in them, hold the one above.
        for namespace in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(namespace.path());
        }
        let _ = fs::remove_dir(dir);
    }
    Ok(())
}

fn is_configuration(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "toml")
}

/// Removes a file that is as it was installed.
pub fn remove_file(root: &Root, file: &Installed, outcome: &mut Outcome) -> anyhow::Result<()> {
    let place = root.resolve(&file.path)?;
    let action = match digest_if_there(&place)? {
        None => return Ok(()),
        Some(found) if file.is(&found) => {
            fs::remove_file(&place)
                .with_context(|| format!("{} cannot be removed", place.display()))?;
            Action::Removed
        }
        Some(_) => Action::Left,
    };
    outcome.file(action, &file.path);
    Ok(())
}
