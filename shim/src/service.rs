//! containerd's task service, version 2.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest,
    ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
    StatsResponse, Status, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::events::task::{
    TaskDelete, TaskExecAdded, TaskExecStarted, TaskPaused, TaskResumed, TaskStart,
};
use containerd_shim_protos::shim_async::Task as TaskService;
use containerd_shim_protos::ttrpc::asynchronous::TtrpcContext;
use containerd_shim_protos::ttrpc::{self, Code, get_status};
use sandbox::bundle::changed_limits;
use sandbox::container::Refusal;
use sandbox::{ContainerError, ContainerHandle};

use crate::pod::{Pod, blocking};
use crate::process::{Ended, KILLED, Process, SIGKILL, Stage, timestamp};
use crate::stats;
use crate::streams::Paths;
use crate::task::{Kind, Task};

/// Status of a command that could not be executed.
const NOT_STARTED: u32 = 127;

/// The service.
pub struct Service {
    pod: Arc<Pod>,
}

impl Service {
    /// Serves `pod`.
    pub fn new(pod: Arc<Pod>) -> Self {
        Self { pod }
    }

    fn task(&self, id: &str) -> ttrpc::Result<Arc<Task>> {
        let task = self.pod.task(id);
        task.ok_or_else(|| error(Code::NOT_FOUND, format!("task {id} not found")))
    }

    fn process(&self, id: &str, exec_id: &str) -> ttrpc::Result<(Arc<Task>, Arc<Process>)> {
        let task = self.task(id)?;
        let process = task.process(exec_id).ok_or_else(|| {
            error(
                Code::NOT_FOUND,
                format!("process {exec_id} of task {id} not found"),
            )
        })?;
        Ok((task, process))
    }

    async fn set_paused(&self, id: String, paused: bool) -> ttrpc::Result<Empty> {
        let task = self.task(&id)?;
        let pod = Arc::clone(&self.pod);
        whole(async move {
            if let Some(container) = task.container().cloned() {
                ask(move || match paused {
                    true => container.pause(),
                    false => container.resume(),
                })
                .await?;
            }
            task.set_paused(paused);
            if paused {
                pod.publisher.publish(&TaskPaused {
                    container_id: id,
                    ..Default::default()
                });
            } else {
                pod.publisher.publish(&TaskResumed {
                    container_id: id,
                    ..Default::default()
                });
            }
            Ok(Empty::new())
        })
        .await
    }
}

fn error(code: Code, message: impl Into<String>) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(get_status(code, message.into()))
}

/// containerd tells errors apart by their code and shows people the message.
fn wire(failure: anyhow::Error) -> ttrpc::Error {
    let refusal = failure
        .chain()
        .find_map(|cause| cause.downcast_ref::<ContainerError>())
        .and_then(ContainerError::refusal);
    let code = match refusal {
        Some(Refusal::Invalid) => Code::INVALID_ARGUMENT,
        Some(Refusal::NotFound) => Code::NOT_FOUND,
        Some(Refusal::AlreadyExists) => Code::ALREADY_EXISTS,
        Some(Refusal::NotNow) => Code::FAILED_PRECONDITION,
        Some(Refusal::Exhausted) => Code::RESOURCE_EXHAUSTED,
        Some(Refusal::Unsupported) => Code::UNIMPLEMENTED,
        Some(Refusal::Failed) | None => Code::UNKNOWN,
    };
    error(code, format!("{failure:#}"))
}

/// Goes on with `work` when the connection that asked for it closes: half a change would stay.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = ttrpc::Result<T>> + Send + 'static,
) -> ttrpc::Result<T> {
    tokio::spawn(work)
        .await
        .unwrap_or_else(|_| Err(error(Code::INTERNAL, "the shim failed")))
}

async fn ask<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, ContainerError> + Send + 'static,
) -> ttrpc::Result<T> {
    match blocking(call).await {
        Ok(done) => done.map_err(|failure| wire(failure.into())),
        Err(failure) => Err(wire(failure)),
    }
}

