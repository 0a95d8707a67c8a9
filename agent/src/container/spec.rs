//! The OCI runtime configuration (runtime-spec v1.2), as far as it means something in a guest.
//!
//! Every structure refuses fields that it does not know, and [`Refused`] fields are known to be
//! unsupported: a configuration is carried out in full or refused with the field's name, never in part.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A field that must be absent or empty.
pub(super) type Refused = Option<Value>;

/// `config.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    #[serde(rename = "ociVersion")]
    pub(super) _oci_version: String,
    pub(super) process: Process,
    #[serde(default)]
    pub(super) root: Option<Root>,
    #[serde(default)]
    pub(super) hostname: Option<String>,
    #[serde(default)]
    pub(super) domainname: Refused,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) mounts: Vec<Mount>,
    #[serde(default)]
    pub(super) hooks: Refused,
    /// Notes for whoever wrote them.
    #[serde(default, rename = "annotations")]
    pub(super) _annotations: IgnoredAny,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) linux: Linux,
}

/// `process`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Process {
    #[serde(default)]
    pub(super) terminal: bool,
    /// The request's `stdio` has the size.
    #[serde(default, rename = "consoleSize")]
    pub(super) _console_size: IgnoredAny,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) user: User,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) args: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) env: Vec<String>,
    pub(super) cwd: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) capabilities: Capabilities,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) rlimits: Vec<Rlimit>,
    #[serde(default)]
    pub(super) no_new_privileges: bool,
    #[serde(default)]
    pub(super) oom_score_adj: Option<i32>,
    #[serde(default)]
    pub(super) apparmor_profile: Refused,
    #[serde(default)]
    pub(super) selinux_label: Refused,
    #[serde(default)]
    pub(super) scheduler: Refused,
    #[serde(default)]
    pub(super) io_priority: Refused,
    #[serde(default, rename = "execCPUAffinity")]
    pub(super) exec_cpu_affinity: Refused,
}

/// `process.user`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct User {
    #[serde(default)]
    pub(super) uid: u32,
    #[serde(default)]
    pub(super) gid: u32,
    #[serde(default)]
    pub(super) umask: Option<u32>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) additional_gids: Vec<u32>,
}

/// `process.capabilities`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Capabilities {
    #[serde(default, deserialize_with = "nullable")]
    pub(super) bounding: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) effective: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) inheritable: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) permitted: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) ambient: Vec<String>,
}

/// `process.rlimits[]`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Rlimit {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) soft: u64,
    pub(super) hard: u64,
}

/// `root`. The request's `rootfs` says where it is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Root {
    #[serde(default, rename = "path")]
    pub(super) _path: IgnoredAny,
    #[serde(default)]
    pub(super) readonly: bool,
}

/// `mounts[]`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mount {
    pub(super) destination: String,
    #[serde(default, rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(default)]
    pub(super) source: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) options: Vec<String>,
    #[serde(default)]
    pub(super) uid_mappings: Refused,
    #[serde(default)]
    pub(super) gid_mappings: Refused,
}

/// `linux`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Linux {
    #[serde(default, deserialize_with = "nullable")]
    pub(super) namespaces: Vec<Namespace>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) devices: Vec<Device>,
    /// Names a place on the host; in the guest each container has its own.
    #[serde(default, rename = "cgroupsPath")]
    pub(super) _cgroups_path: IgnoredAny,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) resources: Resources,
    #[serde(default)]
    pub(super) rootfs_propagation: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) sysctl: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) masked_paths: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) readonly_paths: Vec<String>,
    #[serde(default)]
    pub(super) seccomp: Refused,
    #[serde(default)]
    pub(super) uid_mappings: Refused,
    #[serde(default)]
    pub(super) gid_mappings: Refused,
    #[serde(default)]
    pub(super) mount_label: Refused,
    #[serde(default)]
    pub(super) intel_rdt: Refused,
    #[serde(default)]
    pub(super) personality: Refused,
    #[serde(default)]
    pub(super) time_offsets: Refused,
    #[serde(default)]
    pub(super) memory_policy: Refused,
    #[serde(default)]
    pub(super) net_devices: Refused,
}

/// `linux.namespaces[]`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Namespace {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) path: Option<String>,
}

/// `linux.devices[]`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub(super) path: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) major: u32,
    #[serde(default)]
    pub(super) minor: u32,
    #[serde(default)]
    pub(super) file_mode: Option<u32>,
    #[serde(default)]
    pub(super) uid: Option<u32>,
    #[serde(default)]
    pub(super) gid: Option<u32>,
}

/// `linux.resources`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Resources {
    /// Carried out another way: only listed nodes can be opened, see `init::devices`.
    #[serde(default, rename = "devices")]
    pub(super) _devices: IgnoredAny,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) memory: Memory,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) cpu: Cpu,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) pids: Pids,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) unified: BTreeMap<String, String>,
    #[serde(default, rename = "blockIO")]
    pub(super) block_io: Refused,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) hugepage_limits: Vec<HugepageLimit>,
    #[serde(default)]
    pub(super) network: Refused,
    #[serde(default)]
    pub(super) rdma: Refused,
}

