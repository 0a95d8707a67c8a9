//! The profile of `seccompProfile.type: RuntimeDefault`.
//!
//! The virtual machine is the boundary. The profile keeps containers of one pod from what concerns the
//! guest's kernel as a whole: it refuses what no container needs, and allows the rest. A container that
//! has been given a capability may use the calls that the capability is for.

use serde_json::{Value, json};

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
const ENOSYS: u32 = 38;

/// Calls, and the capability that allows them.
const REFUSED: [(&str, &[&str]); 8] = [
    (
        "CAP_SYS_ADMIN",
        &[
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "pivot_root",
            "quotactl",
            "quotactl_fd",
            "setns",
            "swapoff",
            "swapon",
            "umount2",
            "unshare",
        ],
    ),
    (
        "CAP_SYS_MODULE",
        &["delete_module", "finit_module", "init_module"],
    ),
    ("CAP_SYS_BOOT", &["kexec_file_load", "kexec_load", "reboot"]),
    ("CAP_SYS_TIME", &["clock_settime", "settimeofday"]),
    ("CAP_SYS_RAWIO", &["ioperm", "iopl"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    // No capability opens these: large and rarely used parts of the kernel.
    (
        "",
        &[
            "add_key",
            "bpf",
            "io_uring_enter",
            "io_uring_register",
            "io_uring_setup",
            "keyctl",
            "perf_event_open",
            "request_key",
            "userfaultfd",
            "vmsplice",
        ],
    ),
];

/// `linux.seccomp` for a container with these capabilities.
pub fn profile(capabilities: &[String]) -> Value {
    let has = |name: &str| capabilities.iter().any(|known| known == name);
    let refused: Vec<&str> = REFUSED
        .iter()
        .filter(|(capability, _)| !has(capability))
        .flat_map(|(_, calls)| calls.iter().copied())
        .collect();
    let mut rules = vec![json!({ "names": refused, "action": "SCMP_ACT_ERRNO" })];
    if !has("CAP_SYS_ADMIN") {
        // clone3 has its flags in memory, where a filter cannot look: libraries take clone then.
        rules.extend([
            json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }),
            json!({
                "names": ["clone"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{
                    "index": 0,
                    "value": NEW_NAMESPACES,
                    "valueTwo": 0,
                    "op": "SCMP_CMP_MASKED_EQ",
                }],
            }),
            json!({ "names": ["clone"], "action": "SCMP_ACT_ERRNO" }),
        ]);
    }
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": rules,
    })
}
