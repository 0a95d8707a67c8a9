//! containerd's life: its configuration, its start with the images of the tests, its restart, its end.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use k8s_cri::v1 as cri;
use rustix::process::{Pid, Signal, kill_process};

use crate::alone::{BASE, directory, run};
use crate::client::Cri;
use crate::handler::{ALL, PODVMM, SMALL};
use crate::{spec, wait};

/// What a pod's sandbox runs.
const PAUSE: &str = "localhost/podvmm/pause:1";

/// A node: containerd, configured and running.
pub struct Bed {
    containerd: Mutex<Child>,
    cri: Cri,
    log: PathBuf,
}

/// Where the programs under test are, and what they need.
pub struct Assets {
    /// The OCI archive of `images/build`.
    pub images: PathBuf,
    /// The directory of `containerd-shim-podvmm-v2`.
    pub shims: PathBuf,
    /// Kernel and initramfs of podvmm's guest.
    pub guest: PathBuf,
}

impl Assets {
    /// As the environment says, or where the build puts them.
    ///
    /// # Errors
    ///
    /// If there are no images.
    pub fn from_environment() -> Result<Self> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .context("the crate is two folders below the repository")?;
        let path = |name, default: &str| {
            let value = std::env::var_os(name).filter(|value| !value.is_empty());
            value.map_or_else(|| repository.join(default), PathBuf::from)
        };
        let assets = Self {
            images: path("PODVMM_CRI_IMAGES", "build/cri/images.tar"),
            shims: path(
                "PODVMM_CRI_SHIMS",
                "target/x86_64-unknown-linux-gnu/release",
            ),
            guest: path("PODVMM_GUEST_DIR", "build/guest"),
        };
        ensure!(
            assets.images.exists(),
            "{} is missing; `make cri` builds it with the image {} and others",
            assets.images.display(),
            spec::UBUNTU,
        );
        Ok(assets)
    }
}

impl Bed {
    /// Configures and starts containerd, and waits until it has all images and the network.
    ///
    /// # Errors
    ///
    /// With the end of containerd's log.
    pub fn start(assets: &Assets) -> Result<Self> {
        configure(assets)?;
        // Where `ctr` has its FIFOs; it stays.
        fs::create_dir_all("/run/containerd/fifo")?;
        let log = Path::new(BASE).join("containerd.log");
        let containerd = spawn(&log, &assets.guest)?;
        let bed = Self {
            containerd: Mutex::new(containerd),
            cri: Cri::new(&socket()).context("a client")?,
            log,
        };
        bed.until_ready()
            .and_then(|()| bed.import(&assets.images))
            .with_context(|| format!("containerd's log ends in:\n{}", bed.log_since(0, 30)))?;
        Ok(bed)
    }

    /// containerd's client.
    #[must_use]
    pub fn cri(&self) -> Cri {
        self.cri.clone()
    }

