//! Containers of a pod and the processes in them.
//!
//! ```text
//!   Pod ──create──▶ Process ◀── exec, run ── ContainerHandle ──▶ pause, resume, update, stats
//!                      │ handle
//!                      ▼
//!                ProcessHandle ──▶ start, wait, signal, resize, close_stdin, remove
//! ```
//!
//! A process's streams and the call that makes it are asked for in one breath; the agent puts them together.

mod error;
mod process;
mod streams;
#[cfg(test)]
mod tests;

pub use agent_protocol::proto::{
    ContainerStats, CpuStats, GuestStats, IoStats, MemoryStats, PidsStats, ProcessInfo,
};
use agent_protocol::proto::{
    CreateContainerRequest, ExecProcessRequest, ListProcessesRequest, PauseContainerRequest,
    ResumeContainerRequest, StatsRequest, UpdateContainerRequest,
};

pub use error::{ContainerError, Refusal, StartFailure};
pub use process::{Exit, Process, ProcessHandle};

use crate::guest::{Guest, call_context};
use crate::oci::{Rootfs, Stdio};
use error::call;
use serde::{Deserialize, Serialize};
use streams::AskedStreams;

/// A container as the agent is asked for it.
#[derive(Clone, Debug)]
pub struct ContainerRequest {
    /// Name, unique in its pod.
    pub id: String,
    /// An OCI `config.json` that means something inside the guest.
    pub spec_json: Vec<u8>,
    /// Its root file system.
    pub rootfs: Rootfs,
    /// Its standard streams.
    pub stdio: Stdio,
    /// Name of the container whose pid namespace it shares, if it does.
    pub pid_namespace_of: Option<String>,
    /// What its processes may ask of the guest's kernel, if that is limited.
    pub seccomp: Option<SeccompFilter>,
}

/// A compiled seccomp filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeccompFilter {
    /// An array of `struct sock_filter`.
    pub program: Vec<u8>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

/// Steers a container from anywhere.
#[derive(Clone, Debug)]
pub struct ContainerHandle {
    guest: Guest,
    id: String,
}

impl ContainerHandle {
    pub(crate) fn new(guest: &Guest, id: &str) -> Self {
        Self {
            guest: guest.clone(),
            id: id.to_owned(),
        }
    }

    pub(crate) fn create(
        guest: &Guest,
        request: ContainerRequest,
    ) -> Result<Process, ContainerError> {
        let handle = ProcessHandle::new(guest, &request.id, "");
        let streams = AskedStreams::ask(guest, request.stdio)?;
        let seccomp = request.seccomp.unwrap_or_default();
        let wire = CreateContainerRequest {
            container_id: request.id,
            oci_spec_json: request.spec_json,
            rootfs: Some(request.rootfs.to_wire()).into(),
            stdio: Some(streams.stdio()).into(),
            pid_namespace_of: request.pid_namespace_of.unwrap_or_default(),
            seccomp_bpf: seccomp.program,
            seccomp_flags: seccomp.flags,
            ..Default::default()
        };
        guest
            .agent
            .create_container(call_context(), &wire)
            .map_err(call("CreateContainer"))?;
        Process::made(handle, streams)
    }

    /// Makes one more process in the container, to be started. `process_json` is an OCI `process`.
    ///
    /// # Errors
    /// [`ContainerError`].
    pub fn exec(
        &self,
        exec_id: &str,
        process_json: &[u8],
        stdio: Stdio,
    ) -> Result<Process, ContainerError> {
        let (request, streams) = self.request(exec_id, process_json, stdio)?;
        self.guest
            .agent
            .exec_process(call_context(), &request)
            .map_err(call("ExecProcess"))?;
        Process::made(self.process(exec_id), streams)
    }

    /// Runs one more command in the container. `process_json` is an OCI `process`.
    ///
    /// # Errors
    /// [`ContainerError`], of which [`ContainerError::Start`] means that the command cannot be executed;
    /// nothing is left of the process.
    pub fn run(
        &self,
        exec_id: &str,
        process_json: &[u8],
        stdio: Stdio,
    ) -> Result<Process, ContainerError> {
        let (request, streams) = self.request(exec_id, process_json, stdio)?;
        self.carry_out(&request, streams)
    }

