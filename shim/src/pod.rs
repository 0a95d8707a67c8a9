//! The pod that a shim serves: its VM and its tasks.
//!
//! ```text
//!          create              guest's events, end of the VM
//!             │                            │
//!             ▼                            ▼
//!   tasks: sandbox, containers ◀── ended ── pod ──▶ events for containerd
//! ```

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, anyhow, bail};
use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::events::task::{TaskCreate, TaskExit, TaskOOM};
use sandbox::bundle::{Bundle, process_for_guest};
use sandbox::sizing::Limits;
use sandbox::{EventSink, Exit, Pod as Vm, PodEvent};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use crate::args::Args;
use crate::bundle::{self, Role};
use crate::cgroup::{self, Cgroup};
use crate::config::Config;
use crate::events::{Publisher, task_io};
use crate::forward;
use crate::guest::{self, Held, Pause, Template};
use crate::options::{self, Source};
use crate::process::{Ended, KILLED, Process, timestamp};
use crate::size::{LINGER, Sizing};
use crate::streams::{Paths, Streams};
use crate::task::{Kind, Task};

/// How long the guest's kernel may take to start. A busy node starts many at once.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);
/// Most block volumes that a pod has at a time. Which it will have is not known when its VM starts.
const BLOCK_SLOTS: u8 = 4;
/// News that wait at most. A guest that tells more waits, as it does on any connection that nobody reads.
const NEWS: usize = 64;
/// How long after its sandbox's Delete containerd may take to end the shim.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// The pod.
pub struct Pod {
    /// As this shim was started.
    pub args: Args,
    /// Where events go.
    pub publisher: Publisher,
    /// Told when the shim has nothing more to do.
    pub over: Notify,
    vm: OnceLock<Arc<Vm>>,
    forwarding: OnceLock<AbortHandle>,
    sizing: OnceLock<Sizing>,
    cgroup: OnceLock<Cgroup>,
    /// How the sandbox ends, once somebody has asked for it.
    sandbox_status: OnceLock<u32>,
    pause: OnceLock<Arc<Pause>>,
    /// Held while the VM starts.
    starting: tokio::sync::Mutex<()>,
    tasks: Mutex<HashMap<String, Arc<Task>>>,
    /// Whether all processes have ended, and whatever comes from now on.
    is_over: AtomicBool,
    news: mpsc::Sender<News>,
}

/// What threads of the VM tell.
pub enum News {
    /// The guest did.
    Guest(PodEvent),
    /// The VM has ended, for this reason.
    VmEnded(String),
}

/// Runs what waits for the guest or the disk on a thread of its own.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| anyhow!("a thread of the shim failed"))
}

/// Runs what must not wait until the guest has answered others, on a thread that nobody else has: as many calls as
/// there are threads for [`blocking`] can wait for an agent that is silent.
async fn at_once<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<T> {
    let thread = std::thread::Builder::new().name("end".into());
    on_thread(thread.stack_size(256 * 1024), work).await
}

/// Runs `work` on that thread. Where there can be no more threads, one of those that there are has to do.
async fn on_thread<T: Send + 'static>(
    thread: std::thread::Builder,
    work: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<T> {
    // A thread that cannot be made keeps what it was given.
    let held = Arc::new(Mutex::new(Some(work)));
    let take = move || held.lock().unwrap_or_else(PoisonError::into_inner).take();
    let theirs = take.clone();
    let (tell, told) = tokio::sync::oneshot::channel();
    let started = thread.spawn(move || {
        if let Some(work) = theirs() {
            let _ = tell.send(work());
        }
    });
    if started.is_err()
        && let Some(work) = take()
    {
        return blocking(work).await;
    }
    told.await
        .map_err(|_| anyhow!("a thread of the shim failed"))
}

impl Pod {
    /// A pod without a VM yet, and the news that `listen` is to be given.
    pub fn new(args: Args) -> (Arc<Self>, mpsc::Receiver<News>) {
        let (news, heard) = mpsc::channel(NEWS);
        let publisher = Publisher::new(&args.namespace);
        let pod = Self {
            args,
            publisher,
            over: Notify::new(),
            vm: OnceLock::new(),
            forwarding: OnceLock::new(),
            sizing: OnceLock::new(),
            cgroup: OnceLock::new(),
            sandbox_status: OnceLock::new(),
            pause: OnceLock::new(),
            starting: tokio::sync::Mutex::new(()),
            tasks: Mutex::new(HashMap::new()),
            is_over: AtomicBool::new(false),
            news,
        };
        (Arc::new(pod), heard)
    }

