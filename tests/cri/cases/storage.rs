//! Root file systems and volumes.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use k8s_cri::v1 as cri;
use podvmm_cri_tests::alone::run;
use podvmm_cri_tests::handler::PODVMM;
use podvmm_cri_tests::pod::{Node, base};
use podvmm_cri_tests::spec::{self, ContainerSpec, PodSpec};
use podvmm_cri_tests::wait;

use crate::case::Case;

pub const CASES: &[Case] = &[
    Case::new(
        "root",
        "a container's root can be written to, and is the container's alone",
        root,
    ),
    Case::new("read_only_root", "`readOnlyRootFilesystem`", read_only_root),
    Case::new(
        "empty_dir",
        "a volume that two containers share, with the owners that they gave their files",
        empty_dir,
    ),
    Case::new(
        "read_only_volume",
        "a volume mounted read-only cannot be written to, nor made writable from inside",
        read_only_volume,
    ),
    Case::new("file", "a single file of the node as a volume", file),
    Case::new(
        "config_map",
        "a ConfigMap's atomic update is seen in a running container",
        config_map,
    ),
    Case::new(
        "image_volume",
        "an image's volume, entrypoint, environment and working directory",
        image_volume,
    ),
    Case::new(
        "propagation",
        "`mountPropagation: HostToContainer`: what is mounted later on the node is seen inside",
        propagation,
    )
    .unlike(
        PODVMM,
        "shows the directory below the mount: what a guest sees of a volume was fixed when its \
         container was created, so that a way out of it does not exist",
    ),
    Case::new(
        "block_device",
        "`volumeDevices`: a block device of the node, of two containers, and to be read only",
        block_device,
    ),
];

fn root(node: Node<'_>) -> Result<()> {
    let (pod, one) = node.run("root", ContainerSpec::idle())?;
    let other = pod.start(ContainerSpec::idle().called("other"))?;
    one.sh("echo mine >/srv/new; rm /srv/seed; mkdir /srv/dir; mv /srv/new /srv/dir/moved")?;
    let seen = one.sh("cd /srv; find . | sort; cat dir/moved")?;
    ensure!(seen == ".\n./dir\n./dir/moved\nmine", "{seen:?}");
    let seen = other.sh("cd /srv; find . | sort; cat seed")?;
    ensure!(
        seen == ".\n./seed\ncame with the image",
        "the other container: {seen:?}"
    );
    pod.remove()?;
    Ok(())
}

fn read_only_root(node: Node<'_>) -> Result<()> {
    let spec = ContainerSpec::idle().secured(|security| security.readonly_rootfs = true);
    let (pod, container) = node.run("read-only-root", spec)?;
    let output = container.exec(&["/bin/sh", "-c", "echo x >/srv/new"])?;
    ensure!(
        output.code != 0 && output.stderr.contains("Read-only file system"),
        "{output:?}"
    );
    container.sh("echo x >/dev/shm/new")?;
    pod.remove()?;
    Ok(())
}

fn empty_dir(node: Node<'_>) -> Result<()> {
    let pod = node.run_pod(PodSpec::new("empty-dir"))?;
    let volume = pod.volume("shared")?;
    let one = pod.start(ContainerSpec::idle().mount(&volume, "/shared", false))?;
    let other = pod.start(
        ContainerSpec::idle()
            .called("other")
            .mount(&volume, "/data", false),
    )?;
    one.sh(
        "cd /shared; echo hello >file; chown 1234:2345 file; chmod 640 file; ln file hard; \
            ln -s file soft; mkfifo fifo",
    )?;
    let seen = other.sh("cd /data; stat -c '%u:%g %a %h' file; cat soft")?;
    ensure!(
        seen == "1234:2345 640 2\nhello",
        "the other container: {seen:?}"
    );
    let meta = fs::metadata(volume.join("file"))?;
    ensure!(
        (meta.uid(), meta.gid(), meta.mode() & 0o777, meta.nlink()) == (1234, 2345, 0o640, 2),
        "on the node: {meta:?}"
    );
    other.sh("echo more >>/data/file")?;
    let text = fs::read_to_string(volume.join("file"))?;
    ensure!(text == "hello\nmore\n", "on the node: {text:?}");
    fs::write(volume.join("from-node"), "node\n")?;
    ensure!(
        one.sh("cat /shared/from-node")? == "node",
        "what the node wrote"
    );
    pod.remove()?;
    Ok(())
}

