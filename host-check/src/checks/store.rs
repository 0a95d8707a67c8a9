//! Where images and pods are kept.

use crate::check::{Check, Group, Look, Status, Weight};
use crate::facts::Facts;

const GIB: u64 = 1 << 30;
/// An image or two of a distribution.
const LITTLE: u64 = 5 * GIB;
const NOTHING: u64 = GIB / 4;
const FEW_FILES: u64 = 100_000;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "store.space",
        group: Group::Store,
        parameter: "file system of the store",
        expected: "5 GiB and 100000 files free",
        why: "images are unpacked there, and what pods write may land there",
        weight: Weight::NODE,
        fast: false,
        look: space,
    },
    Check {
        id: "store.filesystem",
        group: Group::Store,
        parameter: "file system of the store",
        expected: "a local one: ext4, xfs, btrfs, zfs",
        why: "overlays, hard links and attributes of images need a file system that has them",
        weight: Weight::ADVICE,
        fast: false,
        look: filesystem,
    },
    Check {
        id: "store.overlayfs",
        group: Group::Store,
        parameter: "CONFIG_OVERLAY_FS",
        expected: "overlay in /proc/filesystems",
        why: "containerd keeps the layers of images apart by it",
        weight: Weight {
            cli: Status::Info,
            node: Status::Warn,
            build: Status::Warn,
        },
        fast: false,
        look: overlayfs,
    },
];

fn space(facts: &Facts<'_>) -> Look {
    let store = facts.host().store();
    let Ok(found) = facts.host().file_system(&store) else {
        return Look::skip(format!("{store}: its file system does not say"));
    };
    let free = format!(
        "{:.1} GiB free for {store}",
        found.available as f64 / GIB as f64
    );
    let remedy = format!("make room, or put a larger file system on {store}");
    if found.available < NOTHING {
        return Look::fail(&free, format!("the disk is full ({free})"), remedy);
    }
    if found.available < LITTLE {
        return Look::warn(&free, format!("little room ({free})"), remedy);
    }
    if found.files > 0 && found.free_files < FEW_FILES {
        let files = format!("room for {} more files in {store}", found.free_files);
        return Look::warn(&files, format!("few inodes: {files}"), remedy);
    }
    Look::pass(free)
}

fn filesystem(facts: &Facts<'_>) -> Look {
    let store = facts.host().store();
    let Ok(found) = facts.host().file_system(&store) else {
        return Look::skip(format!("{store}: its file system does not say"));
    };
    let problem = match found.kind.as_str() {
        "nfs" | "cifs" | "smb" | "9p" | "fuse" => "it is another machine's, or a program's",
        "overlay" => "overlays cannot be put on an overlay",
        "vfat" | "exfat" => "it has no owners and links",
        "tmpfs" => "it is in memory",
        _ => return Look::pass(format!("{} for {store}", found.kind)),
    };
    Look::warn(
        format!("{} for {store}", found.kind),
        format!("the store is on {}: {problem}", found.kind),
        match facts.place().container {
            Some(_) => format!("mount a volume of the machine on {store}"),
            None => format!("put a local file system (ext4, xfs) on {store}"),
        },
    )
}

fn overlayfs(facts: &Facts<'_>) -> Look {
    let Ok(list) = facts.host().read("/proc/filesystems") else {
        return Look::skip("/proc/filesystems cannot be read");
    };
    let there = list
        .lines()
        .any(|line| line.split_whitespace().next_back() == Some("overlay"));
    if there {
        return Look::pass("there");
    }
    Look::warn(
        "not in /proc/filesystems",
        "the kernel has no overlayfs loaded",
        "run `modprobe overlay` as root; for good: a line `overlay` in /etc/modules-load.d",
    )
}
