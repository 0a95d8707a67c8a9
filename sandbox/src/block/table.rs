//! Which disks the guest has.

use agent_protocol::proto::{AgentClient, AttachBlockRequest, DetachBlockRequest};

use super::{BlockError, BlockVolume, GuestBlock, Identity};
use crate::guest::call_context;
use crate::launch::VmmProcess;

/// The disks of a pod.
#[derive(Debug)]
pub(crate) struct Table {
    slots: u8,
    disks: Vec<Disk>,
    /// Disks so far, for their names.
    count: u64,
}

#[derive(Debug)]
struct Disk {
    name: String,
    identity: Identity,
    read_only: bool,
    address: u64,
    major: u32,
    minor: u32,
    /// How often it was given.
    users: u32,
}

/// What a disk is given to, and taken from.
pub(super) trait Guest {
    /// Puts it into the machine. Gives its address.
    fn plug(&self, id: String, volume: &BlockVolume) -> Result<u64, BlockError>;
    /// Has the guest's driver take it. Gives its numbers.
    fn attach(&self, volume: &str, address: u64) -> Result<(u32, u32), BlockError>;
    /// Has the driver let go of it.
    fn detach(&self, volume: &str, address: u64) -> Result<(), BlockError>;
    /// Takes it out of the machine.
    fn unplug(&self, volume: &str, address: u64) -> Result<(), BlockError>;
}

impl Table {
    pub(crate) fn new(slots: u8) -> Self {
        Self {
            slots,
            disks: Vec::new(),
            count: 0,
        }
    }

    pub(crate) fn add(
        &mut self,
        volume: &BlockVolume,
        vmm: &VmmProcess,
        agent: &AgentClient,
    ) -> Result<GuestBlock, BlockError> {
        self.give(volume, &Live { vmm, agent })
    }

    pub(crate) fn remove(
        &mut self,
        block: GuestBlock,
        vmm: &VmmProcess,
        agent: &AgentClient,
    ) -> Result<(), BlockError> {
        self.take(block, &Live { vmm, agent })
    }

    fn give(&mut self, volume: &BlockVolume, guest: &impl Guest) -> Result<GuestBlock, BlockError> {
        let is_same =
            |disk: &Disk| disk.identity == volume.identity && disk.read_only == volume.read_only;
        if let Some(disk) = self.disks.iter_mut().find(|disk| is_same(disk)) {
            disk.users += 1;
            return Ok(disk.block());
        }
        if self.disks.len() >= usize::from(self.slots) {
            return Err(BlockError::TooMany {
                volume: volume.name.clone(),
                slots: self.slots,
            });
        }
        self.count += 1;
        let address = guest.plug(format!("block-{}", self.count), volume)?;
        let attached = guest.attach(&volume.name, address);
        let (major, minor) = attached.inspect_err(|_| {
            // The first error is the one that counts.
            let _ = guest.unplug(&volume.name, address);
        })?;
        let disk = Disk {
            name: volume.name.clone(),
            identity: volume.identity,
            read_only: volume.read_only,
            address,
            major,
            minor,
            users: 1,
        };
        let block = disk.block();
        self.disks.push(disk);
        Ok(block)
    }

    fn take(&mut self, block: GuestBlock, guest: &impl Guest) -> Result<(), BlockError> {
        let found = |disk: &Disk| disk.address == block.address;
        let Some(index) = self.disks.iter().position(found) else {
            return Ok(());
        };
        self.disks[index].users -= 1;
        if self.disks[index].users > 0 {
            return Ok(());
        }
        let disk = self.disks.swap_remove(index);
        let detached = guest.detach(&disk.name, disk.address);
        guest.unplug(&disk.name, disk.address)?;
        detached
    }
}

impl Disk {
    fn block(&self) -> GuestBlock {
        GuestBlock::new(self.major, self.minor, self.address)
    }
}

struct Live<'a> {
    vmm: &'a VmmProcess,
    agent: &'a AgentClient,
}