fn read_only_volume(node: Node<'_>) -> Result<()> {
    let pod = node.run_pod(PodSpec::new("read-only").privileged())?;
    let volume = pod.volume("data")?;
    fs::write(volume.join("file"), "kept\n")?;
    let container = pod.start(ContainerSpec::idle().mount(&volume, "/data", true))?;
    ensure!(container.sh("cat /data/file")? == "kept", "reading");
    for script in [
        "echo x >/data/file",
        "rm /data/file",
        "touch /data/new",
        "mount -o remount,rw /data && echo x >/data/file",
    ] {
        let output = container.exec(&["/bin/sh", "-c", script])?;
        ensure!(output.code != 0, "{script}: {output:?}");
    }
    let text = fs::read_to_string(volume.join("file"))?;
    ensure!(
        text == "kept\n" && fs::read_dir(&volume)?.count() == 1,
        "{text:?}"
    );
    pod.remove()?;
    Ok(())
}

fn file(node: Node<'_>) -> Result<()> {
    let pod = node.run_pod(PodSpec::new("file"))?;
    let path = pod.volume("files")?.join("settings");
    fs::write(&path, "one\n")?;
    let container = pod.start(
        ContainerSpec::idle()
            .mount(&path, "/etc/settings", true)
            .mount(&path, "/srv/deep/er/settings", false),
    )?;
    ensure!(container.sh("cat /etc/settings")? == "one", "reading");
    let output = container.exec(&["/bin/sh", "-c", "echo x >/etc/settings"])?;
    ensure!(output.code != 0, "writing to the read-only one: {output:?}");
    container.sh("echo two >>/srv/deep/er/settings")?;
    let text = fs::read_to_string(&path)?;
    ensure!(text == "one\ntwo\n", "on the node: {text:?}");
    pod.remove()?;
    Ok(())
}

/// Writes a version of a volume as kubelet's atomic writer does: a directory of its own, and a link
/// that is renamed over the old one.
fn publish(volume: &Path, version: &str) -> Result<()> {
    let dir = volume.join(format!("..{version}"));
    fs::create_dir(&dir)?;
    fs::write(dir.join("setting"), format!("{version}\n"))?;
    symlink(format!("..{version}"), volume.join("..data_tmp"))?;
    let old = fs::read_link(volume.join("..data"));
    fs::rename(volume.join("..data_tmp"), volume.join("..data"))?;
    match old {
        Ok(old) => fs::remove_dir_all(volume.join(old))?,
        Err(_) => symlink("..data/setting", volume.join("setting"))?,
    }
    Ok(())
}

fn config_map(node: Node<'_>) -> Result<()> {
    let pod = node.run_pod(PodSpec::new("config-map"))?;
    let volume = pod.volume("config")?;
    publish(&volume, "first")?;
    let container = pod.start(ContainerSpec::idle().mount(&volume, "/config", true))?;
    ensure!(
        container.sh("cat /config/setting")? == "first",
        "before the update"
    );
    for version in ["second", "third"] {
        publish(&volume, version)?;
        wait::until(10, "the update is seen", || {
            // In between it is the old one or the new one, never nothing.
            let seen = container.sh("cat /config/setting")?;
            Ok((seen == version).then_some(()))
        })?;
    }
    pod.remove()?;
    Ok(())
}

fn image_volume(node: Node<'_>) -> Result<()> {
    let (pod, container) = node.run("service", ContainerSpec::new("service", spec::SERVICE))?;
    container.has_logged("hello from /srv\ncame with the image\n")?;
    // It is a directory of the node's, not of the container's root.
    container.sh("grep -q ' /srv ' /proc/self/mountinfo")?;
    container.sh("echo more >>/srv/seed")?;
    pod.remove()?;
    Ok(())
}

