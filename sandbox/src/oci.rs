//! The OCI configuration of a container.

use agent_protocol::SHARE_PATH;
use agent_protocol::proto::{self, rootfs};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::ROOTFS;
use crate::container::ContainerRequest;

/// Capabilities that container engines leave to a container's root by default.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Who a command runs as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The standard streams of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdio {
    /// One each; those that are not asked for are /dev/null.
    Pipes {
        /// Whether there is input.
        stdin: bool,
        /// Whether output is wanted.
        stdout: bool,
        /// Whether errors are wanted.
        stderr: bool,
    },
    /// One terminal for all three.
    Terminal {
        /// Height in characters.
        rows: u16,
        /// Width in characters.
        cols: u16,
    },
}

impl Stdio {
    /// Output and errors apart, and input if asked for.
    #[must_use]
    pub fn pipes(stdin: bool) -> Self {
        Self::Pipes {
            stdin,
            stdout: true,
            stderr: true,
        }
    }

    pub(crate) fn to_wire(self) -> proto::Stdio {
        match self {
            Self::Pipes {
                stdin,
                stdout,
                stderr,
            } => proto::Stdio {
                stdin,
                stdout,
                stderr,
                ..Default::default()
            },
            Self::Terminal { rows, cols } => proto::Stdio {
                tty: true,
                rows: rows.into(),
                cols: cols.into(),
                ..Default::default()
            },
        }
    }
}

/// A container's root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rootfs {
    /// Name of the share that holds it.
    pub share: String,
    /// Where changes go.
    pub changes: Changes,
}

/// Where the changes of a root file system go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Changes {
    /// Into the guest's memory; they vanish with the container.
    Guest,
    /// To the host.
    Host,
    /// There are none.
    Refused,
}

impl Rootfs {
    pub(crate) fn to_wire(&self) -> proto::Rootfs {
        let mode = match self.changes {
            Changes::Guest => rootfs::Mode::OVERLAY,
            Changes::Host => rootfs::Mode::READ_WRITE,
            Changes::Refused => rootfs::Mode::READ_ONLY,
        };
        proto::Rootfs {
            path: self.share.clone(),
            mode: mode.into(),
            ..Default::default()
        }
    }
}

/// One of the pod's shares, seen inside the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Name of the share.
    pub share: String,
    /// Absolute path in the container.
    pub destination: String,
    /// Whether writing is refused inside as well.
    pub read_only: bool,
}

/// Where the guest has the share `name`, for the `source` of a bind mount.
#[must_use]
pub fn path_in_share(name: &str) -> String {
    format!("{SHARE_PATH}/{name}")
}

/// Everything that a container needs.
#[derive(Clone, Debug)]
pub struct ContainerConfig {
    /// Name, unique in its pod.
    pub id: String,
    /// Command and arguments.
    pub args: Vec<String>,
    /// Variables as `NAME=value`; `PATH`, `HOME`, `HOSTNAME` and `TERM` have defaults.
    pub env: Vec<String>,
    /// Absolute path of the working directory.
    pub workdir: String,
    /// Who it runs as.
    pub user: User,
    /// Further groups that it is in.
    pub groups: Vec<u32>,
    /// Host name that the variable `HOSTNAME` tells.
    pub hostname: String,
    /// Standard streams.
    pub stdio: Stdio,
    /// Whether the root file system's changes go to the host.
    pub rootfs_writable: bool,
    /// Shares to mount.
    pub mounts: Vec<Mount>,
}

