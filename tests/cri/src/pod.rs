//! A pod that runs, and kubelet's part in its life: cgroup, directories, and the order of the calls.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use k8s_cri::v1 as cri;
use rustix::process::{Pid, Signal, kill_process};

use crate::alone::{BASE, directory};
use crate::bed::{Assets, Bed};
use crate::client::{CallError, Cri};
use crate::handler::Handler;
use crate::log_file;
use crate::spec::{self, ContainerSpec, PodSpec};
use crate::wait;

/// The cgroup of all pods, as `/kubepods` is on a node.
const PODS_CGROUP: &str = "/podvmm-cri";
const CGROUPS: &str = "/sys/fs/cgroup";

/// Makes the cgroup of all pods, with the controllers that kubelet wants.
///
/// # Errors
///
/// If there is no cgroup v2, or a controller is missing.
pub fn prepare_cgroups() -> Result<()> {
    let pods = format!("{CGROUPS}{PODS_CGROUP}");
    fs::create_dir_all(&pods).with_context(|| pods.clone())?;
    for dir in [CGROUPS, &pods] {
        let path = format!("{dir}/cgroup.subtree_control");
        fs::write(&path, "+cpu +cpuset +io +memory +pids").with_context(|| path.clone())?;
    }
    Ok(())
}

/// Removes it again.
///
/// # Errors
///
/// If there is something in it.
pub fn remove_cgroups() -> Result<()> {
    fs::remove_dir(format!("{CGROUPS}{PODS_CGROUP}")).context("the cgroup of all pods")
}

/// What a case is given: a node, and the handler that its pods are for.
#[derive(Clone, Copy)]
pub struct Node<'bed> {
    /// The node.
    pub bed: &'bed Bed,
    /// Where its programs are.
    pub assets: &'bed Assets,
    /// The handler.
    pub handler: Handler,
}

impl Node<'_> {
    /// The node's CRI.
    #[must_use]
    pub fn cri(&self) -> Cri {
        self.bed.cri()
    }

    /// Runs a pod's sandbox by this node's handler.
    ///
    /// # Errors
    ///
    /// Those of the calls, and a pod that is not ready.
    pub fn run_pod(&self, spec: PodSpec) -> Result<Pod> {
        Pod::run(self.cri(), self.handler.name, spec)
    }

    /// A pod with one container, started.
    ///
    /// # Errors
    ///
    /// As [`Node::run_pod`] and [`Pod::start`].
    pub fn run(&self, name: &str, container: ContainerSpec) -> Result<(Pod, Container)> {
        let pod = self.run_pod(PodSpec::new(name))?;
        let container = pod.start(container)?;
        Ok((pod, container))
    }
}

/// A pod whose sandbox runs. Dropped, it is removed, and errors of that are lost; [`Pod::remove`]
/// tells of them. What could not be removed is tried once more, as kubelet would, so that the next
/// case finds the node clean.
pub struct Pod {
    cri: Cri,
    /// What CRI was told of it.
    pub spec: PodSpec,
    /// The sandbox's id.
    pub id: String,
    /// What kubelet would keep below /var/lib/kubelet/pods.
    pub dir: PathBuf,
    removed: bool,
}

impl Pod {
    /// Runs a pod's sandbox by a handler; the empty name is the node's default.
    ///
    /// # Errors
    ///
    /// Those of the calls, and a pod that is not ready.
    pub fn run(cri: Cri, handler: &str, mut spec: PodSpec) -> Result<Self> {
        let uid = spec.uid().to_owned();
        let dir = directory(&format!("pods/{uid}"))?;
        fs::write(dir.join("etc-hosts"), "127.0.0.1\tlocalhost\n")?;
        let logs = directory(&format!("logs/default_{}_{uid}", spec.name()))?;
        spec.config.log_directory = logs.display().to_string();
        spec.linux().cgroup_parent = format!("{PODS_CGROUP}/pod{uid}");
        let mut pod = Self {
            cri,
            spec,
            id: String::new(),
            dir,
            removed: false,
        };
        pod.make_cgroup()?;
        pod.id = pod
            .cri
            .run_pod_sandbox(cri::RunPodSandboxRequest {
                config: Some(pod.spec.config.clone()),
                runtime_handler: handler.to_owned(),
            })?
            .pod_sandbox_id;
        let status = pod.status()?;
        ensure!(
            status.state() == cri::PodSandboxState::SandboxReady,
            "RunPodSandbox succeeded, and PodSandboxStatus says {:?}",
            status.state(),
        );
        ensure!(
            status.runtime_handler == handler,
            "asked for the handler {handler:?}, PodSandboxStatus says {:?}",
            status.runtime_handler,
        );
        Ok(pod)
    }