/// Mounted while it lives.
pub struct Mounted(pub PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn propagation(node: Node<'_>) -> Result<()> {
    let pod = node.run_pod(PodSpec::new("propagation"))?;
    let volume = pod.volume("csi")?;
    let inner = volume.join("later");
    fs::create_dir(&inner)?;
    let mut spec = ContainerSpec::idle().mount(&volume, "/csi", false);
    let mount = spec.config.mounts.last_mut().context("the mount")?;
    mount.propagation = cri::MountPropagation::PropagationHostToContainer.into();
    let container = pod.start(spec)?;
    run(Command::new("mount")
        .args(["-t", "tmpfs", "tmpfs"])
        .arg(&inner))?;
    let mounted = Mounted(inner.clone());
    fs::write(inner.join("file"), "mounted later\n")?;
    if node.handler == PODVMM {
        let seen = container.sh("ls -a /csi/later")?;
        ensure!(seen == ".\n..", "{seen:?}");
        drop(mounted);
        return pod.remove();
    }
    let seen = wait::until(5, "the mount is seen inside", || {
        let output = container.exec(&["cat", "/csi/later/file"])?;
        Ok((output.code == 0).then_some(output.stdout))
    });
    drop(mounted);
    ensure!(seen? == "mounted later\n", "what is inside");
    pod.remove()?;
    Ok(())
}

/// A loop device over a file, as long as it lives.
struct LoopDevice(String);

impl LoopDevice {
    fn new(file: &Path) -> Result<Self> {
        // Where the driver is a module, there may be no device to ask for one.
        run(Command::new("modprobe").arg("loop"))?;
        let path = run(Command::new("losetup").args(["--find", "--show"]).arg(file))?;
        Ok(Self(path.trim_end().to_owned()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
    }
}

fn block_device(node: Node<'_>) -> Result<()> {
    let image = base().join("disk");
    fs::write(&image, [b'a'; 1 << 20])?;
    let device = LoopDevice::new(&image)?;
    let with = |name: &str, permissions: &str| {
        let mut spec = ContainerSpec::idle().called(name);
        spec.config.devices.push(cri::Device {
            container_path: "/dev/disk".to_owned(),
            host_path: device.0.clone(),
            permissions: permissions.to_owned(),
        });
        spec
    };
    let pod = node.run_pod(PodSpec::new("block-device"))?;
    let writer = pod.start(with("writer", "rw"))?;
    let seen = writer.sh("test -b /dev/disk; head -c 4 /dev/disk")?;
    ensure!(seen == "aaaa", "{seen:?}");
    let other = pod.start(with("other", "rw"))?;
    writer.sh("printf bbbb | dd of=/dev/disk bs=512 seek=1 conv=sync,fsync 2>/dev/null")?;
    let second = "dd if=/dev/disk bs=512 skip=1 count=1 2>/dev/null | head -c 4";
    let seen = other.sh(second)?;
    ensure!(seen == "bbbb", "the other container: {seen:?}");
    let reader = pod.start(with("reader", "r"))?;
    let seen = reader.sh(second)?;
    ensure!(seen == "bbbb", "who may only read: {seen:?}");
    let output = reader.exec(&[
        "/bin/sh",
        "-c",
        "printf c | dd of=/dev/disk bs=1 conv=fsync",
    ])?;
    ensure!(output.code != 0, "it was written by who may only read");
    // Who is left still has it when another one has gone, and it can be given anew.
    writer.remove()?;
    reader.remove()?;
    other.sh("printf dddd | dd of=/dev/disk bs=512 seek=2 conv=sync,fsync 2>/dev/null")?;
    let again = pod.start(with("again", "r"))?;
    let seen = again.sh("dd if=/dev/disk bs=512 skip=2 count=1 2>/dev/null | head -c 4")?;
    ensure!(seen == "dddd", "who came later: {seen:?}");
    pod.remove()?;
    drop(device);
    let bytes = fs::read(&image)?;
    for (at, text) in [(0, b"aaaa"), (512, b"bbbb"), (1024, b"dddd")] {
        ensure!(&bytes[at..at + 4] == text, "{:?}", &bytes[at..at + 4]);
    }
    fs::remove_file(&image)?;
    Ok(())
}
