//! `podvmm inspect`.

use std::path::Path;

use sandbox::PodSize;
use sandbox::monitor::PodView;
use serde_json::{Value, json};

use crate::OWN_FAILURE;
use crate::args::Inspect;
use crate::check::print;

pub fn inspect(args: &Inspect, root: Option<&Path>) -> anyhow::Result<u8> {
    let store = super::store(root);
    let mut pods = Vec::new();
    let mut status = 0;
    for name in &args.pods {
        match store.get(name) {
            Ok(view) => pods.push(everything(&view)),
            Err(error) => {
                eprintln!("podvmm: {error}");
                status = OWN_FAILURE;
            }
        }
    }
    print(&format!("{}\n", serde_json::to_string_pretty(&pods)?))?;
    Ok(status)
}

/// How large its VM is, if there is one that can be asked.
fn size(view: &PodView) -> Option<PodSize> {
    view.is_alive().then(|| view.client().size().ok())?
}

fn everything(view: &PodView) -> Value {
    json!({
        "name": view.name,
        "status": view.status,
        "reason": view.reason,
        "directory": view.dir,
        "record": view.record,
        "plan": view.plan().ok(),
        "size": size(view),
    })
}