    /// Runs the agent's own program for archives in the container. The arguments in `process_json` are as
    /// [`agent_protocol::archive`] has them.
    ///
    /// # Errors
    /// As those of [`run`](Self::run).
    pub fn run_archive(
        &self,
        exec_id: &str,
        process_json: &[u8],
    ) -> Result<Process, ContainerError> {
        let (mut request, streams) = self.request(exec_id, process_json, Stdio::pipes(true))?;
        request.archive = true;
        self.carry_out(&request, streams)
    }

    fn request(
        &self,
        exec_id: &str,
        process_json: &[u8],
        stdio: Stdio,
    ) -> Result<(ExecProcessRequest, AskedStreams), ContainerError> {
        let streams = AskedStreams::ask(&self.guest, stdio)?;
        let request = ExecProcessRequest {
            container_id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            process_json: process_json.to_owned(),
            stdio: Some(streams.stdio()).into(),
            ..Default::default()
        };
        Ok((request, streams))
    }

    fn carry_out(
        &self,
        request: &ExecProcessRequest,
        streams: AskedStreams,
    ) -> Result<Process, ContainerError> {
        let handle = self.process(&request.exec_id);
        let answer = self.guest.agent.run_process(call_context(), request);
        let error = answer.map(|mut response| response.start_error.take());
        // Without an answer it may run all the same.
        let remove = |error: &ContainerError| {
            if !error.is_refusal() {
                let _ = handle.remove();
            }
        };
        let error = error.map_err(call("RunProcess")).inspect_err(remove)?;
        process::check_start(error)?;
        Process::made(handle, streams)
    }

    /// Freezes all its processes.
    ///
    /// # Errors
    /// [`ContainerError::Call`].
    pub fn pause(&self) -> Result<(), ContainerError> {
        let request = PauseContainerRequest {
            container_id: self.id.clone(),
            ..Default::default()
        };
        let answer = self.guest.agent.pause_container(call_context(), &request);
        answer.map(drop).map_err(call("PauseContainer"))
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// [`ContainerError::Call`].
    pub fn resume(&self) -> Result<(), ContainerError> {
        let request = ResumeContainerRequest {
            container_id: self.id.clone(),
            ..Default::default()
        };
        let answer = self.guest.agent.resume_container(call_context(), &request);
        answer.map(drop).map_err(call("ResumeContainer"))
    }

    /// Changes its limits. `resources_json` is an OCI `linux.resources`.
    ///
    /// # Errors
    /// [`ContainerError::Call`]; then nothing was changed.
    pub fn update(&self, resources_json: &[u8]) -> Result<(), ContainerError> {
        let request = UpdateContainerRequest {
            container_id: self.id.clone(),
            resources_json: resources_json.to_owned(),
            ..Default::default()
        };
        let answer = self.guest.agent.update_container(call_context(), &request);
        answer.map(drop).map_err(call("UpdateContainer"))
    }

    /// What it uses of the guest.
    ///
    /// # Errors
    /// [`ContainerError::Call`].
    pub fn stats(&self) -> Result<ContainerStats, ContainerError> {
        let request = StatsRequest {
            container_id: self.id.clone(),
            ..Default::default()
        };
        let answer = self.guest.agent.stats(call_context(), &request);
        let mut answer = answer.map_err(call("Stats"))?;
        Ok(answer.containers.pop().unwrap_or_default())
    }

    /// Its processes, by their numbers in the guest.
    ///
    /// # Errors
    /// [`ContainerError::Call`].
    pub fn processes(&self) -> Result<Vec<ProcessInfo>, ContainerError> {
        let request = ListProcessesRequest {
            container_id: self.id.clone(),
            ..Default::default()
        };
        let answer = self.guest.agent.list_processes(call_context(), &request);
        Ok(answer.map_err(call("ListProcesses"))?.processes)
    }

    /// One of its processes; the first without a name.
    #[must_use]
    pub fn process(&self, exec_id: &str) -> ProcessHandle {
        ProcessHandle::new(&self.guest, &self.id, exec_id)
    }
}
