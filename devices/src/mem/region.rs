//! What a driver may plug and unplug: the rules of virtio-v1.2 §5.15.6, without a queue.

use std::ops::Range;

use zerocopy::IntoBytes;

use super::blocks::Blocks;
use super::config::{BLOCK, MemRegion};
use super::spec::{
    Config, REQ_PLUG, REQ_STATE, REQ_UNPLUG, REQ_UNPLUG_ALL, RESP_ACK, RESP_BUSY, RESP_ERROR,
    RESP_NACK, Request, STATE_MIXED, STATE_PLUGGED, STATE_UNPLUGGED,
};

/// A region and what has become of it.
#[derive(Clone, Debug)]
pub(super) struct Region {
    layout: MemRegion,
    blocks: Blocks,
    requested: u64,
    /// Never less than what it was, but for `UNPLUG_ALL`: a driver believes in it.
    usable: u64,
    /// Pieces that are there for the guest.
    provided: Vec<bool>,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub response: u16,
    /// Which `STATE_…`; 0 in answer to everything else.
    pub state: u16,
    /// Guest physical ranges (start, bytes) that go back to the host.
    pub given_back: Vec<(u64, u64)>,
}

impl Outcome {
    fn of(response: u16) -> Self {
        Self {
            response,
            state: 0,
            given_back: Vec::new(),
        }
    }
}

impl Region {
    pub fn new(layout: MemRegion) -> Self {
        Self {
            layout,
            blocks: Blocks::none_of(layout.blocks()),
            requested: 0,
            usable: 0,
            provided: vec![false; layout.pieces()],
        }
    }

    pub fn layout(&self) -> MemRegion {
        self.layout
    }

    pub fn requested(&self) -> u64 {
        self.requested
    }

    pub fn plugged(&self) -> u64 {
        self.blocks.plugged() * BLOCK
    }

    pub fn usable(&self) -> u64 {
        self.usable
    }

    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// The configuration space.
    pub fn config(&self) -> Vec<u8> {
        let config = Config {
            block_size: BLOCK.into(),
            node_id: 0.into(),
            padding: [0; 6],
            addr: self.layout.start().into(),
            region_size: self.layout.size().into(),
            usable_region_size: self.usable.into(),
            plugged_size: self.plugged().into(),
            requested_size: self.requested.into(),
        };
        config.as_bytes().to_vec()
    }

    /// The host wants so many bytes to be plugged, rounded down to blocks, and at most the region.
    pub fn request(&mut self, bytes: u64) {
        self.requested = bytes.min(self.layout.size()) / BLOCK * BLOCK;
        self.usable = self.usable.max(self.usable_for_requested());
    }

    /// As far as the last piece that the requested size reaches into.
    fn usable_for_requested(&self) -> u64 {
        self.requested.next_multiple_of(self.layout.piece())
    }

    /// These pieces are there for the guest from now on.
    pub fn provide(&mut self, pieces: Range<usize>) {
        for piece in pieces {
            if let Some(provided) = self.provided.get_mut(piece) {
                *provided = true;
            }
        }
    }

    /// Pieces behind the requested size in which nothing is plugged; nothing can be from now on.
    pub fn withdraw(&mut self) -> Vec<usize> {
        let surplus: Vec<_> = self.surplus().collect();
        for piece in &surplus {
            if let Some(provided) = self.provided.get_mut(*piece) {
                *provided = false;
            }
        }
        surplus
    }

    /// What [`withdraw`](Self::withdraw) would find.
    pub fn surplus(&self) -> impl Iterator<Item = usize> {
        let first = (self.usable_for_requested() / self.layout.piece()) as usize;
        let pieces = self.provided.iter().enumerate().skip(first);
        pieces.filter_map(|(piece, provided)| {
            let blocks = self.layout.blocks_of_piece(piece);
            (*provided && self.blocks.plugged_in(blocks) == 0).then_some(piece)
        })
    }

    /// Takes over what was plugged in a saved region of the same layout. `false` if it does not fit.
    pub fn restore(&mut self, blocks: Blocks, usable: u64) -> bool {
        let fits = usable <= self.layout.size()
            && usable.is_multiple_of(self.layout.piece())
            && blocks
                .runs()
                .into_iter()
                .all(|run| run.end as u64 * BLOCK <= usable && self.are_provided(&run));
        if fits {
            self.blocks = blocks;
            self.usable = usable.max(self.usable);
        }
        fits
    }

    pub fn serve(&mut self, request: &Request) -> Outcome {
        match request.kind.get() {
            REQ_PLUG => self.plug(request),
            REQ_UNPLUG => self.unplug(request),
            REQ_UNPLUG_ALL => self.unplug_all(),
            REQ_STATE => self.state(request),
            _ => Outcome::of(RESP_ERROR),
        }
    }

    /// The blocks that a request is about; `None` if they are not all usable ones.
    fn range(&self, request: &Request) -> Option<Range<usize>> {
        let count = u64::from(request.blocks.get());
        let offset = request.addr.get().checked_sub(self.layout.start())?;
        let end = offset.checked_add(count * BLOCK)?;
        if count == 0 || !offset.is_multiple_of(BLOCK) || end > self.usable {
            return None;
        }
        Some((offset / BLOCK) as usize..(end / BLOCK) as usize)
    }

    fn are_provided(&self, blocks: &Range<usize>) -> bool {
        let per_piece = self.layout.blocks_of_piece(0).end;
        let mut pieces = blocks.start / per_piece..blocks.end.div_ceil(per_piece);
        pieces.all(|piece| self.provided.get(piece) == Some(&true))
    }

    fn plug(&mut self, request: &Request) -> Outcome {
        let Some(range) = self.range(request) else {
            return Outcome::of(RESP_ERROR);
        };
        if self.blocks.plugged_in(range.clone()) > 0 {
            return Outcome::of(RESP_ERROR);
        }
        if self.plugged() + range.len() as u64 * BLOCK > self.requested {
            return Outcome::of(RESP_NACK);
        }
        if !self.are_provided(&range) {
            return Outcome::of(RESP_BUSY);
        }
        self.blocks.set(range, true);
        Outcome::of(RESP_ACK)
    }

    fn unplug(&mut self, request: &Request) -> Outcome {
        let Some(range) = self.range(request) else {
            return Outcome::of(RESP_ERROR);
        };
        if self.blocks.plugged_in(range.clone()) < range.len() {
            return Outcome::of(RESP_ERROR);
        }
        self.blocks.set(range.clone(), false);
        Outcome {
            given_back: vec![self.bytes(&range)],
            ..Outcome::of(RESP_ACK)
        }
    }

    fn unplug_all(&mut self) -> Outcome {
        let runs = self.blocks.runs();
        self.blocks = Blocks::none_of(self.layout.blocks());
        self.usable = self.usable_for_requested();
        Outcome {
            given_back: runs.iter().map(|run| self.bytes(run)).collect(),
            ..Outcome::of(RESP_ACK)
        }
    }

    fn state(&self, request: &Request) -> Outcome {
        let Some(range) = self.range(request) else {
            return Outcome::of(RESP_ERROR);
        };
        let plugged = self.blocks.plugged_in(range.clone());
        let state = if plugged == range.len() {
            STATE_PLUGGED
        } else if plugged == 0 {
            STATE_UNPLUGGED
        } else {
            STATE_MIXED
        };
        Outcome {
            state,
            ..Outcome::of(RESP_ACK)
        }
    }

    fn bytes(&self, blocks: &Range<usize>) -> (u64, u64) {
        let start = self.layout.start() + blocks.start as u64 * BLOCK;
        (start, blocks.len() as u64 * BLOCK)
    }
}