    /// Passes on what happens in the guest, to its end.
    pub async fn listen(self: Arc<Self>, mut heard: mpsc::Receiver<News>) {
        while let Some(news) = heard.recv().await {
            match news {
                News::Guest(PodEvent::Exited {
                    container,
                    exec,
                    exit,
                }) => self.exited(container, exec, exit),
                News::Guest(PodEvent::OomKilled { container }) => self.oom_killed(&container),
                News::Guest(PodEvent::AgentGone) => {}
                News::VmEnded(reason) => {
                    log::info!("the VM has ended: {reason}");
                    self.all_ended().await;
                }
            }
        }
    }

    /// The VM.
    pub fn vm(&self) -> Option<&Arc<Vm>> {
        self.vm.get()
    }

    /// What stands for the pod's processes on the host.
    pub fn pid(&self) -> u32 {
        self.vm().map_or(0, |vm| vm.vmm_pid())
    }

    /// The task `id`.
    pub fn task(&self, id: &str) -> Option<Arc<Task>> {
        self.tasks().get(id).cloned()
    }

    /// Forgets the task `id`.
    pub fn forget(&self, id: &str) {
        self.tasks().remove(id);
    }

    /// Takes a task. The VM may have ended while it was made, and nobody tells of its end again.
    pub async fn adopt(&self, task: Task) {
        self.tasks().insert(task.id.clone(), Arc::new(task));
        if self.is_over.load(Ordering::Acquire) {
            self.all_ended().await;
        }
    }

    /// Whether there is no task.
    pub fn is_empty(&self) -> bool {
        self.tasks().is_empty()
    }

