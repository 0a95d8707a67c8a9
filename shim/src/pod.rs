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
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, bail};
use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::events::task::{TaskCreate, TaskExit, TaskOOM};
use sandbox::bundle::{Bundle, process_for_guest, rootfs};
use sandbox::{
    Changes, ContainerRequest, EventSink, Exit, Pod as Vm, PodConfig, PodEvent, Rootfs, Share,
    sizing,
};
use tokio::sync::{Notify, mpsc};

use crate::args::Args;
use crate::bundle::{self, Role};
use crate::events::{Publisher, task_io};
use crate::process::{Ended, Process, timestamp};
use crate::streams::{Paths, Streams};
use crate::task::{Kind, Task};

/// Status of a process whose VM has ended under it: as if it had been killed.
const KILLED: u32 = 128 + 9;
/// How long the guest's kernel may take to start. A busy node starts many at once.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);

/// The pod.
pub struct Pod {
    /// As this shim was started.
    pub args: Args,
    /// Where events go.
    pub publisher: Publisher,
    /// Told when the shim has nothing more to do.
    pub over: Notify,
    vm: OnceLock<Arc<Vm>>,
    /// Held while the VM starts.
    starting: tokio::sync::Mutex<()>,
    tasks: Mutex<HashMap<String, Arc<Task>>>,
    news: mpsc::UnboundedSender<News>,
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

impl Pod {
    /// A pod without a VM yet, and the news that `listen` is to be given.
    pub fn new(args: Args) -> (Arc<Self>, mpsc::UnboundedReceiver<News>) {
        let (news, heard) = mpsc::unbounded_channel();
        let publisher = Publisher::new(&args.namespace);
        let pod = Self {
            args,
            publisher,
            over: Notify::new(),
            vm: OnceLock::new(),
            starting: tokio::sync::Mutex::new(()),
            tasks: Mutex::new(HashMap::new()),
            news,
        };
        (Arc::new(pod), heard)
    }

