//! Reading rights: the pod's, and a container's on top of them.

use std::collections::BTreeMap;

use crate::names;
use crate::problem::Code;
use crate::reader::{Fields, Item};
use crate::schema;

/// The largest user or group: the next number means "leave it" to the kernel's calls.
const MAX_ID: u32 = u32::MAX - 1;

/// Capabilities of Linux 6.12.
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// Rights of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// User, in place of the image's.
    pub user: Option<u32>,
    /// Group, in place of the user's.
    pub group: Option<u32>,
    /// Whether root is refused.
    pub non_root: bool,
    /// Capabilities to add, such as `CAP_NET_ADMIN`, or `ALL`.
    pub add: Vec<String>,
    /// Capabilities to drop.
    pub drop: Vec<String>,
    /// Whether set-user-ID programs have an effect.
    pub allow_escalation: bool,
    /// Whether the root cannot be written.
    pub read_only_root: bool,
    /// Whether nothing of /proc is hidden.
    pub unmasked_proc: bool,
    /// Whether system calls are filtered.
    pub seccomp: bool,
}

/// All capabilities, such as `CAP_CHOWN`.
pub(crate) fn all_capabilities() -> impl Iterator<Item = String> {
    CAPABILITIES.into_iter().map(|name| format!("CAP_{name}"))
}

/// The pod's rights.
pub struct Pod {
    user: Option<u32>,
    group: Option<u32>,
    non_root: bool,
    seccomp: bool,
    pub groups: Vec<u32>,
    pub image_groups: bool,
    pub fs_group: Option<u32>,
    pub sysctls: BTreeMap<String, String>,
}

/// What both levels have.
struct Common {
    user: Option<u32>,
    group: Option<u32>,
    non_root: Option<bool>,
    seccomp: Option<bool>,
}

fn read_common(fields: &Fields<'_>) -> Common {
    let id = |field| fields.get(field).and_then(|item| item.number(0..=MAX_ID));
    let apparmor = fields.get("appArmorProfile");
    if let Some(item) = apparmor
        && let Some(fields) = item.object(&schema::APPARMOR)
        && let Some(kind) = fields.need("type", "write Unconfined")
        && kind.text().is_some_and(|text| text != "Unconfined")
    {
        kind.unsupported(
            "must be Unconfined: the guest's kernel has no AppArmor, and the virtual machine confines the pod",
        );
    }
    let user_item = fields.get("runAsUser");
    let non_root = fields.get("runAsNonRoot").and_then(|item| item.bool());
    let user = id("runAsUser");
    if let (Some(0), Some(true), Some(item)) = (user, non_root, user_item) {
        item.error(Code::Conflict, "is root, which runAsNonRoot refuses");
    }
    Common {
        user,
        group: id("runAsGroup"),
        non_root,
        seccomp: fields
            .get("seccompProfile")
            .and_then(|item| read_seccomp(&item)),
    }
}

fn read_seccomp(item: &Item<'_>) -> Option<bool> {
    let fields = item.object(&schema::SECCOMP)?;
    let kind = fields.need("type", "write RuntimeDefault or Unconfined")?;
    if kind.text() == Some("Localhost") {
        kind.unsupported("Localhost is not supported: use RuntimeDefault");
        return None;
    }
    kind.one_of(&[("RuntimeDefault", true), ("Unconfined", false)])
}

impl Pod {
    pub fn read(item: Option<Item<'_>>) -> Self {
        let mut pod = Self {
            user: None,
            group: None,
            non_root: false,
            seccomp: false,
            groups: Vec::new(),
            image_groups: true,
            fs_group: None,
            sysctls: BTreeMap::new(),
        };
        let Some(fields) = item.and_then(|item| item.object(&schema::POD_SECURITY)) else {
            return pod;
        };
        let common = read_common(&fields);
        pod.user = common.user;
        pod.group = common.group;
        pod.non_root = common.non_root.unwrap_or(false);
        pod.seccomp = common.seccomp.unwrap_or(false);
        let groups = fields
            .get("supplementalGroups")
            .and_then(|item| item.list());
        for item in groups.unwrap_or_default() {
            pod.groups.extend(item.number(0..=MAX_ID));
        }
        let policy = fields.get("supplementalGroupsPolicy");
        let policy = policy.and_then(|item| item.one_of(&[("Merge", true), ("Strict", false)]));
        pod.image_groups = policy.unwrap_or(true);
        pod.fs_group = fields
            .get("fsGroup")
            .and_then(|item| item.number(0..=MAX_ID));
        if let Some(item) = fields.get("sysctls") {
            pod.sysctls = read_sysctls(&item);
        }
        pod
    }

