//! Users, capabilities, seccomp, and the namespaces of a pod.

use anyhow::{Context, Result, ensure};
use k8s_cri::v1::{self as cri, security_profile::ProfileType};
use podvmm_cri_tests::handler::PODVMM;
use podvmm_cri_tests::pod::{Container, Node, brief};
use podvmm_cri_tests::spec::{self, ContainerSpec, PodSpec};

use crate::case::Case;
use crate::network::refused;

pub const CASES: &[Case] = &[
    Case::new(
        "image_user",
        "an image's user, by a name of its own /etc/passwd, with the groups of /etc/group",
        image_user,
    ),
    Case::new(
        "run_as",
        "`runAsUser`, `runAsGroup`, `supplementalGroups`",
        run_as,
    ),
    Case::new(
        "capabilities",
        "capabilities: the default set, added ones and dropped ones",
        capabilities,
    ),
    Case::new(
        "no_new_privileges",
        "`allowPrivilegeEscalation: false`",
        no_new_privileges,
    ),
    Case::new(
        "seccomp",
        "the runtime's default seccomp profile is in force where it is asked for",
        seccomp,
    ),
    Case::new(
        "masked_paths",
        "paths of /proc and /sys are masked and read-only",
        masked_paths,
    ),
    Case::new(
        "privileged",
        "`privileged`: all capabilities, and mounting",
        privileged,
    ),
    Case::new(
        "processes",
        "a container sees its own processes, and with `shareProcessNamespace` the pod's",
        processes,
    ),
    Case::new(
        "host_pid",
        "`hostPID`: the pod sees the node's processes",
        host_pid,
    )
    .unlike(
        PODVMM,
        "refuses it: a pod with a kernel of its own cannot have the node's processes",
    ),
    Case::new(
        "host_ipc",
        "`hostIPC`: the pod has the node's System V objects",
        host_ipc,
    )
    .unlike(
        PODVMM,
        "refuses it: a pod with a kernel of its own cannot have the node's IPC objects",
    ),
];

/// A line of the first process's status, such as `CapEff`.
fn status(container: &Container, name: &str) -> Result<String> {
    let script = format!("sed -n 's/^{name}:[[:space:]]*//p' /proc/1/status");
    let value = container.sh(&script)?;
    ensure!(!value.is_empty(), "/proc/1/status has no {name}");
    Ok(value)
}

fn image_user(node: Node<'_>) -> Result<()> {
    let spec = ContainerSpec::new("main", spec::USER).command(&[
        "/bin/sh",
        "-c",
        "id -u; id -g; id -G; echo $HOME; sleep 1000000",
    ]);
    let (pod, container) = node.run("image-user", spec)?;
    container.has_logged("1234\n2345\n2345 3456\n")?;
    let output = container.exec(&["/bin/sh", "-c", "touch /srv/new"])?;
    ensure!(output.code != 0, "a file in root's directory: {output:?}");
    container.sh("touch /tmp/new")?;
    pod.remove()?;
    Ok(())
}

fn run_as(node: Node<'_>) -> Result<()> {
    let spec = ContainerSpec::idle().secured(|security| {
        security.run_as_user = Some(cri::Int64Value { value: 4321 });
        security.run_as_group = Some(cri::Int64Value { value: 5432 });
        security.supplemental_groups = vec![6543, 7654];
    });
    let (pod, container) = node.run("run-as", spec)?;
    let seen = container.sh("id -u; id -g; id -G; touch /tmp/new; stat -c %u:%g /tmp/new")?;
    ensure!(
        seen == "4321\n5432\n5432 6543 7654\n4321:5432",
        "a command run in it: {seen:?}"
    );
    let groups = status(&container, "Groups")?;
    ensure!(
        groups.trim_end() == "6543 7654" || groups.trim_end() == "5432 6543 7654",
        "{groups}"
    );
    pod.remove()?;
    Ok(())
}