    /// Passes on what happens in the guest, to its end.
    pub async fn listen(self: Arc<Self>, mut heard: mpsc::UnboundedReceiver<News>) {
        while let Some(news) = heard.recv().await {
            match news {
                News::Guest(PodEvent::Exited {
                    container,
                    exec,
                    exit,
                }) => {
                    // A slow start of this process must not keep others' ends from being told.
                    let pod = Arc::clone(&self);
                    tokio::spawn(async move { pod.exited(&container, &exec, exit).await });
                }
                News::Guest(PodEvent::OomKilled { container }) => self.oom_killed(&container),
                News::Guest(PodEvent::AgentGone) => {}
                News::VmEnded(reason) => {
                    log::info!("the VM has ended: {reason}");
                    self.all_ended(KILLED).await;
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
        let task = match role {
            Role::Sandbox => {
                self.start_vm(&bundle, &role).await?;
                Task::new(
                    &request.id,
                    dir,
                    Kind::Sandbox,
                    Process::new(paths, None, None),
                )
            }
            Role::Member(_) => self.container(request, dir, &bundle, paths, false).await?,
            Role::Alone => {
                self.start_vm(&bundle, &role).await?;
                self.container(request, dir, &bundle, paths, true).await?
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
        self.tasks().insert(request.id.clone(), Arc::new(task));
        Ok(())
    }

    async fn start_vm(&self, bundle: &Bundle, role: &Role) -> anyhow::Result<()> {
        let _starting = self.starting.lock().await;
        if self.vm.get().is_some() {
            bail!("the pod of this shim has a sandbox already");
        }
        // What no guest can have is refused before one is started.
        bundle.for_guest("check", |_| true)?;
        let size = sizing::size(sizing::Base::default(), bundle::limits(bundle, role))
            .context("the pod's limits")?;
        let mut config = PodConfig::new(&self.args.id);
        config.root = bundle::root(&self.args.namespace);
        config.vcpus = size.vcpus;
        config.memory = size.memory;
        config.hostname = bundle.hostname().unwrap_or_default().to_owned();
        config.boot_timeout = BOOT_TIMEOUT;
        config.log = self.args.debug.then_some(log::LevelFilter::Debug);
        let news = self.news.clone();
        config.events = Some(EventSink::new(move |event| {
            let _ = news.send(News::Guest(event));
        }));
        let vm = blocking(move || Vm::start(config)).await?;
        let vm = Arc::new(vm.map_err(anyhow::Error::from)?);
        let _ = self.vm.set(Arc::clone(&vm));
        let news = self.news.clone();
        std::thread::Builder::new()
            .name("vm".into())
            .stack_size(128 * 1024)
            .spawn(move || {
                let reason = anyhow::Error::from(vm.wait());
                let _ = news.send(News::VmEnded(format!("{reason:#}")));
            })
            .context("no thread to wait for the VM")?;
        Ok(())
    }

    async fn container(
        &self,
        request: &CreateTaskRequest,
        dir: PathBuf,
        bundle: &Bundle,
        paths: Paths,
        alone: bool,
    ) -> anyhow::Result<Task> {
        let vm = Arc::clone(self.vm().context("the pod has no VM")?);
        let id = request.id.clone();
        let guest = bundle.for_guest(&id, |path| bundle::is_pod_shm(bundle, path))?;
        if guest.joins_pid_namespace {
            bail!("shareProcessNamespace is not supported yet");
        }
        let mounts: Vec<_> = request
            .rootfs
            .iter()
            .map(|mount| rootfs::Mount {
                kind: mount.type_.clone(),
                source: mount.source.clone(),
                options: mount.options.clone(),
            })
            .collect();
        let root_dir = bundle.root_dir(&dir);
        let stdio = paths.stdio();
        let wanted = id.clone();
        let (process, shares) = blocking(move || -> anyhow::Result<_> {
            let root_name = format!("{wanted}-rootfs");
            let root = rootfs::share(&root_name, &root_dir, &mounts)?;
            let mut shared = Shared::new(&vm);
            shared.add(root)?;
            for share in guest.shares {
                shared.add(share)?;
            }
            let process = vm.create(ContainerRequest {
                id: wanted,
                spec_json: guest.spec_json,
                rootfs: Rootfs {
                    share: root_name,
                    changes: Changes::Host,
                },
                stdio,
                pid_namespace_of: None,
                seccomp: guest.seccomp,
            })?;
            Ok((process, shared.keep()))
        })
        .await??;
        let vm = self.vm().context("the pod has no VM")?;
        let kind = Kind::Container {
            handle: vm.container(&id),
            shares,
            alone,
        };
        let init = connect(process, paths)?;
        Ok(Task::new(&id, dir, kind, init))
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

    /// Takes a task's files away from the guest.
    pub async fn unshare(&self, shares: Vec<String>) {
        let Some(vm) = self.vm().cloned() else { return };
        let _ = blocking(move || {
            for share in shares {
                if let Err(error) = vm.remove_share(&share) {
                    log::debug!("{error}");
                }
            }
        })
        .await;
    }

    /// Ends the VM, and tells that all its processes have ended with `status`.
    pub async fn stop(&self, status: u32) {
        if let Some(vm) = self.vm().cloned() {
            let _ = blocking(move || vm.stop()).await;
        }
        self.all_ended(status).await;
    }

    async fn exited(&self, container: &str, exec: &str, exit: Exit) {
        let Some(task) = self.task(container) else {
            return;
        };
        let Some(process) = task.process(exec) else {
            return;
        };
        let ended = Ended {
            status: exit.code.into(),
            at: SystemTime::now(),
        };
        if exit.oom_killed && exec.is_empty() {
            log::info!("container {container} was out of memory");
        }
        self.ended(&task, exec, &process, ended).await;
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

    async fn all_ended(&self, status: u32) {
        let tasks: Vec<_> = self.tasks().values().cloned().collect();
        for task in tasks {
            for (exec, process) in task.processes() {
                let at = SystemTime::now();
                self.ended(&task, &exec, &process, Ended { status, at })
                    .await;
            }
        }
    }

    fn oom_killed(&self, container: &str) {
        if self.task(container).is_some() {
            self.publisher.publish(&TaskOOM {
                container_id: container.to_owned(),
                ..Default::default()
            });
        }
    }
}

/// Shares that are taken away again unless they are kept.
struct Shared<'a> {
    vm: &'a Vm,
    names: Vec<String>,
}

impl<'a> Shared<'a> {
    fn new(vm: &'a Vm) -> Self {
        Self {
            vm,
            names: Vec::new(),
        }
    }

    fn add(&mut self, share: Share) -> anyhow::Result<()> {
        self.vm.add_share(&share)?;
        self.names.push(share.name);
        Ok(())
    }

    fn keep(mut self) -> Vec<String> {
        std::mem::take(&mut self.names)
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = self.vm.remove_share(name);
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