    /// `ctr`, told where this containerd is.
    #[must_use]
    pub fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(socket());
        command
    }

    /// Stops containerd as a service manager would, and starts it again. Pods go on meanwhile.
    ///
    /// # Errors
    ///
    /// If it does not stop or does not come back.
    pub fn restart(&self, assets: &Assets) -> Result<()> {
        let mut containerd = self.child();
        stop(&mut containerd)?;
        *containerd = spawn(&self.log, &assets.guest)?;
        drop(containerd);
        self.until_ready()
    }

    /// Stops containerd, if it has not been.
    ///
    /// # Errors
    ///
    /// If it does not stop.
    pub fn stop(&self) -> Result<()> {
        stop(&mut self.child())
    }

    /// How long containerd's log is, to be given to [`Bed::log_since`].
    #[must_use]
    pub fn log_end(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |meta| meta.len())
    }

    /// The last lines of what containerd, and shims through it, have logged since; without what
    /// containerd says when all is well.
    #[must_use]
    pub fn log_since(&self, start: u64, lines: usize) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            let _ = file.seek(SeekFrom::Start(start));
            let _ = file.read_to_end(&mut bytes);
        }
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<_> = text
            .lines()
            .filter(|line| !line.contains("level=info"))
            .collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.containerd
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn until_ready(&self) -> Result<()> {
        wait::until(60, "containerd's runtime and network are ready", || {
            if let Some(status) = self.child().try_wait()? {
                bail!("containerd has ended: {status}");
            }
            // The first calls fail, while its socket is not there and its plugins are loading.
            let Ok(answer) = self.cri.status(cri::StatusRequest { verbose: false }) else {
                return Ok(None);
            };
            let conditions = answer.status.unwrap_or_default().conditions;
            let ready = !conditions.is_empty() && conditions.iter().all(|one| one.status);
            Ok(ready.then_some(()))
        })
    }

    fn import(&self, images: &Path) -> Result<()> {
        run(self
            .ctr()
            .args(["--namespace", "k8s.io", "image", "import"])
            .arg(images))?;
        // CRI hears of them by events.
        wait::until(10, "CRI has all images", || {
            for image in [PAUSE, spec::UBUNTU, spec::USER, spec::SERVICE] {
                if self.image_id(image)?.is_none() {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
    }

    fn image_id(&self, name: &str) -> Result<Option<String>> {
        let answer = self.cri.image_status(cri::ImageStatusRequest {
            image: Some(spec::image(name)),
            verbose: false,
        })?;
        Ok(answer.image.map(|image| image.id))
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let mut containerd = self.child();
        let _ = containerd.kill();
        let _ = containerd.wait();
    }
}

fn socket() -> PathBuf {
    Path::new(BASE).join("containerd.sock")
}

fn spawn(log: &Path, guest: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    Command::new("containerd")
        .arg("--config")
        .arg(Path::new(BASE).join("config.toml"))
        // It hands its environment on to the shims.
        .env("PODVMM_GUEST_DIR", guest)
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("containerd cannot be run; `tests/tools/setup cri` installs it")
}

fn stop(containerd: &mut Child) -> Result<()> {
    if containerd.try_wait()?.is_some() {
        return Ok(());
    }
    kill_process(Pid::from_child(containerd), Signal::TERM).context("SIGTERM to containerd")?;
    let status = wait::until(10, "containerd has ended", || Ok(containerd.try_wait()?))?;
    ensure!(status.success(), "containerd ended with {status}");
    Ok(())
}

fn configure(assets: &Assets) -> Result<()> {
    // containerd puts `bin` of this directory on the PATH of shims.
    let opt = directory("opt")?;
    std::os::unix::fs::symlink(&assets.shims, opt.join("bin")).context("the shims' directory")?;
    let cni = directory("cni")?;
    let mut text = format!(
        r#"version = 2
root = "{BASE}/root"
state = "{BASE}/state"
[grpc]
address = "{BASE}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{opt}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
stream_server_address = "127.0.0.1"
stream_server_port = "0"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{cni}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
"#,
        opt = opt.display(),
        cni = cni.display(),
    );
    for (name, handler) in ALL
        .map(|handler| (handler.name, handler))
        .into_iter()
        .chain([(SMALL, PODVMM)])
    {
        text += &format!(
            r#"[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{}]
runtime_type = "{}"
privileged_without_host_devices = {}
pod_annotations = ["io.podvmm.*"]
container_annotations = ["io.podvmm.*"]
"#,
            name, handler.runtime_type, handler.own_kernel,
        );
    }
    text += &format!(
        r#"[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{SMALL}.options]
ConfigPath = "{BASE}/small.toml"
"#
    );
    write("small.toml", "base_memory = \"512M\"\n")?;
    write("config.toml", &text)?;
    write(
        "cni/10-bridge.conflist",
        &format!(
            r#"{{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [
    {{
      "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true,
      "ipam": {{
        "type": "host-local", "dataDir": "{BASE}/addresses",
        "ranges": [[{{ "subnet": "10.88.0.0/16" }}]],
        "routes": [{{ "dst": "0.0.0.0/0" }}]
      }}
    }},
    {{ "type": "portmap", "capabilities": {{ "portMappings": true }}, "snat": true }}
  ]
}}
"#
        ),
    )
}

fn write(name: &str, text: &str) -> Result<()> {
    let path = Path::new(BASE).join(name);
    fs::write(&path, text).with_context(|| path.display().to_string())
}
