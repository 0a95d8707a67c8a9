//! `delete`: cleans up after a shim that is gone.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Context;
use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::Message;
use sandbox::bundle::Bundle;

use crate::args::Args;
use crate::bundle::{self, Role};
use crate::cgroup;
use crate::process::timestamp;

/// Status of what was killed.
const KILLED: u32 = 128 + 9;

/// A pod's cgroup is named in its bundle.
fn remove_cgroup(args: &Args) {
    // The working directory is the bundle where none is named.
    let bundle = Bundle::open(args.bundle.as_deref().unwrap_or(Path::new(".")));
    if let Ok(bundle) = bundle
        && !matches!(bundle::role(&bundle), Ok(Role::Member(_)))
        && let Some(path) = bundle.cgroups_path()
    {
        cgroup::remove_empty(path);
    }
}

/// Removes what the container's shim left, if it was one's and that one is gone, and says on standard
/// output that the container has ended.
///
/// containerd calls this for each task that it deletes: while the pod's shim lives, nothing is done.
/// The VM needs no killing: it ends with its shim.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let socket = bundle::socket(&args.namespace, &args.id);
    if UnixStream::connect(&socket).is_err() {
        sandbox::rundir::remove_abandoned(&bundle::root(&args.namespace).join(&args.id));
        let _ = std::fs::remove_file(&socket);
        remove_cgroup(args);
    }
    let response = DeleteResponse {
        exit_status: KILLED,
        exited_at: Some(timestamp(SystemTime::now())).into(),
        ..Default::default()
    };
    let bytes = response.write_to_bytes().context("the answer")?;
    std::io::stdout().write_all(&bytes).context("the answer")
}
