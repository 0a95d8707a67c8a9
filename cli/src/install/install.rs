//! `podvmm install`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use host_check::{Live, Options, Purpose};
use rustix::fs::{FlockOperation, flock};

use super::args::Install;
use super::containerd::{self, Change, Plan, Wanted};
use super::layout;
use super::manifest::{Edit, Installed, Manifest};
use super::outcome::{Action, Outcome, Restart};
use super::root::Root;
use super::transaction::{Content, Transaction, digest_if_there};
use super::{finish, restart};

/// What the copy of a changed file is called.
const COPY: &str = "before-podvmm";
const TEXT: u32 = 0o644;

/// A file that is going to be put in place.
struct Planned {
    path: PathBuf,
    content: Content,
    mode: u32,
    action: Action,
    sha256: String,
}

/// Installs; gives the status.
pub fn install(args: &Install) -> anyhow::Result<u8> {
    let common = &args.common;
    let root = Root::new(&common.root)?;
    let mut outcome = Outcome::new("install", common.dry_run);
    let options = Options {
        purpose: Purpose::Node,
        ..Options::default()
    };
    if let Err(reason) = host_check::check(&Live::new(), options).ready() {
        if !args.force {
            outcome.refused = Some(format!("{reason}; --force installs all the same"));
            return finish(&outcome, common.json);
        }
        outcome
            .notes
            .push(format!("{reason}; installed by --force"));
    }
    let earlier = Manifest::read(&root, &common.prefix)?;
    let recorded = earlier.clone().unwrap_or_else(Manifest::new);
    let shim = layout::shim(&common.prefix);
    let by_name = layout::is_found_by_name(&common.prefix);
    let plan = containerd::plan(&Wanted {
        root: &root,
        config: &args.containerd_config,
        shim: shim.to_str().filter(|_| !by_name),
        recorded: &recorded,
    })?;
    if !by_name {
        outcome.notes.push(format!(
            "`ctr run --runtime` finds {} only if that directory is in containerd's PATH",
            shim.display()
        ));
    }
    let files = planned(args, &root, &recorded, &plan.change)?;
    outcome.notes.extend(plan.notes.iter().cloned());
    outcome.containerd.clone_from(&plan.containerd);
    for file in &files {
        outcome.file(file.action, &file.path);
    }
    if changes(&plan.change, &files) {
        outcome.restart = Restart::Needed;
    }
    if !common.dry_run {
        put_in_place(&root, &common.prefix, recorded, files, &plan, &mut outcome)?;
    }
    restart(&root, common.restart_containerd, &mut outcome)?;
    finish(&outcome, common.json)
}

/// Whether containerd has something new to read.
fn changes(change: &Change, files: &[Planned]) -> bool {
    match change {
        Change::None => false,
        Change::File { path, .. } | Change::Edit { path, .. } => files
            .iter()
            .any(|file| file.path == *path && file.action != Action::Same),
    }
}

/// All files, programs first: a handler never leads to a shim that is not there yet.
fn planned(
    args: &Install,
    root: &Root,
    recorded: &Manifest,
    change: &Change,
) -> anyhow::Result<Vec<Planned>> {
    let look = |path: &Path, content: Content, mode: u32, foreign_is_fine: bool| {
        let sha256 = content.digest()?;
        let there = digest_if_there(&root.resolve(path)?)?;
        let action = match there {
            None => Action::New,
            Some(there) if there == sha256 => Action::Same,
            Some(there) => {
                if !foreign_is_fine && !recorded.has(path, &there) {
                    bail!(
                        "{} is there, and not as `podvmm install` would have left it; move it away",
                        path.display()
                    );
                }
                Action::Changed
            }
        };
        Ok(Planned {
            path: path.to_owned(),
            content,
            mode,
            action,
            sha256,
        })
    };
    let mut files = Vec::new();
    for asset in layout::assets(&args.common.prefix)? {
        files.push(look(
            &asset.to,
            Content::File(asset.from),
            asset.mode,
            false,
        )?);
    }
    match change {
        Change::None => {}
        Change::File { path, text } => {
            files.push(look(path, Content::Text(text.clone()), TEXT, false)?);
        }
        Change::Edit {
            path, text, bare, ..
        } => {
            // The copy of an earlier installation is from before that one.
            let copy = copy_of(path);
            if recorded.file(&copy).is_none() || !root.resolve(&copy)?.exists() {
                files.push(look(&copy, Content::Text(bare.clone()), 0o600, false)?);
            }
            files.push(look(path, Content::Text(text.clone()), TEXT, true)?);
        }
    }
    Ok(files)
}