    /// A container's rights, with the pod's where it has none of its own.
    pub fn of_container(&self, item: Option<Item<'_>>) -> Security {
        let mut security = Security {
            user: self.user,
            group: self.group,
            non_root: self.non_root,
            seccomp: self.seccomp,
            allow_escalation: true,
            ..Security::default()
        };
        let Some(item) = item else { return security };
        let Some(fields) = item.object(&schema::SECURITY) else {
            return security;
        };
        let common = read_common(&fields);
        security.user = common.user.or(security.user);
        security.group = common.group.or(security.group);
        security.non_root = common.non_root.unwrap_or(security.non_root);
        security.seccomp = common.seccomp.unwrap_or(security.seccomp);
        if security.user == Some(0)
            && security.non_root
            && common.user.is_none_or(|_| common.non_root.is_none())
        {
            item.error(
                Code::Conflict,
                "the container is root by one of spec.securityContext and this, and runAsNonRoot by the other",
            );
        }
        let flag = |field| fields.get(field).and_then(|item| item.bool());
        security.read_only_root = flag("readOnlyRootFilesystem").unwrap_or(false);
        let proc_mount = fields.get("procMount");
        let proc_mount =
            proc_mount.and_then(|item| item.one_of(&[("Default", false), ("Unmasked", true)]));
        security.unmasked_proc = proc_mount.unwrap_or(false);
        if let Some(item) = fields.get("capabilities") {
            (security.add, security.drop) = read_capabilities(&item);
        }
        let escalation = fields.get("allowPrivilegeEscalation");
        security.allow_escalation = escalation
            .as_ref()
            .and_then(|item| item.bool())
            .unwrap_or(true);
        if let Some(item) = escalation
            && !security.allow_escalation
            && security
                .add
                .iter()
                .any(|name| name == "ALL" || name == "CAP_SYS_ADMIN")
        {
            item.error(
                Code::Conflict,
                "cannot be false beside the capability SYS_ADMIN",
            );
        }
        refuse_privileged(&fields);
        security
    }
}

fn refuse_privileged(fields: &Fields<'_>) {
    if let Some(item) = fields.get("privileged")
        && item.bool() == Some(true)
    {
        item.error(
            Code::Refused,
            "a pod with a kernel of its own cannot have the host's devices; add the capabilities that it needs, or run it without a sandbox",
        );
    }
}

fn read_sysctls(item: &Item<'_>) -> BTreeMap<String, String> {
    let mut sysctls = BTreeMap::new();
    for item in item.list().unwrap_or_default() {
        let Some(fields) = item.object(&schema::SYSCTL) else {
            continue;
        };
        let name = fields.need("name", "a kernel parameter has a name");
        let name = name.and_then(|item| item.named(names::sysctl));
        let value = fields.need("value", "write the parameter's value");
        let value = value.and_then(|item| item.argument());
        let (Some(name), Some(value)) = (name, value) else {
            continue;
        };
        if sysctls
            .insert(name.replace('/', "."), value.to_owned())
            .is_some()
        {
            item.error(Code::Duplicate, format!("{name} is there twice"));
        }
    }
    sysctls
}

fn read_capabilities(item: &Item<'_>) -> (Vec<String>, Vec<String>) {
    let Some(fields) = item.object(&schema::CAPABILITIES) else {
        return Default::default();
    };
    let list = |field| {
        let items = fields.get(field).and_then(|item| item.list());
        let items = items.unwrap_or_default();
        let mut names: Vec<_> = items.iter().filter_map(read_capability).collect();
        names.sort();
        names.dedup();
        names
    };
    (list("add"), list("drop"))
}

fn read_capability(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    let upper = text.to_ascii_uppercase();
    if upper == "ALL" {
        return Some(upper);
    }
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if CAPABILITIES.contains(&name) {
        return Some(format!("CAP_{name}"));
    }
    let hint = match item.report().similar(name, CAPABILITIES.into_iter()) {
        Some(similar) => format!("is it {similar}?"),
        None => "see capabilities(7), and leave the CAP_ out".into(),
    };
    item.bad(format!("{text:?} is no capability of Linux; {hint}"));
    None
}
