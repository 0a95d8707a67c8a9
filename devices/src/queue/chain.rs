//! One descriptor chain, walked and checked whole.

use virtio_queue::DescriptorChain;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::{ChainReader, ChainWriter, QueueFault};

/// A run of guest memory that was checked to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest physical address.
    pub addr: GuestAddress,
    /// Length in bytes, never zero.
    pub len: u32,
}

/// The buffers of one request. Reused from request to request.
#[derive(Debug, Default)]
pub struct Chain {
    head: u16,
    readable: Vec<Segment>,
    writable: Vec<Segment>,
}

impl Chain {
    /// An empty chain to pop into.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What to hand to [`ActiveQueue::push_used`](super::ActiveQueue::push_used).
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Device-readable buffers in order.
    #[must_use]
    pub fn readable(&self) -> &[Segment] {
        &self.readable
    }

    /// Device-writable buffers in order.
    #[must_use]
    pub fn writable(&self) -> &[Segment] {
        &self.writable
    }

    /// A cursor over the device-readable bytes.
    #[must_use]
    pub fn reader<'a>(&'a self, memory: &'a GuestMemoryMmap) -> ChainReader<'a> {
        ChainReader::new(memory, &self.readable)
    }

    /// A cursor over the device-writable bytes.
    #[must_use]
    pub fn writer<'a>(&'a self, memory: &'a GuestMemoryMmap) -> ChainWriter<'a> {
        ChainWriter::new(memory, &self.writable)
    }

    /// Walks `descriptors` and takes their buffers.
    pub(super) fn fill(
        &mut self,
        queue: u16,
        memory: &GuestMemoryMmap,
        descriptors: DescriptorChain<&GuestMemoryMmap>,
    ) -> Result<(), QueueFault> {
        let head = descriptors.head_index();
        self.head = head;
        self.readable.clear();
        self.writable.clear();
        // The iterator ends silently on a loop, a bad index or a bad indirect table. All of those
        // leave the last descriptor that it gave with a promise of one more.
        let mut promised = true;
        for descriptor in descriptors {
            promised = descriptor.has_next();
            let (addr, len) = (descriptor.addr(), descriptor.len());
            if len == 0 {
                continue;
            }
            if addr.checked_add(u64::from(len)).is_none() || !memory.check_range(addr, len as usize)
            {
                return Err(QueueFault::BufferOutside {
                    queue,
                    addr: addr.raw_value(),
                    len,
                });
            }
            let segment = Segment { addr, len };
            if descriptor.is_write_only() {
                self.writable.push(segment);
            } else if self.writable.is_empty() {
                self.readable.push(segment);
            } else {
                return Err(QueueFault::Order { queue, head });
            }
        }
        if promised {
            return Err(QueueFault::BrokenChain { queue, head });
        }
        Ok(())
    }
}
