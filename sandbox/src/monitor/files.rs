//! Files into a container, and out of it: the agent's program for that, run as a process of the container.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use agent_protocol::archive::{GET, PROGRAM, PUT, PUT_AS_IS};
use serde_json::{Value, json};

use super::exec;
use super::plan::ContainerPlan;
use super::protocol::{FilesRequest, Reply, Way};
use super::shared::Shared;
use crate::container::Process;
use crate::packet;

/// What it takes to read and write everybody's files, and no more.
const CAPABILITIES: [&str; 4] = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID"];

/// Starts the program and attends to it as to any other command.
pub(super) fn serve(shared: &Arc<Shared>, socket: OwnedFd, request: &FilesRequest) {
    match start(shared, request) {
        Ok(process) => exec::attend(process, socket),
        Err(refusal) => drop(packet::send(&socket, &refusal, &[])),
    }
}

fn start(shared: &Shared, request: &FilesRequest) -> Result<Process, Reply> {
    let (pod, plan, _) = exec::running_container(shared, request.container.as_deref())?;
    let spec = process_spec(plan, request).to_string();
    let container = pod.container(&plan.name);
    let process = container.run_archive(&exec::new_id(), spec.as_bytes());
    process.map_err(exec::refusal)
}

/// Root in the container, whoever its own processes are: files have many owners.
fn process_spec(plan: &ContainerPlan, request: &FilesRequest) -> Value {
    let mut process = plan.spec["process"].clone();
    let way = match request.way {
        Way::Get => GET,
        Way::Put => PUT,
        Way::PutAsIs => PUT_AS_IS,
    };
    process["args"] = json!([PROGRAM, way, request.path]);
    process["env"] = json!([]);
    process["cwd"] = json!("/");
    process["terminal"] = json!(false);
    process["user"] = json!({ "uid": 0, "gid": 0 });
    process["capabilities"] = json!({
        "bounding": CAPABILITIES,
        "effective": CAPABILITIES,
        "permitted": CAPABILITIES,
        "inheritable": [],
        "ambient": [],
    });
    process["noNewPrivileges"] = json!(true);
    process
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::ContainerConfig;

    #[test]
    fn the_program_has_its_own_rights_and_no_others() {
        let mut config = ContainerConfig::command(["sleep", "9"]);
        config.workdir = "/gone".into();
        config.user = crate::oci::User { uid: 7, gid: 8 };
        let request = FilesRequest {
            container: None,
            way: Way::Put,
            path: "/a b".into(),
        };
        let process = process_spec(&ContainerPlan::new(&config), &request);
        assert_eq!(process["args"], json!(["podvmm-archive", "put", "/a b"]));
        assert_eq!(process["user"], json!({"uid": 0, "gid": 0}));
        assert_eq!(process["cwd"], "/");
        assert_eq!(process["capabilities"]["effective"], json!(CAPABILITIES));
        assert_eq!(process["capabilities"]["ambient"], json!([]));
    }
}