fn copy_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(COPY);
    name.into()
}

fn put_in_place(
    root: &Root,
    prefix: &Path,
    mut manifest: Manifest,
    files: Vec<Planned>,
    plan: &Plan,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let mut transaction = Transaction::default();
    let record = Manifest::path(prefix);
    let mut places: Vec<_> = files.iter().map(|file| file.path.as_path()).collect();
    places.insert(0, &record);
    for path in places {
        let dir = path.parent().unwrap_or(Path::new("/"));
        let there = root.resolve(dir)?;
        for made in transaction.directory(&there)?.iter().rev() {
            let below = made.strip_prefix(root.path()).unwrap_or(made);
            manifest.directories.push(Path::new("/").join(below));
        }
    }
    // Two at once would undo each other's work. The lock goes with this process.
    let dir = root.resolve(record.parent().unwrap_or(prefix))?;
    let lock = std::fs::File::open(&dir).with_context(|| dir.display().to_string())?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("{}: another `podvmm install` is running", dir.display()))?;

    let stale = note(&mut manifest, &files, &plan.change);
    let text = Content::Text(manifest.text()?);
    let place = root.resolve(&record)?;
    if digest_if_there(&place)? != Some(text.digest()?) {
        transaction.stage(&place, &text, TEXT)?;
    }
    for file in &files {
        if file.action != Action::Same {
            transaction.stage(&root.resolve(&file.path)?, &file.content, file.mode)?;
        }
    }
    transaction.commit()?;
    for file in stale {
        super::uninstall::remove_file(root, &file, outcome)?;
    }
    Ok(())
}

/// Brings the manifest up to date; gives what an earlier version had and this one has not.
fn note(manifest: &mut Manifest, files: &[Planned], change: &Change) -> Vec<Installed> {
    env!("CARGO_PKG_VERSION").clone_into(&mut manifest.podvmm_version);
    let mut edited = None;
    if let Change::Edit {
        path,
        runtimes,
        now,
        ..
    } = change
    {
        // The copy is what is to come back only while nobody else has changed the file.
        let now = Content::Text(now.clone()).digest().unwrap_or_default();
        let was = manifest.edit.take().filter(|edit| edit.path == *path);
        let untouched = was.is_none_or(|edit| {
            edit.sha256.as_ref() == Some(&now) || manifest.has(&edit.copy, &now)
        });
        let mut after = files.iter().filter(|file| file.path == *path);
        manifest.edit = Some(Edit {
            path: path.clone(),
            runtimes: runtimes.clone(),
            copy: copy_of(path),
            sha256: after
                .next()
                .map(|file| file.sha256.clone())
                .filter(|_| untouched),
        });
        edited = Some(path);
    }
    let mut stale = std::mem::take(&mut manifest.files);
    for file in files.iter().filter(|file| Some(&file.path) != edited) {
        let old = stale.iter().position(|old| old.path == file.path);
        let old = old.map(|at| stale.remove(at));
        manifest.files.push(Installed {
            path: file.path.clone(),
            sha256: file.sha256.clone(),
            replaced: old.map(|old| old.sha256).filter(|old| *old != file.sha256),
        });
    }
    // What belongs to the configuration stays as long as that does.
    let copy = manifest.edit.as_ref().map(|edit| edit.copy.clone());
    let (kept, stale) = stale
        .into_iter()
        .partition(|old| matches!(change, Change::None) || Some(&old.path) == copy.as_ref());
    manifest.files.extend::<Vec<_>>(kept);
    stale
}