#[async_trait]
impl TaskService for Service {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        let pod = Arc::clone(&self.pod);
        whole(async move {
            pod.create(&request).await.map_err(wire)?;
            Ok(CreateTaskResponse {
                pid: pod.pid(),
                ..Default::default()
            })
        })
        .await
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let (task, process) = self.process(&request.id, &request.exec_id)?;
        let pod = Arc::clone(&self.pod);
        whole(async move {
            start(&pod, &task, &request.exec_id, &process).await?;
            Ok(StartResponse {
                pid: pod.pid(),
                ..Default::default()
            })
        })
        .await
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: DeleteRequest,
    ) -> ttrpc::Result<DeleteResponse> {
        let (task, process) = self.process(&request.id, &request.exec_id)?;
        let pod = Arc::clone(&self.pod);
        whole(async move { delete(&pod, &task, &request.exec_id, &process).await }).await
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let task = self.task(&request.id)?;
        if task.process(&request.exec_id).is_some() {
            let message = format!("process {} exists already", request.exec_id);
            return Err(error(Code::ALREADY_EXISTS, message));
        }
        let pod = Arc::clone(&self.pod);
        whole(async move {
            let paths = Paths {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            };
            let spec = request.spec.value.as_slice();
            pod.exec(&task, &request.exec_id, spec, paths)
                .await
                .map_err(wire)?;
            pod.publisher.publish(&TaskExecAdded {
                container_id: request.id,
                exec_id: request.exec_id,
                ..Default::default()
            });
            Ok(Empty::new())
        })
        .await
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        let (_, process) = self.process(&request.id, &request.exec_id)?;
        // Whoever kills what has ended has what they want.
        if matches!(process.stage(), Stage::Ended(_)) {
            return Ok(Empty::new());
        }
        let Some(handle) = process.handle.clone() else {
            let pod = Arc::clone(&self.pod);
            return whole(async move {
                pod.halt(if request.signal == SIGKILL { KILLED } else { 0 })
                    .await;
                Ok(Empty::new())
            })
            .await;
        };
        let done = ask(move || handle.signal(request.signal, request.all)).await;
        match done {
            Err(_) if matches!(process.stage(), Stage::Ended(_)) => {}
            done => done?,
        }
        Ok(Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let (_, process) = self.process(&request.id, &request.exec_id)?;
        let ended = process.wait().await;
        Ok(WaitResponse {
            exit_status: ended.status,
            exited_at: Some(timestamp(ended.at)).into(),
            ..Default::default()
        })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let (task, process) = self.process(&request.id, &request.exec_id)?;
        let stage = process.stage();
        let status = match stage {
            Stage::Created => Status::CREATED,
            Stage::Running if task.is_paused() => Status::PAUSED,
            Stage::Running => Status::RUNNING,
            Stage::Ended(_) => Status::STOPPED,
        };
        let paths = &process.paths;
        let mut response = StateResponse {
            id: request.id,
            exec_id: request.exec_id,
            bundle: task.bundle.display().to_string(),
            pid: self.pod.pid(),
            status: status.into(),
            stdin: paths.stdin.clone(),
            stdout: paths.stdout.clone(),
            stderr: paths.stderr.clone(),
            terminal: paths.terminal,
            ..Default::default()
        };
        if let Stage::Ended(ended) = stage {
            response.exit_status = ended.status;
            response.exited_at = Some(timestamp(ended.at)).into();
        }
        Ok(response)
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let task = self.task(&request.id)?;
        let info = |pid| ProcessInfo {
            pid,
            ..Default::default()
        };
        let processes = match task.container().cloned() {
            // By their numbers in the guest: on the host they have none.
            Some(container) if matches!(task.init.stage(), Stage::Running) => {
                let all = ask(move || container.processes()).await?;
                all.iter().map(|process| info(process.pid)).collect()
            }
            _ => vec![info(self.pod.pid())],
        };
        Ok(PidsResponse {
            processes,
            ..Default::default()
        })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        self.set_paused(request.id, true).await
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        self.set_paused(request.id, false).await
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: ResizePtyRequest,
    ) -> ttrpc::Result<Empty> {
        let (_, process) = self.process(&request.id, &request.exec_id)?;
        let size = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        let (rows, cols) = (size(request.height), size(request.width));
        if let Some(handle) = process.handle.clone() {
            ask(move || handle.resize(rows, cols)).await?;
        }
        Ok(Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        let (_, process) = self.process(&request.id, &request.exec_id)?;
        if request.stdin {
            process.close_stdin();
        }
        Ok(Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let task = self.task(&request.id)?;
        // The sandbox's own cgroup on the host is the kubelet's to change.
        let Some(container) = task.container().cloned() else {
            return Ok(Empty::new());
        };
        let pod = Arc::clone(&self.pod);
        whole(async move {
            let resources = request.resources.value.clone();
            update(&pod, &request.id, container, resources).await?;
            Ok(Empty::new())
        })
        .await
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let task = self.task(&request.id)?;
        let metrics = match (task.container().cloned(), self.pod.vm().cloned()) {
            (Some(container), _) => stats::of_container(&ask(move || container.stats()).await?),
            (None, Some(vm)) => stats::of_guest(&ask(move || vm.stats()).await?),
            (None, None) => return Err(error(Code::FAILED_PRECONDITION, "the pod has no VM")),
        };
        Ok(StatsResponse {
            stats: Some(stats::any(&metrics)).into(),
            ..Default::default()
        })
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        _request: ConnectRequest,
    ) -> ttrpc::Result<ConnectResponse> {
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: self.pod.pid(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    async fn checkpoint(
        &self,
        _: &TtrpcContext,
        _request: CheckpointTaskRequest,
    ) -> ttrpc::Result<Empty> {
        let message = "checkpoints of pods in virtual machines are not supported";
        Err(error(Code::UNIMPLEMENTED, message))
    }

    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> ttrpc::Result<Empty> {
        // containerd asks after each deleted task; the pod is over with the last.
        if request.now || self.pod.is_empty() {
            self.pod.over.notify_one();
        }
        Ok(Empty::new())
    }
}

async fn start(pod: &Pod, task: &Task, exec_id: &str, process: &Process) -> ttrpc::Result<()> {
    let _order = process.order.lock().await;
    if process.stage() != Stage::Created {
        let message = "the process was started before";
        return Err(error(Code::FAILED_PRECONDITION, message));
    }
    if let Some(handle) = process.handle.clone()
        && let Err(failure) = ask(move || handle.start()).await
    {
        process.set_ended(Ended {
            status: NOT_STARTED,
            at: SystemTime::now(),
        });
        return Err(failure);
    }
    if let Err(failure) = process.start_input() {
        log::warn!("{} {exec_id}: {failure:#}", task.id);
    }
    process.set_running();
    let (id, pid) = (task.id.clone(), pod.pid());
    if exec_id.is_empty() {
        pod.publisher.publish(&TaskStart {
            container_id: id,
            pid,
            ..Default::default()
        });
    } else {
        pod.publisher.publish(&TaskExecStarted {
            container_id: id,
            exec_id: exec_id.to_owned(),
            pid,
            ..Default::default()
        });
    }
    Ok(())
}

/// Gives a container other limits. The VM grows before and shrinks after, so that it is never too small for
/// what the container's cgroup lets it have.
async fn update(
    pod: &Arc<Pod>,
    id: &str,
    container: ContainerHandle,
    resources: Vec<u8>,
) -> ttrpc::Result<()> {
    let limits = serde_json::from_slice(&resources).ok().and_then(|changed| {
        let before = pod.limits_of(id)?;
        Some((before, changed_limits(before, &changed)))
    });
    if let Some((before, after)) = limits {
        pod.resize_for(id, after.at_least(before)).await;
    }
    let updated = ask(move || container.update(&resources)).await;
    if let Some((before, after)) = limits {
        let now = if updated.is_ok() { after } else { before };
        pod.count(id, now);
        pod.fit_after(Duration::ZERO);
    }
    updated
}

async fn delete(
    pod: &Arc<Pod>,
    task: &Arc<Task>,
    exec_id: &str,
    process: &Process,
) -> ttrpc::Result<DeleteResponse> {
    let ended = match process.stage() {
        Stage::Ended(ended) => ended,
        // Nothing of it has run.
        Stage::Created => Ended {
            status: 0,
            at: SystemTime::now(),
        },
        Stage::Running => {
            let message = "the process is running; kill it first";
            return Err(error(Code::FAILED_PRECONDITION, message));
        }
    };
    if let Some(handle) = process.handle.clone() {
        // A guest that is gone has forgotten everything.
        if let Err(failure) = ask(move || handle.remove()).await {
            log::debug!("{} {exec_id}: {failure}", task.id);
        }
    }
    process.drain().await;
    if exec_id.is_empty() {
        match &task.kind {
            Kind::Container { alone: false, .. } => {
                pod.shrink_without(&task.id);
                pod.take_back(task.give_up()).await;
            }
            Kind::Sandbox | Kind::Container { .. } => {
                pod.halt(KILLED).await;
                pod.expect_end();
            }
        }
        pod.forget(&task.id);
        pod.publisher.publish(&TaskDelete {
            container_id: task.id.clone(),
            pid: pod.pid(),
            exit_status: ended.status,
            exited_at: Some(timestamp(ended.at)).into(),
            ..Default::default()
        });
    } else {
        task.forget_exec(exec_id);
    }
    Ok(DeleteResponse {
        pid: pod.pid(),
        exit_status: ended.status,
        exited_at: Some(timestamp(ended.at)).into(),
        ..Default::default()
    })
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
