//! Block devices: disk images and block devices of the host as disks of a container.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Bench, file};
use crate::pods::{Pod, podvmm_does};
use crate::rootfs::TempDir;

const MIB: usize = 1 << 20;

/// Bytes that tell where they are.
fn pattern(len: usize) -> Vec<u8> {
    let words = (0..len.div_ceil(8)).flat_map(|word| (word as u64).to_le_bytes());
    words.take(len).collect()
}

fn image(dir: &TempDir, name: &str, len: usize) -> PathBuf {
    file(dir.path(), name, &pattern(len))
}

fn option(path: &Path, rest: &str) -> String {
    format!("--device={}{rest}", path.display())
}

/// A loop device on a file, until it is dropped.
pub struct Loop(pub PathBuf);

impl Loop {
    pub fn on(image: &Path) -> Self {
        let _ = Command::new("modprobe").arg("loop").status();
        let output = Command::new("busybox")
            .args(["losetup", "-f"])
            .output()
            .expect("busybox has losetup");
        let device = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let status = Command::new("busybox")
            .arg("losetup")
            .args([&device, image])
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "losetup {} {}",
            device.display(),
            image.display()
        );
        Self(device)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let detach = Command::new("busybox")
            .args(["losetup", "-d"])
            .arg(&self.0)
            .status();
        drop(detach);
    }
}

#[test]
fn what_is_written_to_a_disk_is_in_its_image_and_nowhere_else() {
    let bench = Bench::new();
    let dir = TempDir::new();
    let (len, at) = (4 * MIB, MIB + 512);
    let image = image(&dir, "disk.img", len);
    let script = "set -e
        [ -b /dev/xvda ]
        cat /sys/class/block/vda/size /sys/class/block/vda/ro
        dd if=/dev/xvda bs=1M count=1 2>/dev/null | sha256sum
        yes podvmm | dd of=/dev/xvda bs=512 seek=2049 count=100 iflag=fullblock conv=notrunc,fsync 2>/dev/null
        dd if=/dev/xvda bs=512 skip=2049 count=1 2>/dev/null | head -n 1";
    let outcome = bench
        .sh_with([option(&image, ":/dev/xvda")], script)
        .outcome();
    let digest = Command::new("sh")
        .arg("-c")
        .arg(format!("head -c {MIB} {} | sha256sum", image.display()))
        .output()
        .expect("sha256sum runs");
    let digest = String::from_utf8_lossy(&digest.stdout).into_owned();
    outcome.prints(&format!("8192\n0\n{digest}podvmm\n"));
    let mut expected = pattern(len);
    let words = b"podvmm\n".iter().cycle();
    expected
        .iter_mut()
        .skip(at)
        .take(100 * 512)
        .zip(words)
        .for_each(|(byte, word)| *byte = *word);
    assert!(
        fs::read(&image).unwrap() == expected,
        "the image is as written"
    );
}

#[test]
fn what_nobody_flushed_is_in_the_image_at_the_end() {
    let bench = Bench::new();
    let dir = TempDir::new();
    let image = image(&dir, "disk.img", MIB);
    // The descriptor is open until the container is killed with the machine.
    let script = "exec 3<>/dev/xvda; printf 'kept back' >&3; echo written";
    bench
        .sh_with([option(&image, ":/dev/xvda")], script)
        .outcome()
        .prints("written\n");
    assert_eq!(&fs::read(&image).unwrap()[..9], b"kept back");
}

#[test]
fn a_disk_that_may_only_be_read_is_not_written_by_anybody() {
    let bench = Bench::new();
    let dir = TempDir::new();
    let image = image(&dir, "disk.img", MIB);
    let script = "cat /sys/class/block/vda/ro
        dd if=/dev/xvda bs=512 count=1 2>/dev/null | wc -c
        echo 0 > /sys/class/block/vda/ro 2>/dev/null
        echo x 2>/dev/null >/dev/xvda || echo refused";
    bench
        .sh_with([option(&image, ":/dev/xvda:r")], script)
        .outcome()
        .prints("1\n512\nrefused\n");
    assert!(fs::read(&image).unwrap() == pattern(MIB));
}