impl Guest for Live<'_> {
    fn plug(&self, id: String, volume: &BlockVolume) -> Result<u64, BlockError> {
        let plugged = self.vmm.add_block(id, volume);
        plugged.map_err(|message| BlockError::Vmm {
            volume: volume.name.clone(),
            message,
        })
    }

    fn attach(&self, volume: &str, address: u64) -> Result<(u32, u32), BlockError> {
        let request = AttachBlockRequest {
            address,
            ..Default::default()
        };
        let attached = self.agent.attach_block(call_context(), &request);
        let disk = attached.map_err(|source| BlockError::Agent {
            volume: volume.to_owned(),
            call: "AttachBlock",
            source,
        })?;
        log::debug!("{volume} is {} in the guest", disk.name);
        Ok((disk.major, disk.minor))
    }

    fn detach(&self, volume: &str, address: u64) -> Result<(), BlockError> {
        let request = DetachBlockRequest {
            address,
            ..Default::default()
        };
        let detached = self.agent.detach_block(call_context(), &request);
        detached.map(drop).map_err(|source| BlockError::Agent {
            volume: volume.to_owned(),
            call: "DetachBlock",
            source,
        })
    }

    fn unplug(&self, volume: &str, address: u64) -> Result<(), BlockError> {
        let unplugged = self.vmm.remove_block(address);
        unplugged.map_err(|message| BlockError::Vmm {
            volume: volume.to_owned(),
            message,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::path::PathBuf;

    use super::*;

    /// A guest that writes down what happens.
    #[derive(Default)]
    struct Recorder {
        told: RefCell<Vec<String>>,
        fails: Option<&'static str>,
    }

    impl Recorder {
        fn tell(&self, what: &'static str, text: String) -> Result<(), BlockError> {
            self.told.borrow_mut().push(format!("{what} {text}"));
            if self.fails == Some(what) {
                return Err(BlockError::Vmm {
                    volume: text,
                    message: what.to_owned(),
                });
            }
            Ok(())
        }

        fn told(&self) -> Vec<String> {
            self.told.take()
        }
    }

    impl Guest for Recorder {
        fn plug(&self, id: String, _: &BlockVolume) -> Result<u64, BlockError> {
            let number = id.trim_start_matches("block-").parse().unwrap();
            self.tell("plug", id).map(|()| number)
        }

        fn attach(&self, _: &str, address: u64) -> Result<(u32, u32), BlockError> {
            let numbers = (254, 16 * address as u32);
            self.tell("attach", address.to_string()).map(|()| numbers)
        }

        fn detach(&self, _: &str, address: u64) -> Result<(), BlockError> {
            self.tell("detach", address.to_string())
        }

        fn unplug(&self, _: &str, address: u64) -> Result<(), BlockError> {
            self.tell("unplug", address.to_string())
        }
    }

    struct Image(PathBuf);

    impl Image {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("podvmm-{name}-{}", std::process::id()));
            std::fs::write(&path, [0; 512]).unwrap();
            Self(path)
        }

        fn volume(&self, read_only: bool) -> BlockVolume {
            BlockVolume::open("--device", &self.0, read_only).unwrap()
        }
    }

    impl Drop for Image {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn one_disk_serves_all_that_name_it_until_the_last_has_gone() {
        let (image, guest) = (Image::new("table-same"), Recorder::default());
        let mut table = Table::new(4);
        let first = table.give(&image.volume(false), &guest).unwrap();
        let second = table.give(&image.volume(false), &guest).unwrap();
        assert_eq!(first, second);
        assert_eq!((first.major, first.minor), (254, 16));
        assert_eq!(guest.told(), ["plug block-1", "attach 1"]);
        table.take(first, &guest).unwrap();
        assert!(guest.told().is_empty());
        table.take(second, &guest).unwrap();
        assert_eq!(guest.told(), ["detach 1", "unplug 1"]);
    }

    #[test]
    fn who_may_only_read_has_a_disk_of_its_own() {
        let (image, guest) = (Image::new("table-access"), Recorder::default());
        let mut table = Table::new(4);
        let writer = table.give(&image.volume(false), &guest).unwrap();
        let reader = table.give(&image.volume(true), &guest).unwrap();
        assert_ne!(writer, reader);
    }

    #[test]
    fn there_are_as_many_as_there_are_slots() {
        let images = ["table-a", "table-b"].map(Image::new);
        let guest = Recorder::default();
        let mut table = Table::new(1);
        let only = table.give(&images[0].volume(false), &guest).unwrap();
        let refused = table.give(&images[1].volume(false), &guest).unwrap_err();
        assert!(matches!(refused, BlockError::TooMany { slots: 1, .. }));
        table.take(only, &guest).unwrap();
        table.give(&images[1].volume(false), &guest).unwrap();
    }

    #[test]
    fn what_the_guest_does_not_take_is_taken_out_again() {
        let image = Image::new("table-refused");
        let guest = Recorder {
            fails: Some("attach"),
            ..Recorder::default()
        };
        let mut table = Table::new(1);
        table.give(&image.volume(false), &guest).unwrap_err();
        assert_eq!(guest.told(), ["plug block-1", "attach 1", "unplug 1"]);
        table.give(&image.volume(false), &guest).unwrap_err();
        assert_eq!(guest.told().len(), 3, "the slot is free");
    }

    #[test]
    fn a_guest_that_does_not_let_go_loses_the_disk_all_the_same() {
        let image = Image::new("table-held");
        let guest = Recorder {
            fails: Some("detach"),
            ..Recorder::default()
        };
        let mut table = Table::new(1);
        let block = table.give(&image.volume(false), &guest).unwrap();
        guest.told();
        table.take(block, &guest).unwrap_err();
        assert_eq!(guest.told(), ["detach 1", "unplug 1"]);
        assert!(table.disks.is_empty());
    }
}
