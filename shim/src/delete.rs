//! `delete`: cleans up after a shim that is gone.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::SystemTime;

use anyhow::Context;
use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::Message;

use crate::args::Args;
use crate::bundle;
use crate::process::timestamp;

/// Status of what was killed.
const KILLED: u32 = 128 + 9;

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
    }
    let response = DeleteResponse {
        exit_status: KILLED,
        exited_at: Some(timestamp(SystemTime::now())).into(),
        ..Default::default()
    };
    let bytes = response.write_to_bytes().context("the answer")?;
    std::io::stdout().write_all(&bytes).context("the answer")
}
