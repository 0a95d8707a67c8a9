//! Configurations of containers.

use agent_protocol::proto::rootfs;
use serde_json::{Value, json};

/// Root directory of the usual container: the machine's own.
pub const ROOTFS: &str = "machine";

/// What to create.
pub struct Config {
    pub spec: Value,
    pub rootfs: String,
    pub mode: rootfs::Mode,
    pub tty: bool,
    pub stdin: bool,
    pub seccomp_bpf: Vec<u8>,
    pub pid_namespace_of: String,
}

const CAPABILITIES: [&str; 8] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETUID",
];

impl Config {
    pub fn command(arguments: &[&str]) -> Self {
        let spec = json!({
            "ociVersion": "1.2.0",
            "process": {
                "args": arguments,
                "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                "cwd": "/",
                "capabilities": {"bounding": CAPABILITIES, "permitted": CAPABILITIES,
                                 "effective": CAPABILITIES},
                "noNewPrivileges": true
            },
            "root": {"path": "unused"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/dev/shm", "type": "bind", "source": "/dev/shm",
                 "options": ["rbind", "rw"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                 "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
            ],
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}],
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/scsi", "/no/such/path"],
                "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger", "/no/such/path"]
            }
        });
        Self {
            spec,
            rootfs: ROOTFS.to_owned(),
            mode: rootfs::Mode::OVERLAY,
            tty: false,
            stdin: false,
            seccomp_bpf: Vec::new(),
            pid_namespace_of: String::new(),
        }
    }

    pub fn script(script: &str) -> Self {
        Self::command(&["sh", "-c", script])
    }

    /// With standard input.
    pub fn with_stdin(mut self) -> Self {
        self.stdin = true;
        self
    }

    /// With a terminal.
    pub fn with_tty(mut self) -> Self {
        self.tty = true;
        self.spec["process"]["terminal"] = json!(true);
        self
    }

    /// In the pid namespace of another container.
    pub fn with_pids_of(mut self, owner: &str) -> Self {
        owner.clone_into(&mut self.pid_namespace_of);
        self.spec["linux"]["namespaces"][0] = json!({"type": "pid", "path": "/proc/77/ns/pid"});
        self
    }

    /// With one more mount.
    pub fn with_mount(mut self, mount: Value) -> Self {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
        self
    }
}