    /// PodSandboxStatus.
    ///
    /// # Errors
    ///
    /// Those of the call.
    pub fn status(&self) -> Result<cri::PodSandboxStatus> {
        let answer = self.cri.pod_sandbox_status(cri::PodSandboxStatusRequest {
            pod_sandbox_id: self.id.clone(),
            verbose: false,
        })?;
        answer.status.context("PodSandboxStatus has no status")
    }

    /// The pod's address.
    ///
    /// # Errors
    ///
    /// Those of PodSandboxStatus, and that there is none.
    pub fn ip(&self) -> Result<String> {
        let network = self.status()?.network.unwrap_or_default();
        ensure!(!network.ip.is_empty(), "the pod has no address");
        Ok(network.ip)
    }

    /// ImageStatus, CreateContainer.
    ///
    /// # Errors
    ///
    /// Those of the calls, and an image that is not there.
    pub fn create(&self, spec: ContainerSpec) -> Result<Container> {
        let mut config = spec.config.clone();
        let name = spec.name().to_owned();
        let asked = config.image.take().unwrap_or_default();
        let found = self.cri.image_status(cri::ImageStatusRequest {
            image: Some(asked.clone()),
            verbose: false,
        })?;
        let image = found
            .image
            .with_context(|| format!("ImageStatus: there is no image {}", asked.image))?;
        config.image = Some(spec::image(&image.id));
        run_as_image_says(&mut config, &image);
        let attempt = config.metadata.clone().unwrap_or_default().attempt;
        fs::create_dir_all(Path::new(&self.spec.config.log_directory).join(&name))?;
        config.log_path = format!("{name}/{attempt}.log");
        let termination = self.dir.join(format!("termination-{name}-{attempt}"));
        fs::write(&termination, "")?;
        config.mounts.extend([
            spec::mount(&self.dir.join("etc-hosts"), "/etc/hosts", false),
            spec::mount(&termination, "/dev/termination-log", false),
        ]);
        let log = Path::new(&self.spec.config.log_directory).join(&config.log_path);
        let answer = self.cri.create_container(cri::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.spec.config.clone()),
        })?;
        Ok(Container {
            cri: self.cri.clone(),
            id: answer.container_id,
            log,
            termination,
        })
    }

    /// ImageStatus, CreateContainer, StartContainer.
    ///
    /// # Errors
    ///
    /// Those of the calls.
    pub fn start(&self, spec: ContainerSpec) -> Result<Container> {
        let container = self.create(spec)?;
        container.start()?;
        Ok(container)
    }

    /// A directory of the pod's, as an emptyDir is one.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn volume(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join("volumes").join(name);
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// Where the pod's cgroup is on the node.
    #[must_use]
    pub fn cgroup(&self) -> PathBuf {
        Path::new("/sys/fs/cgroup")
            .join(format!("{PODS_CGROUP}/pod{}", self.spec.uid()).trim_start_matches('/'))
    }

    /// StopPodSandbox.
    ///
    /// # Errors
    ///
    /// Those of the call.
    pub fn stop(&self) -> Result<(), CallError> {
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
        };
        self.cri.stop_pod_sandbox(request).map(drop)
    }

    /// The end of a pod as kubelet has it: StopContainer for each container that runs, StopPodSandbox,
    /// a signal for whoever is in its cgroup still, RemoveContainer for each, RemovePodSandbox; then directories and cgroup.
    ///
    /// # Errors
    ///
    /// Those of the calls, and a cgroup with something in it.
    pub fn remove(mut self) -> Result<()> {
        let ended = self.end(Self::end_sandbox);
        self.removed = ended.is_ok();
        ended
    }

    /// RemovePodSandbox and no other call, whatever runs in the pod; then directories and cgroup.
    ///
    /// # Errors
    ///
    /// Those of the call, and a cgroup with something in it.
    pub fn remove_at_once(mut self) -> Result<()> {
        let ended = self.end(Self::remove_sandbox);
        self.removed = ended.is_ok();
        ended
    }

    fn end(&self, end_sandbox: fn(&Self) -> Result<()>) -> Result<()> {
        let mut first = Ok(());
        let mut note = |result: Result<()>| {
            if first.is_ok() {
                first = result;
            }
        };
        if !self.id.is_empty() {
            note(end_sandbox(self));
        }
        note(fs::remove_dir_all(&self.dir).context("the pod's directory"));
        note(fs::remove_dir_all(&self.spec.config.log_directory).context("the pod's logs"));
        note(self.remove_cgroup());
        first
    }

    fn end_sandbox(&self) -> Result<()> {
        let containers = self.containers()?;
        for container in &containers {
            if container.state() == cri::ContainerState::ContainerRunning {
                self.stop_container(&container.id)?;
            }
        }
        self.stop()?;
        kill_all(&self.cgroup());
        for container in containers {
            self.cri.remove_container(cri::RemoveContainerRequest {
                container_id: container.id,
            })?;
        }
        self.remove_sandbox()
    }

    /// StopContainer, once more where the container ended by itself meanwhile: containerd 1.6 then closes
    /// its connection to the shim under the call.
    fn stop_container(&self, id: &str) -> Result<(), CallError> {
        let request = cri::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: 2,
        };
        match self.cri.stop_container(request.clone()) {
            Err(error) if error.message.contains("ttrpc: closed") => {
                self.cri.stop_container(request).map(drop)
            }
            answer => answer.map(drop),
        }
    }

    fn remove_sandbox(&self) -> Result<()> {
        self.cri.remove_pod_sandbox(cri::RemovePodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
        })?;
        Ok(())
    }

    /// ListContainers of this pod.
    ///
    /// # Errors
    ///
    /// Those of the call.
    pub fn containers(&self) -> Result<Vec<cri::Container>, CallError> {
        let filter = cri::ContainerFilter {
            pod_sandbox_id: self.id.clone(),
            ..Default::default()
        };
        let answer = self.cri.list_containers(cri::ListContainersRequest {
            filter: Some(filter),
        })?;
        Ok(answer.containers)
    }

    fn make_cgroup(&self) -> Result<()> {
        let dir = self.cgroup();
        fs::create_dir(&dir).with_context(|| dir.display().to_string())
    }

    fn remove_cgroup(&self) -> Result<()> {
        let dir = self.cgroup();
        let gone = wait::until(2, "the pod's cgroup is empty", || {
            match fs::remove_dir(&dir) {
                Ok(()) => Ok(Some(())),
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => Ok(None),
                Err(error) => bail!("{}: {error}", dir.display()),
            }
        });
        gone.map_err(|error| {
            let inside: Vec<_> = fs::read_dir(&dir)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|entry| entry.path().is_dir())
                .map(|entry| entry.file_name())
                .collect();
            let processes = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            anyhow!("{error}: cgroups {inside:?}, processes {processes:?}")
        })
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if !self.removed {
            let _ = self.end(Self::end_sandbox);
        }
    }
}