fn capabilities(node: Node<'_>) -> Result<()> {
    const CHOWN: u64 = 1 << 0;
    const NET_ADMIN: u64 = 1 << 12;
    /// What containers have by default: chown, dac_override, fowner, fsetid, kill, setgid, setuid,
    /// setpcap, net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
    const DEFAULT: u64 = 0xa804_25fb;
    let (pod, plain) = node.run("capabilities", ContainerSpec::idle())?;
    let changed = pod.start(ContainerSpec::idle().called("changed").secured(|security| {
        security.capabilities = Some(cri::Capability {
            add_capabilities: vec!["NET_ADMIN".to_owned()],
            drop_capabilities: vec!["CHOWN".to_owned()],
            ..Default::default()
        });
    }))?;
    let none = pod.start(ContainerSpec::idle().called("none").secured(|security| {
        security.capabilities = Some(cri::Capability {
            drop_capabilities: vec!["ALL".to_owned()],
            ..Default::default()
        });
    }))?;
    for (container, expected) in [
        (&plain, DEFAULT),
        (&changed, (DEFAULT | NET_ADMIN) & !CHOWN),
        (&none, 0),
    ] {
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            let seen = u64::from_str_radix(&status(container, set)?, 16)?;
            ensure!(seen == expected, "{set} is {seen:x}, expected {expected:x}");
        }
    }
    changed.sh("ip link set lo down && ip link set lo up")?;
    let output = plain.exec(&["ip", "link", "set", "lo", "down"])?;
    ensure!(output.code != 0, "without NET_ADMIN: {output:?}");
    let output = changed.exec(&["chown", "1:1", "/srv/seed"])?;
    ensure!(output.code != 0, "without CHOWN: {output:?}");
    pod.remove()?;
    Ok(())
}

fn no_new_privileges(node: Node<'_>) -> Result<()> {
    let (pod, plain) = node.run("privileges", ContainerSpec::idle())?;
    let locked = ContainerSpec::idle()
        .called("locked")
        .secured(|security| security.no_new_privs = true);
    let locked = pod.start(locked)?;
    ensure!(
        status(&plain, "NoNewPrivs")? == "0",
        "where it is not asked for"
    );
    ensure!(
        status(&locked, "NoNewPrivs")? == "1",
        "where it is asked for"
    );
    let in_exec = locked.sh("grep NoNewPrivs /proc/self/status")?;
    ensure!(in_exec.ends_with('1'), "a command run in it: {in_exec}");
    pod.remove()?;
    Ok(())
}

fn seccomp(node: Node<'_>) -> Result<()> {
    let (pod, plain) = node.run("seccomp", ContainerSpec::idle())?;
    let filtered = pod.start(
        ContainerSpec::idle()
            .called("filtered")
            .secured(|security| {
                security.seccomp = Some(spec::profile(ProfileType::RuntimeDefault));
            }),
    )?;
    const FILTER: &str = "2";
    ensure!(
        status(&plain, "Seccomp")? == "0",
        "where it is not asked for"
    );
    ensure!(
        status(&filtered, "Seccomp")? == FILTER,
        "where it is asked for"
    );
    let in_exec = filtered.sh("grep Seccomp: /proc/self/status")?;
    ensure!(in_exec.ends_with(FILTER), "a command run in it: {in_exec}");
    // The default profile has no new user namespaces.
    plain.sh("unshare -U true")?;
    let output = filtered.exec(&["unshare", "-U", "true"])?;
    ensure!(output.code != 0, "a new user namespace: {output:?}");
    pod.remove()?;
    Ok(())
}

fn masked_paths(node: Node<'_>) -> Result<()> {
    let (pod, container) = node.run("masked-paths", ContainerSpec::idle())?;
    // What a kernel does not have needs no mask.
    let seen = container.sh(
        "for f in /proc/kcore /proc/keys /proc/timer_list; do [ ! -e $f ] || head -c 1 $f | wc -c; done; \
         for d in /proc/acpi /proc/scsi /sys/firmware; do [ ! -d $d ] || ls $d | wc -l; done",
    )?;
    ensure!(seen.lines().all(|count| count.trim() == "0"), "{seen:?}");
    for path in [
        "/proc/sys/kernel/panic",
        "/proc/sysrq-trigger",
        "/sys/kernel/profiling",
    ] {
        let script = format!("[ ! -e {path} ] || echo 0 >{path}");
        let output = container.exec(&["/bin/sh", "-c", &script])?;
        let absent = container.exec(&["test", "-e", path])?.code != 0;
        ensure!(output.code != 0 || absent, "{path} can be written to");
    }
    pod.remove()?;
    Ok(())
}

