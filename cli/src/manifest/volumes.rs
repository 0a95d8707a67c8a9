//! A manifest's volumes and files as a pod's plan has them.
//!
//! ```text
//!   emptyDir ─────────────────▶ a directory on this machine's disk that goes with the pod
//!   emptyDir, medium Memory ──┐
//!   configMap, secret, ... ───┼▶ memory of the guest
//!   /etc/hosts, last words ───┘
//!   hostPath ─────────────────▶ a share
//! ```

use std::path::{Path, PathBuf};

use manifest::plan::{self, Content, MountSource, PlannedFile, VolumePlan};
use manifest::pod::Dns;
use sandbox::monitor::{
    DirectoryPlan, EtcPlan, PodPlan, SharePlan, SizeLimit, TerminationPlan, etc_path,
    termination_path,
};
use sandbox::net::resolvers::{DnsPlan, Resolvers};
use sandbox::oci::path_in_share;
use sandbox::volume::{GuestFile, GuestVolume, path_in_guest};
use serde_json::Value;

/// Everybody may use an emptyDir, as in Kubernetes.
const EMPTY_DIR: u32 = 0o777;
/// Reading and searching, for everybody.
const FILES: u32 = 0o755;
/// What is made in a directory has its group.
const SET_GROUP: u32 = 0o2000;
/// What the group of a volume may do with its files.
const GROUP_READS: u32 = 0o440;

/// Where emptyDirs are kept unless told otherwise: beside the images.
pub fn default_data() -> PathBuf {
    image::Store::default_dir().with_file_name("pods")
}

/// Plans all volumes, and the files that a node makes.
pub fn add(pod: &mut PodPlan, plan: &plan::Plan, data: &Path) -> anyhow::Result<()> {
    data.clone_into(&mut pod.data);
    for volume in &plan.volumes {
        let name = name_of(&volume.name);
        match &volume.content {
            Content::Directory { limit } => pod.directories.push(DirectoryPlan {
                name,
                volume: volume.name.clone(),
                group: volume.group,
                limit: limit.as_ref().map(|limit| SizeLimit {
                    bytes: limit.bytes,
                    text: limit.text.clone(),
                }),
            }),
            Content::Memory { size } => {
                pod.volumes.push(in_guest(volume, *size, EMPTY_DIR, &[]));
            }
            Content::Files(files) => pod.volumes.push(in_guest(volume, None, FILES, files)),
            Content::Host { path, kind } => {
                // What has to be there is, or is made.
                manifest::host_path::prepare(&volume.name, path.as_ref(), *kind)?;
                pod.shares.push(SharePlan {
                    name,
                    path: path.into(),
                    read_only: !is_written(plan, &volume.name),
                    is_rootfs: false,
                });
            }
        }
    }
    pod.etc = Some(EtcPlan {
        hosts: plan.hosts.clone(),
        names: plan.names.clone(),
        hostname: plan.hostname.clone(),
        dns: dns(&plan.dns),
    });
    Ok(())
}

fn dns(dns: &Dns) -> DnsPlan {
    let option = |(name, value): &(String, Option<String>)| match value {
        Some(value) => format!("{name}:{value}"),
        None => name.clone(),
    };
    DnsPlan {
        of_surroundings: dns.of_host,
        own: Resolvers {
            servers: dns.nameservers.clone(),
            searches: dns.searches.clone(),
            options: dns.options.iter().map(option).collect(),
        },
    }
}

/// A container's mounts, as its OCI configuration has them.
pub fn mounts(plan: &plan::Plan, container: &plan::ContainerPlan) -> Vec<Value> {
    let in_share = |name: &str| {
        let mut volumes = plan.volumes.iter();
        volumes.any(|volume| {
            let shared = matches!(
                volume.content,
                Content::Directory { .. } | Content::Host { .. }
            );
            volume.name == name && shared
        })
    };
    plan::oci::mounts(container, |mount| match &mount.source {
        MountSource::Volume { name, .. } if in_share(name) => path_in_share(&name_of(name)),
        MountSource::Volume { name, .. } => path_in_guest(&name_of(name)),
        MountSource::Hosts => etc_path("hosts"),
        MountSource::Hostname => etc_path("hostname"),
        MountSource::ResolvConf => etc_path("resolv.conf"),
        MountSource::Termination => termination_path(&container.name),
    })
}

