//! A device's configuration space as its driver reads it (virtio-v1.2 §4.2.2, from offset 0x100).

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::mirror::Mirror;
use super::registers as reg;

/// The bytes, with the number that tells a driver that they have changed while it read them.
#[derive(Debug, Default)]
pub(super) struct ConfigSpace(Mutex<Space>);

#[derive(Debug, Default)]
struct Space {
    bytes: Vec<u8>,
    generation: u32,
    mirror: Option<Mirror>,
}

impl ConfigSpace {
    pub fn new(bytes: &[u8]) -> Self {
        Self(Mutex::new(Space {
            bytes: bytes.to_vec(),
            ..Space::default()
        }))
    }

    /// Keeps the bytes in `mirror` as well, from now on.
    pub fn mirror(&self, mirror: Mirror) {
        let mut space = self.lock();
        mirror.write(reg::CONFIG, &space.bytes);
        mirror.store(reg::CONFIG_GENERATION, space.generation);
        space.mirror = Some(mirror);
    }

    /// Copies what is there from `offset` on; nothing past the end.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        if let Some(from) = self.lock().bytes.get(start..) {
            let len = from.len().min(data.len());
            data[..len].copy_from_slice(&from[..len]);
        }
    }

    pub fn generation(&self) -> u32 {
        self.lock().generation
    }

    /// Puts other bytes in the place of those that are there.
    ///
    /// A driver that reads a mirror while it is written can meet old and new bytes under one number. It
    /// hears of the change after that, and reads again.
    pub fn set(&self, bytes: &[u8]) {
        let mut space = self.lock();
        if space.bytes == bytes {
            return;
        }
        space.bytes = bytes.to_vec();
        for _ in 0..2 {
            space.generation = space.generation.wrapping_add(1);
            if let Some(mirror) = &space.mirror {
                mirror.store(reg::CONFIG_GENERATION, space.generation);
                mirror.write(reg::CONFIG, &space.bytes);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Space> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_has_another_generation_and_no_change_has_none() {
        let space = ConfigSpace::new(&[1, 2, 3, 4]);
        let before = space.generation();
        space.set(&[1, 2, 3, 4]);
        assert_eq!(space.generation(), before);
        space.set(&[1, 2, 3, 5]);
        assert_ne!(space.generation(), before);
        let mut read = [0; 4];
        space.read(2, &mut read);
        assert_eq!(read, [3, 5, 0, 0]);
        space.read(u64::MAX, &mut read);
        assert_eq!(read, [3, 5, 0, 0], "nothing is there");
    }
}