fn privileged(node: Node<'_>) -> Result<()> {
    let pod = node.run_pod(PodSpec::new("privileged").privileged())?;
    let plain = pod.start(ContainerSpec::idle().called("plain"))?;
    let container = pod.start(ContainerSpec::idle().secured(|security| {
        security.privileged = true;
        security.masked_paths.clear();
        security.readonly_paths.clear();
    }))?;
    let seen = u64::from_str_radix(&status(&container, "CapEff")?, 16)?;
    let last: u32 = container.sh("cat /proc/sys/kernel/cap_last_cap")?.parse()?;
    ensure!(
        seen == (1 << (last + 1)) - 1,
        "CapEff is {seen:x} of {last} capabilities"
    );
    container.sh("mount -t tmpfs tmpfs /srv; touch /srv/new; umount /srv")?;
    container.sh("echo 1 >/proc/sys/net/ipv4/ip_forward")?;
    let output = plain.exec(&["mount", "-t", "tmpfs", "tmpfs", "/srv"])?;
    ensure!(
        output.code != 0,
        "mounting without the privilege: {output:?}"
    );
    pod.remove()?;
    Ok(())
}

fn processes(node: Node<'_>) -> Result<()> {
    let list = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done";
    let (pod, one) = node.run("own-processes", ContainerSpec::sh("exec sleep 112233"))?;
    let other = pod.start(ContainerSpec::idle().called("other"))?;
    ensure!(
        one.sh("tr '\\0' ' ' </proc/1/cmdline")?.contains("112233"),
        "PID 1"
    );
    ensure!(
        !other.sh(list)?.contains("112233"),
        "of the other: {}",
        other.sh(list)?
    );
    pod.remove()?;

    let pod = node.run_pod(PodSpec::new("shared-processes").share_processes())?;
    let shared = |mut spec: ContainerSpec| {
        spec.namespaces().pid = cri::NamespaceMode::Pod.into();
        pod.start(spec)
    };
    let one = shared(ContainerSpec::sh("exec sleep 112233"))?;
    let other = shared(ContainerSpec::idle().called("other"))?;
    let seen = other.sh(list)?;
    ensure!(
        seen.contains("112233"),
        "no sign of the first container: {seen}"
    );
    // One can be signalled from the other.
    other.sh("kill -TERM $(ps | awk '/[1]12233/ { print $1; exit }')")?;
    let status = one.ended(10)?;
    ensure!(status.exit_code == 143, "{}", brief(&status));
    pod.remove()?;
    Ok(())
}

fn host_pid(node: Node<'_>) -> Result<()> {
    let mut spec = PodSpec::new("host-pid");
    spec.namespaces().pid = cri::NamespaceMode::Node.into();
    if node.handler == PODVMM {
        refused(node.run_pod(spec), &["host", "pid"])?;
        return Ok(());
    }
    let pod = node.run_pod(spec)?;
    let mut container = ContainerSpec::idle();
    container.namespaces().pid = cri::NamespaceMode::Node.into();
    let container = pod.start(container)?;
    let seen = container.sh("ps")?;
    ensure!(
        seen.contains("containerd --config"),
        "the node's containerd is not among {seen}"
    );
    pod.remove()?;
    Ok(())
}

fn host_ipc(node: Node<'_>) -> Result<()> {
    let mut spec = PodSpec::new("host-ipc");
    spec.namespaces().ipc = cri::NamespaceMode::Node.into();
    if node.handler == PODVMM {
        refused(node.run_pod(spec), &["host", "ipc"])?;
        return Ok(());
    }
    let pod = node.run_pod(spec)?;
    let mut container = ContainerSpec::idle();
    container.namespaces().ipc = cri::NamespaceMode::Node.into();
    let container = pod.start(container)?;
    let nodes = std::fs::read_link("/proc/self/ns/ipc").context("the node's IPC namespace")?;
    let seen = container.sh("readlink /proc/self/ns/ipc")?;
    ensure!(
        nodes.as_os_str() == seen.as_str(),
        "{seen} is not the node's {}",
        nodes.display()
    );
    pod.remove()?;
    Ok(())
}
