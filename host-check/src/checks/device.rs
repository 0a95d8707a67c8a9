//! The file `/dev/kvm`: is it there, and may we open it?

use crate::advice;
use crate::check::Look;
use crate::checks::kvm::{DEVICE, earlier, loaded};
use crate::errno::Errno;
use crate::facts::Facts;

/// Of `/dev/kvm`, by Linux' list of devices.
const NUMBER: (u32, u32) = (10, 232);

pub(super) fn there(facts: &Facts<'_>) -> Look {
    let errno = match facts.kvm().open {
        Ok(()) => return Look::pass(DEVICE),
        Err(Errno::ACCES | Errno::PERM) => return Look::pass("there, and not for us"),
        Err(errno) => errno,
    };
    let node = facts.host().node(DEVICE).ok();
    if let (Some(node), Errno::NODEV | Errno::NXIO) = (&node, errno) {
        return no_driver(facts, errno, node.device);
    }
    if errno != Errno::NOENT {
        return Look::fail(
            format!("open: {errno}"),
            format!("/dev/kvm cannot be opened ({errno})"),
            "`dmesg | grep -i kvm` may say why; the node should be a character device 10:232",
        );
    }
    if let Some(id) = earlier(facts) {
        return Look::does_not_apply(format!("it cannot be there: see {id}"));
    }
    if loaded(facts).is_none() {
        return Look::does_not_apply("the module makes it: see kvm.module");
    }
    if let Some(container) = facts.place().container {
        return Look::fail(
            format!("no {DEVICE} in this container ({container})"),
            "the machine has KVM, and this container was not given /dev/kvm",
            advice::pass_in(container, DEVICE),
        );
    }
    Look::fail(
        "the module is there and the node is not",
        "/dev/kvm does not exist, although the kernel has KVM",
        "make it: `mknod -m 660 /dev/kvm c 10 232 && chgrp kvm /dev/kvm`; if it does not open then, \
         `dmesg | grep -i kvm` says why; devtmpfs or udev should have made it, and in a container or \
         chroot it has to be passed in",
    )
}

fn no_driver(facts: &Facts<'_>, errno: Errno, device: Option<(u32, u32)>) -> Look {
    if let Some((major, minor)) = device.filter(|device| *device != NUMBER) {
        return Look::fail(
            format!("a node for device {major}:{minor}"),
            format!(
                "/dev/kvm is the node of another device ({major}:{minor}), which has no driver"
            ),
            "make it anew: `rm /dev/kvm && mknod -m 660 /dev/kvm c 10 232`; then see that kvm_intel \
             or kvm_amd is loaded",
        );
    }
    if let Some(id) = earlier(facts) {
        return Look::does_not_apply(format!("no driver can answer: see {id}"));
    }
    if loaded(facts).is_none() {
        return Look::does_not_apply("the driver is in the module: see kvm.module");
    }
    Look::fail(
        format!("open: {errno}"),
        "/dev/kvm is there and no driver answers for it",
        match facts.place().container {
            Some(_) => {
                "see that kvm_intel or kvm_amd works on the machine around this container; it needs \
                 KVM before a container can have it"
            }
            None => {
                "`dmesg | grep -i kvm` says why kvm_intel or kvm_amd refused to start; locked \
                 firmware is the likeliest reason"
            }
        },
    )
}

pub(super) fn permission(facts: &Facts<'_>) -> Look {
    let errno = match facts.kvm().open {
        Ok(()) => return Look::pass("opens for reading and writing"),
        Err(errno @ (Errno::ACCES | Errno::PERM)) => errno,
        Err(_) => return Look::does_not_apply("there is nothing to open: see the checks above"),
    };
    let message = "/dev/kvm: permission denied";
    let container = facts.place().container;
    if errno == Errno::PERM {
        return Look::fail(
            format!("open: {errno}"),
            format!("{message} by a filter for devices, not by the file's mode"),
            match container {
                Some(container) => advice::pass_in(container, DEVICE),
                None => "allow 10:232 in the device filter of this cgroup (systemd: \
                     DeviceAllow=/dev/kvm rw)"
                    .to_owned(),
            },
        );
    }
    let Ok(node) = facts.host().node(DEVICE) else {
        return Look::fail(
            format!("open: {errno}"),
            message,
            "add your user to the group that owns it, or run as root",
        );
    };
    let group = facts.host().group_name(node.gid);
    let shown = group.clone().unwrap_or_else(|| node.gid.to_string());
    let observed = format!("mode {}, owner {}, group {shown}", node.mode, node.uid);
    let by_group = node.gid != 0
        && node
            .mode
            .as_bytes()
            .get(2)
            .is_some_and(|digit| *digit >= b'6');
    let remedy = match (by_group, container) {
        (true, Some(_)) => format!(
            "run the container's user with the group {} (docker: `--group-add {}`)",
            node.gid, node.gid
        ),
        (true, None) => format!(
            "add your user to the group {shown}: `sudo usermod -aG {shown} $USER`, then log in \
             again; or run as root"
        ),
        (false, _) => "give the device to a group and make it its members': `sudo chgrp kvm \
             /dev/kvm && sudo chmod 660 /dev/kvm`, lasting by a udev rule: KERNEL==\"kvm\", \
             GROUP=\"kvm\", MODE=\"0660\"; or run as root"
            .to_owned(),
    };
    Look::fail(observed, message, remedy)
}