#[test]
fn a_block_device_of_the_host_keeps_its_name_and_its_owner() {
    let bench = Bench::new();
    let dir = TempDir::new();
    let image = image(&dir, "disk.img", MIB);
    let device = Loop::on(&image);
    let node = device.0.display().to_string();
    let script = format!(
        "stat -c '%F %a' {node}; printf hello | dd of={node} conv=notrunc,fsync 2>/dev/null"
    );
    let mode = Command::new("stat")
        .args(["-c", "%a"])
        .arg(&device.0)
        .output();
    let mode = String::from_utf8_lossy(&mode.unwrap().stdout).into_owned();
    bench
        .sh_with([option(&device.0, "")], &script)
        .outcome()
        .prints(&format!("block special file {mode}"));
    let mut start = [0; 5];
    File::open(&device.0)
        .unwrap()
        .read_exact_at(&mut start, 0)
        .unwrap();
    assert_eq!(&start, b"hello");
}

#[test]
fn several_disks_have_each_their_own() {
    let bench = Bench::new();
    let dir = TempDir::new();
    let sizes = [1, 2, 3, 5, 8];
    let mut options = Vec::new();
    for size in sizes {
        let image = image(&dir, &format!("{size}.img"), size * MIB);
        options.push(option(&image, &format!(":/dev/disk{size}")));
    }
    let script = "for size in 1 2 3 5 8; do
        [ $(dd if=/dev/disk$size bs=1M 2>/dev/null | wc -c) = $((size << 20)) ] || exit 1
        printf $size | dd of=/dev/disk$size conv=notrunc,fsync 2>/dev/null
    done; echo all";
    bench.sh_with(options, script).outcome().prints("all\n");
    for size in sizes {
        let image = fs::read(dir.join(&format!("{size}.img"))).unwrap();
        assert_eq!(image[0], b'0' + size as u8, "{size}");
        assert_eq!(image.len(), size * MIB);
    }
}

#[test]
fn a_disk_can_be_cleared_and_its_room_goes_back() {
    use std::os::unix::fs::MetadataExt;
    let bench = Bench::new();
    let dir = TempDir::new();
    let image = image(&dir, "disk.img", 4 * MIB);
    let room = || fs::metadata(&image).unwrap().blocks();
    let before = room();
    let script = "blkdiscard -o 1M -l 2M /dev/xvda && echo cleared";
    bench
        .sh_with([option(&image, ":/dev/xvda")], script)
        .outcome()
        .prints("cleared\n");
    let mut expected = pattern(4 * MIB);
    expected[MIB..3 * MIB].fill(0);
    assert!(fs::read(&image).unwrap() == expected);
    assert!(room() < before, "{before} blocks, then {}", room());
}

#[test]
fn a_container_that_is_started_again_finds_its_disk_again() {
    let bench = Bench::new();
    let dir = TempDir::new();
    let image = image(&dir, "disk.img", MIB);
    let pod = Pod::start(
        "e2e-block-again",
        &["--restart=on-failure", &option(&image, ":/dev/xvda")],
        "[ $(head -c 5 /dev/xvda) = again ] && { echo there; exec sleep 1000; }
         printf again | dd of=/dev/xvda conv=notrunc,fsync 2>/dev/null; exit 1",
    );
    pod.wait_for_log("there");
    let exec = ["exec", "e2e-block-again", "head", "-c", "5", "/dev/xvda"];
    podvmm_does(&exec).prints("again");
    drop((pod, bench));
}

#[test]
fn what_is_no_disk_is_refused() {
    let bench = Bench::new();
    let dir = TempDir::new();
    let empty = file(dir.path(), "empty", b"");
    for (device, words) in [
        ("/dev/null", &["--device", "choose another path"][..]),
        (
            "/dev/null:/dev/x",
            &["--device", "/dev/null", "character device"],
        ),
        ("/none", &["--device", "/none", "does not exist"]),
        (
            "/:/dev/x",
            &["--device", "neither a block device", "volume"],
        ),
        (empty.to_str().unwrap(), &["--device", "0 bytes"]),
    ] {
        bench
            .sh_with([format!("--device={device}")], "true")
            .outcome()
            .refused(words);
    }
    let many = (0..17).map(|n| option(&empty, &format!(":/dev/d{n}")));
    bench
        .sh_with(many, "true")
        .outcome()
        .refused(&["--device", "17", "at most 16"]);
}