/// A container's file for its last words, unless it has mounted something else there.
pub fn termination(container: &plan::ContainerPlan) -> Option<TerminationPlan> {
    let mut mounts = container.mounts.iter();
    let has_file = mounts.any(|mount| mount.source == MountSource::Termination);
    has_file.then_some(TerminationPlan {
        or_log: container.termination_from_log,
    })
}

fn name_of(volume: &str) -> String {
    format!("volume-{volume}")
}

/// Whether any container can write to a volume.
fn is_written(plan: &plan::Plan, volume: &str) -> bool {
    let containers = plan.init_containers.iter().chain(&plan.containers);
    containers
        .flat_map(|container| &container.mounts)
        .any(|mount| {
            let is_it = matches!(&mount.source, MountSource::Volume { name, .. } if name == volume);
            is_it && !mount.read_only
        })
}

fn in_guest(
    volume: &VolumePlan,
    size: Option<u64>,
    mode: u32,
    files: &[PlannedFile],
) -> GuestVolume {
    let (of_dir, of_files) = match volume.group {
        Some(_) => (SET_GROUP, GROUP_READS),
        None => (0, 0),
    };
    let file = |file: &PlannedFile| GuestFile {
        path: file.path.clone(),
        mode: file.mode | of_files,
        data: file.data.clone(),
    };
    GuestVolume {
        name: name_of(&volume.name),
        size,
        mode: mode | of_dir,
        gid: volume.group.unwrap_or(0),
        files: files.iter().map(file).collect(),
    }
}

#[cfg(test)]
mod tests {
    use manifest::Options;
    use manifest::plan::{ImageConfig, Surroundings};

    use super::*;

    const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  securityContext: {fsGroup: 77}
  containers:
  - name: one
    image: i
    command: [x]
    terminationMessagePolicy: FallbackToLogsOnError
    volumeMounts:
    - {name: disk, mountPath: /disk, subPath: a/b}
    - {name: mem, mountPath: /mem}
    - {name: conf, mountPath: /conf}
    - {name: ro, mountPath: /ro, readOnly: true}
    - {name: rw, mountPath: /rw}
  volumes:
  - {name: disk, emptyDir: {sizeLimit: 1.5Mi}}
  - {name: mem, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: conf, configMap: {name: c, defaultMode: 0400}}
  - {name: ro, hostPath: {path: /}}
  - {name: rw, hostPath: {path: /}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {key: value}
";

    #[test]
    fn each_volume_is_where_it_belongs() {
        let parsed = manifest::parse(POD, &Options::default()).unwrap();
        let image = ImageConfig::default();
        let plan = plan::plan(&parsed, |_| Some(&image), &Surroundings::default()).unwrap();
        let mut pod = PodPlan::new("a");
        add(&mut pod, &plan, Path::new("/data")).unwrap();
        assert_eq!(pod.directories[0].name, "volume-disk");
        assert_eq!(pod.directories[0].group, Some(77));
        let limit = pod.directories[0].limit.as_ref().unwrap();
        assert_eq!((limit.bytes, &*limit.text), (3 << 19, "1.5Mi"));
        let memory = &pod.volumes[0];
        assert_eq!(
            (memory.size, memory.mode, memory.gid),
            (Some(1 << 20), 0o2777, 77)
        );
        let files = &pod.volumes[1];
        assert_eq!((files.mode, files.files[0].mode), (0o2755, 0o440));
        assert_eq!(files.files[0].data, b"value");
        let shares: Vec<_> = pod.shares.iter().map(|share| share.read_only).collect();
        assert_eq!(shares, [true, false]);

        let container = &plan.containers[0];
        let mounts = mounts(&plan, container);
        let of = |path: &str| {
            let mut found = mounts.iter().filter(|mount| mount["destination"] == path);
            found.next().unwrap_or_else(|| panic!("{path}"))
        };
        assert_eq!(of("/disk")["source"], "/run/podvmm/share/volume-disk");
        assert_eq!(of("/disk")["options"][2], "X-mount.subdir=a/b");
        assert_eq!(of("/mem")["source"], "/run/podvmm/volumes/volume-mem");
        assert_eq!(of("/conf")["options"][1], "ro");
        assert_eq!(of("/rw")["source"], "/run/podvmm/share/volume-rw");
        assert_eq!(
            of("/etc/hosts")["source"],
            "/run/podvmm/volumes/pod.files/hosts"
        );
        let last_words = "/run/podvmm/volumes/pod.files/termination/one";
        assert_eq!(of("/dev/termination-log")["source"], last_words);
        assert_eq!(
            termination(container),
            Some(TerminationPlan { or_log: true })
        );
    }
}