impl ContainerConfig {
    /// A container that runs `args` as root in the share [`ROOTFS`], changes kept in the guest.
    pub fn command<S: Into<String>>(args: impl IntoIterator<Item = S>) -> Self {
        Self {
            id: "main".into(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            workdir: "/".into(),
            user: User::default(),
            groups: Vec::new(),
            hostname: String::new(),
            stdio: Stdio::pipes(false),
            rootfs_writable: false,
            mounts: Vec::new(),
        }
    }

    pub(crate) fn request(&self) -> ContainerRequest {
        let changes = if self.rootfs_writable {
            Changes::Host
        } else {
            Changes::Guest
        };
        ContainerRequest {
            id: self.id.clone(),
            spec_json: self.spec_json(),
            rootfs: Rootfs {
                share: ROOTFS.to_owned(),
                changes,
            },
            stdio: self.stdio,
            pid_namespace_of: None,
            seccomp: None,
        }
    }

    /// The OCI `config.json` of this container.
    #[must_use]
    pub fn spec_json(&self) -> Vec<u8> {
        self.spec().to_string().into_bytes()
    }

    /// The same as a value.
    #[must_use]
    pub fn spec(&self) -> Value {
        let terminal = matches!(self.stdio, Stdio::Terminal { .. });
        let effective = effective(self.user.uid);
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": terminal,
                "user": {
                    "uid": self.user.uid,
                    "gid": self.user.gid,
                    "additionalGids": self.groups,
                },
                "args": self.args,
                "env": self.environment(terminal),
                "cwd": self.workdir,
                "capabilities": {
                    "bounding": CAPABILITIES,
                    "effective": effective,
                    "permitted": effective,
                },
            },
            "root": { "path": "rootfs", "readonly": false },
            "mounts": self.mounts_json(),
            "linux": {
                "namespaces": [
                    { "type": "pid" },
                    { "type": "mount" },
                    { "type": "cgroup" },
                ],
                "maskedPaths": MASKED,
                "readonlyPaths": READ_ONLY,
            },
        })
    }

    fn environment(&self, terminal: bool) -> Vec<String> {
        let mut env = vec![format!("PATH={DEFAULT_PATH}")];
        env.push(format!(
            "HOME={}",
            if self.user.uid == 0 { "/root" } else { "/" }
        ));
        if !self.hostname.is_empty() {
            env.push(format!("HOSTNAME={}", self.hostname));
        }
        if terminal {
            env.push("TERM=xterm".into());
        }
        for variable in &self.env {
            set_variable(&mut env, variable);
        }
        env
    }

    fn mounts_json(&self) -> Vec<Value> {
        let system = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
        let mut mounts = vec![
            system("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            system(
                "/dev",
                "tmpfs",
                &["nosuid", "strictatime", "mode=755", "size=65536k"],
            ),
            system(
                "/dev/pts",
                "devpts",
                &[
                    "nosuid",
                    "noexec",
                    "newinstance",
                    "ptmxmode=0666",
                    "mode=0620",
                    "gid=5",
                ],
            ),
            system(
                "/dev/shm",
                "tmpfs",
                &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
            ),
            system("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            system("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            system(
                "/sys/fs/cgroup",
                "cgroup",
                &["nosuid", "noexec", "nodev", "relatime", "ro"],
            ),
        ];
        for mount in &self.mounts {
            let access = if mount.read_only { "ro" } else { "rw" };
            mounts.push(json!({
                "destination": mount.destination,
                "type": "bind",
                "source": path_in_share(&mount.share),
                "options": ["rbind", access],
            }));
        }
        mounts
    }
}

/// Capabilities that `uid` has at once. As container engines do: another user than root has the
/// bounding set only.
fn effective(uid: u32) -> &'static [&'static str] {
    if uid == 0 { &CAPABILITIES } else { &[] }
}

/// Gives the OCI `process` what `uid` has at once of the capabilities that it may have.
pub(crate) fn set_capabilities_of(process: &mut Value, uid: u32) {
    let Some(capabilities) = process.get_mut("capabilities") else {
        return;
    };
    let own = match uid {
        0 => capabilities.get("bounding").cloned().unwrap_or(json!([])),
        _ => json!([]),
    };
    for set in ["effective", "permitted"] {
        capabilities[set] = own.clone();
    }
    for set in ["inheritable", "ambient"] {
        if capabilities.get(set).is_some() {
            capabilities[set] = json!([]);
        }
    }
}

/// Sets `NAME=value` in place of what `NAME` was.
pub(crate) fn set_variable(env: &mut Vec<String>, variable: &str) {
    let name = variable.split('=').next().unwrap_or_default();
    env.retain(|known| known.split('=').next() != Some(name));
    env.push(variable.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_variable_replaces_the_default() {
        let mut config = ContainerConfig::command(["sh"]);
        config.env = vec!["PATH=/opt".into(), "A=b=c".into()];
        let spec = config.spec();
        let env = spec["process"]["env"].as_array().unwrap();
        assert!(env.contains(&json!("PATH=/opt")) && env.contains(&json!("A=b=c")));
        assert_eq!(
            env.iter()
                .filter(|v| v.as_str().unwrap().starts_with("PATH="))
                .count(),
            1
        );
    }

    #[test]
    fn only_root_has_capabilities_at_once() {
        let mut config = ContainerConfig::command(["sh"]);
        config.user = User {
            uid: 1000,
            gid: 1000,
        };
        let spec = config.spec();
        assert_eq!(spec["process"]["capabilities"]["effective"], json!([]));
        assert_eq!(spec["process"]["user"]["gid"], 1000);
    }

    #[test]
    fn shares_are_bound_from_the_guests_mount() {
        let mut config = ContainerConfig::command(["sh"]);
        config.mounts = vec![Mount {
            share: "v0".into(),
            destination: "/data".into(),
            read_only: true,
        }];
        let spec = config.spec();
        let mount = spec["mounts"].as_array().unwrap().last().unwrap();
        assert_eq!(mount["source"], "/run/podvmm/share/v0");
        assert_eq!(mount["options"][1], "ro");
    }
}
