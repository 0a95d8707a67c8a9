//! The transmit queue: packets of the guest to the muxer, runs of data in one go.

use zerocopy::FromZeros;

use super::buffers::GuestBuffers;
use super::connection::Payload;
use super::device::VsockFault;
use super::muxer::{Muxer, Slot};
use super::packet;
use super::spec::{HEADER_SIZE, Header, Op};
use super::stream::Backend;
use crate::Memory;
use crate::queue::{ActiveQueue, Chain};

/// Most packets that go to a stream in one system call.
const MAX_RUN: usize = 16;
/// Most packets in one pass, so that other queues get their share.
const MAX_PASS: usize = 256;

pub struct Tx {
    pub queue: ActiveQueue,
    memory: Memory,
    chains: Vec<Chain>,
    lens: [u32; MAX_RUN],
}

/// Data packets in a row of one connection.
struct Run<'a> {
    memory: &'a Memory,
    chains: &'a [Chain],
    lens: &'a [u32],
}

impl Tx {
    pub fn new(queue: ActiveQueue) -> Self {
        Self {
            memory: Memory::clone(queue.memory()),
            queue,
            // One more than a run: the packet that ends it.
            chains: (0..=MAX_RUN).map(|_| Chain::new()).collect(),
            lens: [0; MAX_RUN],
        }
    }

    /// Serves what is available; `true` if it stopped before the end of it.
    pub fn serve<B: Backend>(&mut self, muxer: &mut Muxer<B>) -> Result<bool, VsockFault> {
        self.queue.disable_kicks()?;
        let mut run: Option<(Slot, usize)> = None;
        for _ in 0..MAX_PASS {
            let count = run.map_or(0, |(_, count)| count);
            if !muxer.has_room() || !self.queue.pop(&mut self.chains[count])? {
                self.finish(muxer, run)?;
                return if muxer.has_room() {
                    Ok(self.queue.enable_kicks()?)
                } else {
                    Ok(true)
                };
            }
            let chain = &self.chains[count];
            let mut reader = chain.reader(&self.memory);
            let readable = reader.available();
            let mut header = Header::new_zeroed();
            reader
                .read_exact(zerocopy::IntoBytes::as_mut_bytes(&mut header))
                .map_err(|_| VsockFault::TxHeader { len: readable })?;
            let packet = packet::check(&header, readable, muxer.guest());
            if let (Ok(data), Some((slot, count))) = (&packet, run)
                && data.op == Op::Rw
                && count < MAX_RUN
                && muxer.is_of(slot, data.key)
            {
                if muxer.admit(data).is_some() {
                    self.lens[count] = data.len;
                    run = Some((slot, count + 1));
                    continue;
                }
                // The connection was reset by this packet: what came before it is lost with it.
                self.finish(muxer, run.take())?;
                self.queue.push_used(self.chains[count].head(), 0)?;
                continue;
            }
            self.finish(muxer, run.take())?;
            self.chains.swap(0, count);
            match packet {
                Ok(data) if data.op == Op::Rw => {
                    if let Some(slot) = muxer.admit(&data) {
                        self.lens[0] = data.len;
                        run = Some((slot, 1));
                        continue;
                    }
                }
                Ok(packet) => muxer.handle(&packet),
                Err(refusal) => muxer.refuse(refusal),
            }
            self.queue.push_used(self.chains[0].head(), 0)?;
        }
        self.finish(muxer, run)?;
        Ok(true)
    }

    /// Sends a run and gives its chains back.
    fn finish<B: Backend>(
        &mut self,
        muxer: &mut Muxer<B>,
        run: Option<(Slot, usize)>,
    ) -> Result<(), VsockFault> {
        let Some((slot, count)) = run else {
            return Ok(());
        };
        let run = Run {
            memory: &self.memory,
            chains: &self.chains[..count],
            lens: &self.lens[..count],
        };
        muxer.send(slot, &run);
        for chain in &self.chains[..count] {
            self.queue.push_used(chain.head(), 0)?;
        }
        Ok(())
    }
}

impl Payload for Run<'_> {
    fn len(&self) -> usize {
        self.lens.iter().map(|len| *len as usize).sum()
    }

    fn buffers(&self, mut from: usize) -> GuestBuffers<'_> {
        let mut buffers = GuestBuffers::new();
        for (chain, len) in self.chains.iter().zip(self.lens) {
            let len = *len as usize;
            if from >= len {
                from -= len;
                continue;
            }
            let mut reader = chain.reader(self.memory);
            // `packet::check` has seen that the chain is long enough.
            let _ = reader.skip(HEADER_SIZE + from);
            let mut left = len - from;
            from = 0;
            while left > 0 {
                if buffers.is_full() {
                    return buffers;
                }
                let Some(slice) = reader.next_slice(left) else {
                    break;
                };
                left -= slice.len();
                buffers.push(slice);
            }
        }
        buffers
    }
}
