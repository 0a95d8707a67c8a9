//! From containerd's bundles to containers of the guest.

use std::path::PathBuf;
use std::sync::Arc;

use containerd_shim_protos::api::CreateTaskRequest;
use sandbox::bundle::{Bundle, GuestSpec, SpecBlock, rootfs};
use sandbox::{Changes, ContainerRequest, GuestBlock, Pod as Vm, Process, Rootfs, Share, Stdio};

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
/// keep their namespace. Gives it with what it has of the host.
pub fn create(
    vm: &Arc<Vm>,
    id: &str,
    template: &Template,
    sandbox: Option<&Pause>,
    stdio: Stdio,
) -> anyhow::Result<(Process, Held)> {
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
    mut guest: GuestSpec,
    pid_namespace_of: Option<String>,
    stdio: Stdio,
) -> anyhow::Result<(Process, Held)> {
    let root_name = format!("{id}-rootfs");
    let root_dir = template.bundle.root_dir(&template.dir);
    let mut lent = Lent::new(vm);
    lent.add(rootfs::share(&root_name, &root_dir, &template.mounts)?)?;
    for share in guest.shares.drain(..) {
        lent.add(share)?;
    }
    for block in std::mem::take(&mut guest.blocks) {
        lent.add_block(&block, &mut guest)?;
    }
    let process = vm.create(ContainerRequest {
        id: id.to_owned(),
        spec_json: guest.spec_json(),
        rootfs: Rootfs {
            share: root_name,
            changes: Changes::Host,
        },
        stdio,
        pid_namespace_of,
        seccomp: guest.seccomp,
    })?;
    Ok((process, lent.keep()))
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

/// What a container has of the host.
#[derive(Debug, Default)]
pub struct Held {
    shares: Vec<String>,
    blocks: Vec<GuestBlock>,
}

impl Held {
    /// Takes it away from the guest. The container has to be gone.
    pub fn take_back(self, vm: &Vm) {
        for share in self.shares {
            if let Err(error) = vm.remove_share(&share) {
                log::debug!("{error}");
            }
        }
        for block in self.blocks {
            if let Err(error) = vm.remove_block(block) {
                log::warn!("{:#}", anyhow::Error::from(error));
            }
        }
    }
}

/// What is taken away again unless it is kept.
struct Lent<'a> {
    vm: &'a Vm,
    held: Held,
}

impl<'a> Lent<'a> {
    fn new(vm: &'a Vm) -> Self {
        Self {
            vm,
            held: Held::default(),
        }
    }

    fn add(&mut self, share: Share) -> anyhow::Result<()> {
        self.vm.add_share(&share)?;
        self.held.shares.push(share.name);
        Ok(())
    }

    fn add_block(&mut self, block: &SpecBlock, spec: &mut GuestSpec) -> anyhow::Result<()> {
        let given = self.vm.add_block(&block.volume)?;
        spec.set_block(block, &given);
        self.held.blocks.push(given);
        Ok(())
    }

    fn keep(mut self) -> Held {
        std::mem::take(&mut self.held)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        std::mem::take(&mut self.held).take_back(self.vm);
    }
}
