//! The receive queue: packets from the host into buffers of the guest.

use super::buffers::GuestBuffers;
use super::config::GuestCid;
use super::connection::Connection;
use super::device::VsockFault;
use super::spec::{HEADER_SIZE, Header, Op};
use super::stream::Stream;
use crate::Memory;
use crate::queue::{ActiveQueue, Chain, ChainWriter};

/// Most buffers that one system call fills. Linux offers buffers of under 4 KiB, so without this a
/// stream would cost a call for each of them.
pub const MAX_BATCH: usize = 32;

/// What became of an attempt to deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The packet is on the used ring, or there was nothing to deliver after all.
    Done,
    /// The guest offers no buffer; its next one rings the doorbell.
    Starved,
}

pub struct Rx {
    pub queue: ActiveQueue,
    memory: Memory,
    chains: Vec<Chain>,
    /// Whether the driver rings for its next buffer: only while there is none.
    is_doorbell_on: bool,
}

impl Rx {
    pub fn new(queue: ActiveQueue) -> Self {
        Self {
            memory: Memory::clone(queue.memory()),
            queue,
            chains: (0..MAX_BATCH).map(|_| Chain::new()).collect(),
            is_doorbell_on: false,
        }
    }

    /// Delivers a packet without data. `header` is called when there is a buffer for it.
    pub fn control(&mut self, header: impl FnOnce() -> Header) -> Result<Delivery, VsockFault> {
        if self.pop(1, u32::MAX)? == 0 {
            return Ok(Delivery::Starved);
        }
        let chain = &self.chains[0];
        let head = chain.head();
        // `pop` has checked that it fits.
        let _ = chain.writer(&self.memory).write_obj(&header());
        self.queue.push_used(head, HEADER_SIZE as u32)?;
        Ok(Delivery::Done)
    }

    /// Delivers up to `limit` bytes of what the stream of `connection` has, into up to `batch`
    /// buffers.
    pub fn data<S: Stream>(
        &mut self,
        connection: &mut Connection<S>,
        guest: GuestCid,
        limit: u32,
        batch: usize,
    ) -> Result<Delivery, VsockFault> {
        let count = self.pop(batch.min(MAX_BATCH), limit)?;
        if count == 0 {
            return Ok(Delivery::Starved);
        }
        let received = {
            let mut room = GuestBuffers::new();
            let mut left = limit as usize;
            for chain in &self.chains[..count] {
                let mut writer = payload(chain, &self.memory)?;
                while left > 0
                    && !room.is_full()
                    && let Some(slice) = writer.next_slice(left)
                {
                    left -= slice.len();
                    room.push(slice);
                }
            }
            connection.receive(&room)
        };
        let mut left = received;
        let mut used = 0;
        while left > 0 && used < count {
            let chain = &self.chains[used];
            let len = payload(chain, &self.memory)?.available().min(left);
            let header = connection.header(guest, Op::Rw, 0, len as u32);
            let head = chain.head();
            let _ = chain.writer(&self.memory).write_obj(&header);
            self.queue.push_used(head, (HEADER_SIZE + len) as u32)?;
            left -= len;
            used += 1;
        }
        self.queue.unpop((count - used) as u16);
        Ok(Delivery::Done)
    }

    /// Takes up to `batch` buffers, no more than `limit` bytes need.
    fn pop(&mut self, batch: usize, limit: u32) -> Result<usize, VsockFault> {
        let mut count = 0;
        let mut room = 0;
        while count < batch && room < limit as usize {
            let chain = &mut self.chains[count];
            if self.queue.pop(chain)? {
                room += payload(chain, &self.memory)?.available();
                count += 1;
            } else if count > 0 || self.is_doorbell_on {
                break;
            } else {
                // Looked at once more behind this, so that no buffer is missed.
                self.is_doorbell_on = true;
                if !self.queue.enable_kicks()? {
                    break;
                }
            }
        }
        if count > 0 && self.is_doorbell_on {
            self.is_doorbell_on = false;
            self.queue.disable_kicks()?;
        }
        Ok(count)
    }
}

/// The part of `chain` behind the header.
fn payload<'a>(chain: &'a Chain, memory: &'a Memory) -> Result<ChainWriter<'a>, VsockFault> {
    let mut writer = chain.writer(memory);
    let len = writer.available();
    if len <= HEADER_SIZE || !chain.readable().is_empty() {
        return Err(VsockFault::RxBuffer { len });
    }
    let _ = writer.split(HEADER_SIZE);
    Ok(writer)
}