/// `linux.resources.memory`, in bytes; -1 is no limit.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Memory {
    #[serde(default)]
    pub(super) limit: Option<i64>,
    #[serde(default)]
    pub(super) reservation: Option<i64>,
    /// Memory and swap together.
    #[serde(default)]
    pub(super) swap: Option<i64>,
    #[serde(default)]
    pub(super) kernel: Refused,
    #[serde(default, rename = "kernelTCP")]
    pub(super) kernel_tcp: Refused,
    #[serde(default)]
    pub(super) swappiness: Refused,
    #[serde(default, rename = "disableOOMKiller")]
    pub(super) disable_oom_killer: Refused,
    /// cgroup v2 has no other way.
    #[serde(default, rename = "useHierarchy")]
    pub(super) _use_hierarchy: IgnoredAny,
    /// Concerns updates only.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) check_before_update: bool,
}

/// `linux.resources.hugepageLimits[]`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HugepageLimit {
    pub(super) page_size: String,
    pub(super) limit: u64,
}

/// `linux.resources.cpu`, times in microseconds.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Cpu {
    #[serde(default)]
    pub(super) shares: Option<u64>,
    #[serde(default)]
    pub(super) quota: Option<i64>,
    #[serde(default)]
    pub(super) period: Option<u64>,
    #[serde(default)]
    pub(super) burst: Option<u64>,
    #[serde(default)]
    pub(super) idle: Option<i64>,
    #[serde(default)]
    pub(super) cpus: Option<String>,
    #[serde(default)]
    pub(super) mems: Option<String>,
    #[serde(default)]
    pub(super) realtime_runtime: Refused,
    #[serde(default)]
    pub(super) realtime_period: Refused,
}

/// `linux.resources.pids`; -1 or 0 is no limit.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Pids {
    #[serde(default)]
    pub(super) limit: Option<i64>,
}

impl Spec {
    /// The first field that is set and not supported.
    pub(super) fn refused_field(&self) -> Option<&'static str> {
        let linux = &self.linux;
        let fields: [(&'static str, &Refused); 11] = [
            ("domainname", &self.domainname),
            ("hooks", &self.hooks),
            (
                "linux.seccomp (compile it and send seccomp_bpf)",
                &linux.seccomp,
            ),
            ("linux.uidMappings", &linux.uid_mappings),
            ("linux.gidMappings", &linux.gid_mappings),
            ("linux.mountLabel", &linux.mount_label),
            ("linux.intelRdt", &linux.intel_rdt),
            ("linux.personality", &linux.personality),
            ("linux.timeOffsets", &linux.time_offsets),
            ("linux.memoryPolicy", &linux.memory_policy),
            ("linux.netDevices", &linux.net_devices),
        ];
        self.process
            .refused_field()
            .or_else(|| first_set(&fields))
            .or_else(|| linux.resources.refused_field())
    }
}

impl Resources {
    /// Likewise of limits alone.
    pub(super) fn refused_field(&self) -> Option<&'static str> {
        let (memory, cpu) = (&self.memory, &self.cpu);
        first_set(&[
            ("linux.resources.blockIO", &self.block_io),
            ("linux.resources.network", &self.network),
            ("linux.resources.rdma", &self.rdma),
            ("linux.resources.memory.kernel", &memory.kernel),
            ("linux.resources.memory.kernelTCP", &memory.kernel_tcp),
            ("linux.resources.memory.swappiness", &memory.swappiness),
            (
                "linux.resources.memory.disableOOMKiller",
                &memory.disable_oom_killer,
            ),
            ("linux.resources.cpu.realtimeRuntime", &cpu.realtime_runtime),
            ("linux.resources.cpu.realtimePeriod", &cpu.realtime_period),
        ])
    }
}

impl Process {
    /// Likewise of a process alone.
    pub(super) fn refused_field(&self) -> Option<&'static str> {
        first_set(&[
            ("process.apparmorProfile", &self.apparmor_profile),
            ("process.selinuxLabel", &self.selinux_label),
            ("process.scheduler", &self.scheduler),
            ("process.ioPriority", &self.io_priority),
            ("process.execCPUAffinity", &self.exec_cpu_affinity),
        ])
    }
}

fn first_set(fields: &[(&'static str, &Refused)]) -> Option<&'static str> {
    fields
        .iter()
        .find(|(_, value)| is_set(value))
        .map(|(name, _)| *name)
}

/// Whether a field asks for anything.
pub(super) fn is_set(value: &Refused) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(fields)) => !fields.is_empty(),
        Some(Value::Bool(true) | Value::Number(_)) => true,
    }
}

/// Takes `null`, which Go writes for an empty list, as the default value.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