/// Where the manifest names no user, the image's is asked for, and root if it has none.
fn run_as_image_says(config: &mut cri::ContainerConfig, image: &cri::Image) {
    let security = config
        .linux
        .get_or_insert_default()
        .security_context
        .get_or_insert_default();
    if security.run_as_user.is_some() || !security.run_as_username.is_empty() {
        return;
    }
    if image.username.is_empty() {
        let uid = image.uid.as_ref().map_or(0, |uid| uid.value);
        security.run_as_user = Some(cri::Int64Value { value: uid });
    } else {
        security.run_as_username = image.username.clone();
    }
}

/// A container of a pod.
pub struct Container {
    cri: Cri,
    /// The container's id.
    pub id: String,
    /// Its log.
    pub log: PathBuf,
    /// What is its `/dev/termination-log`.
    pub termination: PathBuf,
}

/// How a container fares, without what nobody asks.
#[must_use]
pub fn brief(status: &cri::ContainerStatus) -> String {
    format!(
        "{:?}, exit status {}, reason {:?}, message {:?}",
        status.state(),
        status.exit_code,
        status.reason,
        status.message,
    )
}

/// What a command came to that was run in a container.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit status.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// And to standard error.
    pub stderr: String,
}

impl Container {
    /// StartContainer.
    ///
    /// # Errors
    ///
    /// Those of the call.
    pub fn start(&self) -> Result<(), CallError> {
        let request = cri::StartContainerRequest {
            container_id: self.id.clone(),
        };
        self.cri.start_container(request).map(drop)
    }