    fn tasks(&self) -> MutexGuard<'_, HashMap<String, Arc<Task>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a task as containerd asks for it; for the first, the VM.
    pub async fn create(self: &Arc<Self>, request: &CreateTaskRequest) -> anyhow::Result<()> {
        if self.task(&request.id).is_some() {
            bail!("task {} exists already", request.id);
        }
        let dir = PathBuf::from(&request.bundle);
        let bundle = Bundle::open(&dir)?;
        let role = bundle::role(&bundle)?;
        let paths = Paths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        if !matches!(role, Role::Member(_)) {
            let source = options::source(request.options.as_ref())?;
            self.start_vm(&bundle, &role, &source).await?;
        }
        if role != Role::Sandbox {
            self.resize_for(&request.id, bundle.limits()).await;
        }
        let template = Template::new(bundle, request);
        let task = match role {
            Role::Sandbox => {
                let _ = self.pause.set(Arc::new(Pause::new(template)));
                let init = Process::new(paths, None, None);
                Task::new(&request.id, dir, Kind::Sandbox, init)
            }
            Role::Member(_) | Role::Alone => {
                let alone = role == Role::Alone;
                let made = self.container(&request.id, template, paths, alone).await;
                if made.is_err() {
                    self.shrink_without(&request.id);
                }
                made?
            }
        };
        self.publisher.publish(&TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: Some(task_io(&task.init.paths)).into(),
            pid: self.pid(),
            ..Default::default()
        });
        self.adopt(task).await;
        Ok(())
    }

    async fn start_vm(&self, bundle: &Bundle, role: &Role, source: &Source) -> anyhow::Result<()> {
        let _starting = self.starting.lock().await;
        if self.vm.get().is_some() {
            bail!("the pod of this shim has a sandbox already");
        }
        // What no guest can have is refused before one is started.
        bundle.for_guest("check", |_| true)?;
        if let Some(path) = bundle.cgroups_path().filter(|path| !path.is_empty()) {
            bundle::note_cgroup(&self.args.namespace, &self.args.id, path)?;
            let _ = self.cgroup.set(Cgroup::enter(path)?);
        }
        let settings = Config::read(source)?;
        let announced = bundle::limits(bundle, role);
        let size = settings.rule.size(announced).context("the pod's limits")?;
        let sizing = Sizing::new(&settings, announced, size);
        let mut config = bundle::vm(&self.args.namespace, &self.args.id, bundle, role, size)?;
        config.max_vcpus = sizing.max().vcpus;
        config.max_memory = sizing.max().memory;
        let _ = self.sizing.set(sizing);
        config.boot_timeout = BOOT_TIMEOUT;
        config.block_slots = BLOCK_SLOTS;
        config.log = self.args.debug.then_some(log::LevelFilter::Debug);
        let news = self.news.clone();
        config.events = Some(EventSink::new(move |event| {
            let _ = news.blocking_send(News::Guest(event));
        }));
        let vm = blocking(move || Vm::start(config)).await?;
        let vm = Arc::new(vm.map_err(anyhow::Error::from)?);
        let _ = self.vm.set(Arc::clone(&vm));
        if let Some(path) = bundle.network_namespace() {
            match forward::start(path, &vm) {
                Ok(forwarding) => drop(self.forwarding.set(forwarding)),
                // The pod does without.
                Err(error) => log::warn!("port forwarding does not work: {error:#}"),
            }
        }
        let news = self.news.clone();
        std::thread::Builder::new()
            .name("vm".into())
            .stack_size(128 * 1024)
            .spawn(move || {
                let reason = anyhow::Error::from(vm.wait());
                let _ = news.blocking_send(News::VmEnded(format!("{reason:#}")));
            })
            .context("no thread to wait for the VM")?;
        Ok(())
    }

    /// Counts `limits` for the container `id`, and makes the VM as large as that wants it.
    pub async fn resize_for(&self, id: &str, limits: Limits) {
        let (Some(sizing), Some(vm)) = (self.sizing.get(), self.vm()) else {
            return;
        };
        if let Some(excess) = sizing.excess(limits) {
            log::warn!("container {id}: {excess}");
        }
        sizing.set(id, limits);
        sizing.fit(vm).await;
    }

    /// The limits that the container `id` counts with, if it does.
    pub fn limits_of(&self, id: &str) -> Option<Limits> {
        self.sizing.get()?.limits(id)
    }

    /// Counts `limits` for the container `id`, if it still counts.
    pub fn count(&self, id: &str, limits: Limits) {
        if let Some(sizing) = self.sizing.get()
            && sizing.limits(id).is_some()
        {
            sizing.set(id, limits);
        }
    }

    /// The container `id` counts no more: the VM gets smaller, soon, if nothing else wants it as it is.
    pub fn shrink_without(self: &Arc<Self>, id: &str) {
        let Some(sizing) = self.sizing.get() else {
            return;
        };
        sizing.forget(id);
        self.fit_after(LINGER);
    }

    /// Makes the VM as large as its containers want it then, and waits for nothing.
    pub fn fit_after(self: &Arc<Self>, delay: Duration) {
        let pod = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            if let (Some(sizing), Some(vm)) = (pod.sizing.get(), pod.vm())
                && pod.sandbox_status.get().is_none()
            {
                sizing.fit(vm).await;
            }
        });
    }

    async fn container(
        &self,
        id: &str,
        template: Template,
        paths: Paths,
        alone: bool,
    ) -> anyhow::Result<Task> {
        let vm = Arc::clone(self.vm().context("the pod has no VM")?);
        let (name, dir, stdio) = (id.to_owned(), template.dir.clone(), paths.stdio());
        let pause = self.pause.get().cloned();
        let handle = vm.container(id);
        let (process, held) =
            blocking(move || guest::create(&vm, &name, &template, pause.as_deref(), stdio))
                .await??;
        let kind = Kind::Container {
            handle,
            held: Mutex::new(held),
            alone,
        };
        Ok(Task::new(id, dir, kind, connect(process, paths)?))
    }

    /// Adds a process to the task `task`.
    pub async fn exec(
        &self,
        task: &Task,
        exec_id: &str,
        spec: &[u8],
        paths: Paths,
    ) -> anyhow::Result<()> {
        let container = task
            .container()
            .context("the sandbox has no processes; name a container")?
            .clone();
        let (json, terminal) = process_for_guest(spec)?;
        if terminal != paths.terminal {
            bail!("the process and the request differ in whether there is a terminal");
        }
        let (name, stdio) = (exec_id.to_owned(), paths.stdio());
        let process = blocking(move || container.exec(&name, &json, stdio)).await??;
        task.add_exec(exec_id, connect(process, paths)?);
        Ok(())
    }

    /// Takes away from the guest what a task had of the host.
    pub async fn take_back(&self, held: Held) {
        let Some(vm) = self.vm().cloned() else { return };
        let _ = blocking(move || held.take_back(&vm)).await;
    }

    /// Ends the VM, and tells that the sandbox has ended with `status`; whatever else ran was killed.
    /// The VMM process is not waited for: containerd's patience is shorter than a busy host's ends are
    /// long, and who is not answered in time is not heard of again.
    pub async fn halt(&self, status: u32) {
        let _ = self.sandbox_status.set(status);
        if let Some(forwarding) = self.forwarding.get() {
            forwarding.abort();
        }
        if let Some(vm) = self.vm().cloned() {
            let _ = at_once(move || vm.halt()).await;
        }
        // When the sandbox has ended the kubelet kills whoever is in the pod's cgroup. That may be the VMM
        // process, but not the shim: it has to take back what the pod has of the host.
        if let Some(cgroup) = self.cgroup.get() {
            cgroup.step_out();
        }
        self.all_ended().await;
    }

    /// Nobody has anything left to ask for: ends the shim, if containerd does not do so soon.
    pub fn expect_end(self: &Arc<Self>) {
        let pod = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(FORGOTTEN).await;
            log::warn!(
                "containerd has forgotten the shim of a pod that is gone: it ends by itself"
            );
            pod.over.notify_one();
        });
    }

    /// Gives back what the pod had of the host, however long that takes.
    pub async fn leave(self: &Arc<Self>) {
        // containerd may have given up a Create whose VM is starting: that one is to be stopped as well, or
        // the cgroup is never empty. No VM is started after this.
        let _starting = self.starting.lock().await;
        self.halt(0).await;
        if let Some(vm) = self.vm().cloned() {
            let _ = at_once(move || vm.stop()).await;
        }
        let pod = Arc::clone(self);
        let _ = at_once(move || {
            let cgroup = pod.cgroup.get();
            if cgroup.is_some_and(|cgroup| !cgroup.leave(cgroup::IN_THE_END)) {
                log::warn!("the pod's cgroup stays: something is in it");
            }
            bundle::forget_cgroup(&pod.args.namespace, &pod.args.id);
        })
        .await;
    }

    fn exited(self: &Arc<Self>, container: String, exec: String, exit: Exit) {
        let Some(task) = self.task(&container) else {
            return;
        };
        let Some(process) = task.process(&exec) else {
            return;
        };
        if !process.hear_of_end() {
            return;
        }
        let ended = Ended {
            status: exit.code.into(),
            at: SystemTime::now(),
        };
        // A slow start of this process must not keep others' ends from being told.
        let pod = Arc::clone(self);
        tokio::spawn(async move {
            if exit.oom_killed {
                pod.oom_killed(&container);
            }
            pod.ended(&task, &exec, &process, ended).await;
            if exec.is_empty() {
                pod.shrink_without(&container);
            }
        });
    }

    async fn ended(&self, task: &Task, exec: &str, process: &Process, ended: Ended) {
        let _order = process.order.lock().await;
        if !process.set_ended(ended) {
            return;
        }
        let id = if exec.is_empty() { &task.id } else { exec };
        self.publisher.publish(&TaskExit {
            container_id: task.id.clone(),
            id: id.to_owned(),
            pid: self.pid(),
            exit_status: ended.status,
            exited_at: Some(timestamp(ended.at)).into(),
            ..Default::default()
        });
    }

    async fn all_ended(&self) {
        self.is_over.store(true, Ordering::Release);
        let tasks: Vec<_> = self.tasks().values().cloned().collect();
        let of_sandbox = self.sandbox_status.get().copied().unwrap_or(KILLED);
        for task in tasks {
            let status = match task.kind {
                Kind::Sandbox => of_sandbox,
                Kind::Container { .. } => KILLED,
            };
            for (exec, process) in task.processes() {
                let at = SystemTime::now();
                self.ended(&task, &exec, &process, Ended { status, at })
                    .await;
            }
        }
    }

    fn oom_killed(&self, container: &str) {
        if let Some(task) = self.task(container)
            && task.hear_of_oom(Instant::now())
        {
            self.publisher.publish(&TaskOOM {
                container_id: container.to_owned(),
                ..Default::default()
            });
        }
    }
}

/// Connects a new process's streams; one that cannot be connected does not stay.
fn connect(mut process: sandbox::Process, paths: Paths) -> anyhow::Result<Process> {
    let handle = process.handle();
    match Streams::connect(&mut process, &paths) {
        Ok(streams) => Ok(Process::new(paths, Some(handle), Some(streams))),
        Err(error) => {
            std::thread::spawn(move || drop(handle.remove()));
            Err(error)
        }
    }
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;
