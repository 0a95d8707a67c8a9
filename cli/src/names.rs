//! What a pod on a network finds in `/etc` when there is no manifest, as container engines have it.

use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use sandbox::monitor::{ContainerPlan, ETC_FILES, EtcPlan, PodPlan, etc_path};
use serde_json::json;

use crate::args::Run;

/// Puts the files of the pod `plan` over those in the root of its `container`. A volume that is mounted
/// there, or above, is what its owner wants. In a root whose changes stay, nothing is made: what it does not
/// have, the pod does not have.
pub fn add(plan: &mut PodPlan, container: &mut ContainerPlan, args: &Run, root: &Path) {
    if plan.network.is_none() {
        return;
    }
    let files = ETC_FILES.map(|name| (name, format!("/etc/{name}")));
    let wanted = files.into_iter().filter(|(_, path)| {
        let mut volumes = args.volumes.iter();
        let is_taken = volumes.any(|volume| Path::new(path).starts_with(&volume.destination));
        !is_taken && (!args.rootfs_rw || is_file(root, path))
    });
    let mounts = wanted.map(|(name, path)| {
        json!({
            "destination": path,
            "type": "bind",
            "source": etc_path(name),
            "options": ["rbind", "rw"],
        })
    });
    if let Some(all) = container.spec["mounts"].as_array_mut() {
        all.extend(mounts);
    }
    let hostname = if plan.hostname.is_empty() {
        &plan.name
    } else {
        &plan.hostname
    };
    plan.etc = Some(EtcPlan::of_host(hostname));
}

/// Whether the guest, which has nothing that is mounted in `root`, finds a file there.
fn is_file(root: &Path, path: &str) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let found = open(root, flags, Mode::empty())
        .and_then(|root| openat2(root, path, flags, Mode::empty(), resolve))
        .and_then(fstat);
    found.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use clap::Parser;
    use sandbox::ContainerConfig;
    use sandbox::monitor::{NetworkPlan, NetworkSource};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        run: Run,
    }

    /// Where files are mounted in a pod of these arguments.
    fn mounted(options: &[&str], root: &Path, network: bool) -> Vec<String> {
        let line = [&["run", "--rootfs", "/"], options, &["true"]].concat();
        let args = Line::try_parse_from(line).unwrap().run;
        let mut plan = PodPlan::new("web");
        plan.network = network.then(|| NetworkPlan {
            source: NetworkSource::Netns("/run/netns/x".into()),
            allow_metadata: false,
        });
        let mut container = ContainerPlan::new(&ContainerConfig::command(["true"]));
        let before = container.spec["mounts"].as_array().unwrap().len();
        add(&mut plan, &mut container, &args, root);
        assert_eq!(plan.etc, network.then(|| EtcPlan::of_host("web")));
        let mounts = &container.spec["mounts"].as_array().unwrap()[before..];
        let target = |mount: &serde_json::Value| mount["destination"].as_str().unwrap().to_owned();
        mounts.iter().map(target).collect()
    }

    #[test]
    fn pods_on_a_network_have_names() {
        let root = Path::new("/nonexistent");
        let all = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];
        assert_eq!(mounted(&[], root, false), [""; 0]);
        assert_eq!(mounted(&[], root, true), all);
        let own = &["--volume", "/x:/etc/resolv.conf", "--volume=/y:/etc/host"];
        assert_eq!(mounted(own, root, true), all[..2]);
        assert_eq!(mounted(&["--volume=/x:/etc/"], root, true), [""; 0]);
    }

    #[test]
    fn nothing_is_made_in_a_root_that_stays() {
        let root = std::env::temp_dir().join(format!("podvmm-names-{}", std::process::id()));
        fs::create_dir_all(root.join("etc/hostname")).unwrap();
        fs::write(root.join("real"), "").unwrap();
        symlink("/real", root.join("etc/hosts")).unwrap();
        symlink("/gone", root.join("etc/resolv.conf")).unwrap();
        assert_eq!(mounted(&["--rootfs-rw"], &root, true), ["/etc/hosts"]);
        fs::remove_dir_all(root).unwrap();
    }
}
