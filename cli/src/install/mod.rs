//! `podvmm install` and `podvmm uninstall`: a node of Kubernetes, or any machine with containerd, gets
//! the runtime and loses it again.
//!
//! ```text
//!   host checks ─▶ what goes where ─▶ containerd's configuration ─▶ write all ─▶ move all ─▶ restart,
//!   (refuse)       (layout)           (plan, checked by             (transaction)           if asked
//!                                      containerd itself)
//! ```
//!
//! Until everything is written beside its place, nothing has changed. What was put in place is recorded
//! in a [manifest], which comes first, so an installation that is killed can be taken out too.
//!
//! # Map
//! - [`mod@install`], [`mod@uninstall`]: the two commands; [`args`], [`outcome`]: what they are told and tell.
//! - [`layout`]: which file goes where; [`root`]: into which system.
//! - [`transaction`]: files that are put in place together; [`manifest`]: what was.
//! - [`containerd`]: the handler in containerd's configuration.
//! - [`pods`]: whether anybody would notice.

pub mod args;
mod containerd;
#[expect(clippy::module_inception, reason = "the command's name")]
mod install;
mod layout;
mod manifest;
mod outcome;
mod pods;
mod root;
mod transaction;
mod uninstall;

#[cfg(test)]
mod deploy;
#[cfg(test)]
mod testkit;

use std::process::Command;

use anyhow::{Context, ensure};

pub use self::install::install;
use self::outcome::{Outcome, RESTART, Restart};
use self::root::Root;
pub use self::uninstall::uninstall;

/// Status for wrong usage and errors.
pub const WRONG: u8 = 2;
const REFUSED: u8 = 1;

/// Restarts containerd, if its configuration has changed and that was asked for.
fn restart(root: &Root, asked: bool, outcome: &mut Outcome) -> anyhow::Result<()> {
    if outcome.restart != Restart::Needed || !asked || outcome.dry_run {
        return Ok(());
    }
    let shown = || format!("containerd was not restarted, everything else is done; run: {RESTART}");
    let manager = root.resolve("/run/systemd/system".as_ref())?;
    ensure!(
        manager.is_dir(),
        "no systemd runs here: restart containerd by what started it; everything else is done"
    );
    let words: Vec<_> = RESTART.split(' ').collect();
    let mut command = if root.is_own() {
        Command::new(words[0])
    } else {
        let mut command = Command::new("chroot");
        command.arg(root.path()).arg(words[0]);
        // The root is that of the machine whose service manager is talked to.
        command.env("SYSTEMD_IGNORE_CHROOT", "1");
        command
    };
    let status = command.args(&words[1..]).status().with_context(shown)?;
    ensure!(status.success(), "{}: it ended with {status}", shown());
    outcome.restart = Restart::Done;
    Ok(())
}

/// Prints the outcome and gives the status.
fn finish(outcome: &Outcome, json: bool) -> anyhow::Result<u8> {
    crate::check::print(&if json {
        serde_json::to_string_pretty(outcome)? + "\n"
    } else {
        outcome.text()
    })?;
    Ok(if outcome.refused.is_some() {
        REFUSED
    } else {
        0
    })
}