    /// ContainerStatus.
    ///
    /// # Errors
    ///
    /// Those of the call.
    pub fn status(&self) -> Result<cri::ContainerStatus> {
        let answer = self.cri.container_status(cri::ContainerStatusRequest {
            container_id: self.id.clone(),
            verbose: false,
        })?;
        answer.status.context("ContainerStatus has no status")
    }

    /// Waits until it has ended, for so many seconds of a real machine.
    ///
    /// # Errors
    ///
    /// Those of ContainerStatus, and that it does not end.
    pub fn ended(&self, seconds: u32) -> Result<cri::ContainerStatus> {
        wait::until(seconds, "the container has ended", || {
            let status = self.status()?;
            let ended = status.state() == cri::ContainerState::ContainerExited;
            Ok(ended.then_some(status))
        })
    }

    /// ExecSync.
    ///
    /// # Errors
    ///
    /// Those of the call; a command that fails is none.
    pub fn exec(&self, command: &[&str]) -> Result<Output, CallError> {
        let answer = self.cri.exec_sync(cri::ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: command.iter().map(|word| (*word).to_owned()).collect(),
            timeout: i64::from(60 * wait::slowness()),
        })?;
        Ok(Output {
            code: answer.exit_code,
            stdout: String::from_utf8_lossy(&answer.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&answer.stderr).into_owned(),
        })
    }

    /// What a shell script prints, without the end of its last line.
    ///
    /// # Errors
    ///
    /// Those of ExecSync, and a script that fails.
    pub fn sh(&self, script: &str) -> Result<String> {
        let output = self.exec(&["/bin/sh", "-ec", script])?;
        ensure!(output.code == 0, "ExecSync of {script:?}: {output:?}");
        Ok(output.stdout.trim_end().to_owned())
    }

    /// StopContainer with so many seconds of grace.
    ///
    /// # Errors
    ///
    /// Those of the call.
    pub fn stop(&self, grace_seconds: i64) -> Result<(), CallError> {
        let request = cri::StopContainerRequest {
            container_id: self.id.clone(),
            timeout: grace_seconds,
        };
        self.cri.stop_container(request).map(drop)
    }

    /// RemoveContainer.
    ///
    /// # Errors
    ///
    /// Those of the call.
    pub fn remove(&self) -> Result<(), CallError> {
        let request = cri::RemoveContainerRequest {
            container_id: self.id.clone(),
        };
        self.cri.remove_container(request).map(drop)
    }

    /// What it has written to a stream, by its log.
    ///
    /// # Errors
    ///
    /// A log that is not there or not in CRI's format.
    pub fn logged(&self, stream: &str) -> Result<String> {
        let log = fs::read_to_string(&self.log).with_context(|| self.log.display().to_string())?;
        // The last entry may be half there.
        let whole = log.rfind('\n').map_or("", |end| &log[..=end]);
        Ok(log_file::written(&log_file::parse(whole)?, stream))
    }

    /// Waits until its log has this on standard output.
    ///
    /// # Errors
    ///
    /// If it never has.
    pub fn has_logged(&self, text: &str) -> Result<()> {
        wait::until(20, &format!("the log has {text:?}"), || {
            Ok(self.logged("stdout")?.contains(text).then_some(()))
        })
        .with_context(|| format!("it has {:?}", self.logged("stdout")))
    }
}

/// The directory of everything, for cases that look at the node.
#[must_use]
pub fn base() -> &'static Path {
    Path::new(BASE)
}

/// Kills what is in a cgroup and those below, which kubelet does before it removes a pod's. Who has ended
/// meanwhile needs no signal.
fn kill_all(cgroup: &Path) {
    let processes = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let processes = processes.lines().filter_map(|pid| pid.parse().ok());
    for process in processes.filter_map(Pid::from_raw) {
        let _ = kill_process(process, Signal::KILL);
    }
    let below = fs::read_dir(cgroup).into_iter().flatten().flatten();
    for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        kill_all(&entry.path());
    }
}
