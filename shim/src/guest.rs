//! From containerd's bundles to containers of the guest.

use std::path::PathBuf;
use std::sync::Arc;

use containerd_shim_protos::api::CreateTaskRequest;
use sandbox::bundle::{Bundle, GuestSpec, rootfs};
use sandbox::{Changes, ContainerRequest, Pod as Vm, Process, Rootfs, Share, Stdio};

use crate::bundle;

/// Name in the guest of the process that keeps a pod's shared pid namespace.
const PAUSE: &str = "pause";

/// A bundle and what its root file system is made of.
#[derive(Clone, Debug)]
pub struct Template {
    /// Where it is.
    pub dir: PathBuf,
    bundle: Bundle,
    mounts: Vec<rootfs::Mount>,
}

impl Template {
    /// What containerd asks to create.
    pub fn new(bundle: Bundle, request: &CreateTaskRequest) -> Self {
        let mounts = request.rootfs.iter().map(|mount| rootfs::Mount {
            kind: mount.type_.clone(),
            source: mount.source.clone(),
            options: mount.options.clone(),
        });
        Self {
            dir: PathBuf::from(&request.bundle),
            bundle,
            mounts: mounts.collect(),
        }
    }

    fn spec(&self, id: &str) -> anyhow::Result<GuestSpec> {
        let is_pod_shm = |path: &std::path::Path| bundle::is_pod_shm(&self.bundle, path);
        Ok(self.bundle.for_guest(id, is_pod_shm)?)
    }
}

/// Makes the container `id` of `template`. A container that shares the pod's processes makes `sandbox`
/// keep their namespace. Gives it with the names of its shares.
pub fn create(
    vm: &Arc<Vm>,
    id: &str,
    template: &Template,
    sandbox: Option<&Pause>,
    stdio: Stdio,
) -> anyhow::Result<(Process, Vec<String>)> {
    let guest = template.spec(id)?;
    let pid_namespace_of = match (guest.joins_pid_namespace, sandbox) {
        (true, Some(sandbox)) => Some(sandbox.ensure(vm)?),
        (true, None) => anyhow::bail!(
            "config.json: linux.namespaces: joins a pid namespace, and there is no pod that has it"
        ),
        (false, _) => None,
    };
    container(vm, id, template, guest, pid_namespace_of, stdio)
}

fn container(
    vm: &Arc<Vm>,
    id: &str,
    template: &Template,
    guest: GuestSpec,
    pid_namespace_of: Option<String>,
    stdio: Stdio,
) -> anyhow::Result<(Process, Vec<String>)> {
    let root_name = format!("{id}-rootfs");
    let root_dir = template.bundle.root_dir(&template.dir);
    let mut shared = Shared::new(vm);
    shared.add(rootfs::share(&root_name, &root_dir, &template.mounts)?)?;
    for share in guest.shares {
        shared.add(share)?;
    }
    let process = vm.create(ContainerRequest {
        id: id.to_owned(),
        spec_json: guest.spec_json,
        rootfs: Rootfs {
            share: root_name,
            changes: Changes::Host,
        },
        stdio,
        pid_namespace_of,
        seccomp: guest.seccomp,
    })?;
    Ok((process, shared.keep()))
}

/// The pod's own container, which runs only where the others share its pid namespace: otherwise the VM
/// stands for it.
#[derive(Debug)]
pub struct Pause {
    template: Template,
    running: std::sync::Mutex<bool>,
}

impl Pause {
    /// One that does not run.
    pub fn new(template: Template) -> Self {
        Self {
            template,
            running: std::sync::Mutex::new(false),
        }
    }

    /// Sees to it that it runs, and tells its name.
    fn ensure(&self, vm: &Arc<Vm>) -> anyhow::Result<String> {
        let mut running = self
            .running
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if !*running {
            let nothing = Stdio::Pipes {
                stdin: false,
                stdout: false,
                stderr: false,
            };
            let guest = self.template.spec(PAUSE)?;
            // Its shares stay as long as the VM does.
            let (process, _) = container(vm, PAUSE, &self.template, guest, None, nothing)?;
            process.start()?;
            *running = true;
        }
        Ok(PAUSE.to_owned())
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
