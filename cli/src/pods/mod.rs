//! The verbs for pods that exist: each looks at the record of a pod, and asks its monitor.

pub mod attach;
pub mod cp;
pub mod exec;
pub mod inspect;
pub mod logs;
pub mod port_forward;
pub mod ps;
pub mod stats;
pub mod steer;
mod table;
pub mod update;

use std::path::Path;

use anyhow::bail;
use sandbox::config::default_root;
use sandbox::monitor::{PodStore, PodView, Status};

use crate::OWN_FAILURE;

/// The pods below `--root`.
pub fn store(root: Option<&Path>) -> PodStore {
    PodStore::new(root.map_or_else(default_root, Path::to_owned))
}

/// The pod `name`, which must be there to be asked.
fn alive(store: &PodStore, name: &str) -> anyhow::Result<PodView> {
    let view = store.get(name)?;
    if !view.is_alive() {
        let reason = view.reason.as_deref().map(|reason| format!(": {reason}"));
        bail!(
            "pod {name} is {}{}",
            match view.status {
                Status::Unmanaged => "run by a program that cannot be asked".to_owned(),
                status => status.to_string(),
            },
            reason.unwrap_or_default()
        );
    }
    Ok(view)
}

/// Does `what` with each of `names`; what fails is said, and does not keep the rest from being done.
fn each<T>(names: &[T], what: impl Fn(&T) -> anyhow::Result<()>) -> u8 {
    let mut status = 0;
    for name in names {
        if let Err(error) = what(name) {
            eprintln!("podvmm: {error:#}");
            status = OWN_FAILURE;
        }
    }
    status
}
