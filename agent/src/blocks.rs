//! Disks that come and go while the guest runs.
//!
//! The kernel's command line names windows of registers that nothing is behind at first; their platform devices
//! have no driver. Once the VMM has put a disk there, the driver is bound to it, as it would have been at boot.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::rpc::Refusal;

const DRIVER: &str = "bus/platform/drivers/virtio-mmio";
/// Size, address, line and number of each window of the command line.
const WINDOWS: &str = "module/virtio_mmio/parameters/device";

/// Windows that disks come to, as the kernel's directory has them.
#[derive(Debug)]
pub(crate) struct Slots(PathBuf);

/// One of them: the name of its platform device.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Slot(String);

/// A disk, as this kernel has it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) name: String,
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl Slots {
    /// Those of the guest.
    pub(crate) fn of_guest() -> Self {
        Self(PathBuf::from("/sys"))
    }

    /// The one at `address`.
    pub(crate) fn at(&self, address: u64) -> Result<Slot, Refusal> {
        let all = fs::read_to_string(self.0.join(WINDOWS))
            .map_err(|error| Refusal::internal(format!("windows of devices: {error}")))?;
        let found = all.lines().find_map(|line| slot(line, address));
        found.ok_or_else(|| Refusal::not_found(format!("no device's window at {address:#x}")))
    }

    /// Has the driver take what is in the slot now. Returns when its disk is there.
    pub(crate) fn bind(&self, slot: &Slot) -> Result<(), String> {
        self.tell("bind", slot)?;
        self.disk(slot).map(drop).inspect_err(|_| {
            // What the host has there is no disk: nothing should be left that has it.
            let _ = self.tell("unbind", slot);
        })
    }

    /// Has the driver let go of it.
    pub(crate) fn unbind(&self, slot: &Slot) -> Result<(), String> {
        self.tell("unbind", slot)
    }

    /// The disk in the slot.
    pub(crate) fn disk(&self, Slot(slot): &Slot) -> Result<Disk, String> {
        let device = self.0.join("bus/platform/devices").join(slot);
        find_disk(&device).ok_or_else(|| format!("{slot}: its driver has made no disk of it"))
    }

    fn tell(&self, file: &str, Slot(slot): &Slot) -> Result<(), String> {
        let file = self.0.join(DRIVER).join(file);
        fs::write(&file, slot).map_err(|error| format!("{}: {slot}: {error}", file.display()))
    }
}

/// The slot in a line like `0x1000@0xd0004000:5:3`, if it is at `address`.
fn slot(line: &str, address: u64) -> Option<Slot> {
    let (_, place) = line.trim().split_once("@0x")?;
    let mut parts = place.split(':');
    let at = u64::from_str_radix(parts.next()?, 16).ok()?;
    let number: u32 = parts.nth(1)?.parse().ok()?;
    (at == address).then(|| Slot(format!("virtio-mmio.{number}")))
}

/// Looks for `virtio*/block/*/dev` below a platform device.
fn find_disk(device: &Path) -> Option<Disk> {
    let is_virtio = |path: &PathBuf| file_name(path).is_some_and(|name| name.starts_with("virtio"));
    let virtio = entries(device).ok()?.find(is_virtio)?;
    let disk = entries(&virtio.join("block")).ok()?.next()?;
    let numbers = fs::read_to_string(disk.join("dev")).ok()?;
    let (major, minor) = numbers.trim().split_once(':')?;
    Some(Disk {
        name: file_name(&disk)?,
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

fn entries(directory: &Path) -> io::Result<impl Iterator<Item = PathBuf>> {
    Ok(fs::read_dir(directory)?.flatten().map(|entry| entry.path()))
}

fn file_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory like the kernel's, with windows at 0xd0000000 and 0xd0001000.
    struct Fake(Slots);

    impl Fake {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("agent-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(dir.join("module/virtio_mmio/parameters")).unwrap();
            fs::create_dir_all(dir.join(DRIVER)).unwrap();
            let windows = "0x1000@0xd0000000:1:0\n0x1000@0xd0001000:5:1\n";
            fs::write(dir.join(WINDOWS), windows).unwrap();
            for file in ["bind", "unbind"] {
                fs::write(dir.join(DRIVER).join(file), "").unwrap();
            }
            Self(Slots(dir))
        }

        fn add_disk(&self, slot: &str, numbers: &str) {
            let slots = self.0.0.join("bus/platform/devices");
            let disk = slots.join(slot).join("virtio7/block/vdc");
            fs::create_dir_all(&disk).unwrap();
            fs::write(disk.join("dev"), numbers).unwrap();
        }

        fn told(&self, file: &str) -> String {
            fs::read_to_string(self.0.0.join(DRIVER).join(file)).unwrap()
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0.0);
        }
    }

    #[test]
    fn a_slot_is_found_by_its_address() {
        let fake = Fake::new("slots");
        assert_eq!(
            fake.0.at(0xd000_1000).unwrap(),
            Slot("virtio-mmio.1".into())
        );
        for nowhere in [0, 0xd000_0800, 0xd000_2000] {
            fake.0.at(nowhere).unwrap_err();
        }
        for nonsense in ["", "0x1000@d0000000:1:0", "0x1000@0xd0000000:1", "@0x:::"] {
            assert_eq!(slot(nonsense, 0xd000_0000), None, "{nonsense:?}");
        }
    }

    #[test]
    fn the_driver_is_told_and_its_disk_is_found() {
        let fake = Fake::new("disk");
        let slot = fake.0.at(0xd000_1000).unwrap();
        fake.add_disk("virtio-mmio.1", "254:32\n");
        fake.0.bind(&slot).unwrap();
        assert_eq!(fake.told("bind"), "virtio-mmio.1");
        assert_eq!(fake.told("unbind"), "");
        let disk = Disk {
            name: "vdc".into(),
            major: 254,
            minor: 32,
        };
        assert_eq!(fake.0.disk(&slot).unwrap(), disk);
        fake.0.unbind(&slot).unwrap();
        assert_eq!(fake.told("unbind"), "virtio-mmio.1");
    }

    #[test]
    fn what_makes_no_disk_is_let_go_of() {
        let fake = Fake::new("none");
        let slot = fake.0.at(0xd000_0000).unwrap();
        fake.add_disk("virtio-mmio.0", "nonsense");
        let message = fake.0.bind(&slot).unwrap_err();
        assert!(message.contains("no disk"), "{message}");
        assert_eq!(fake.told("unbind"), "virtio-mmio.0");
    }
}
