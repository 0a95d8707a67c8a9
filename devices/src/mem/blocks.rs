//! Which blocks of a region are plugged.

use std::ops::Range;

/// One bit per block. Ranges are the caller's to check; what is outside is not plugged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    bits: Vec<u64>,
    plugged: u64,
}

impl Blocks {
    const PER_WORD: usize = u64::BITS as usize;

    pub fn none_of(blocks: usize) -> Self {
        Self {
            bits: vec![0; blocks.div_ceil(Self::PER_WORD)],
            plugged: 0,
        }
    }

    /// How many are plugged.
    pub fn plugged(&self) -> u64 {
        self.plugged
    }

    pub fn is_plugged(&self, block: usize) -> bool {
        let word = self.bits.get(block / Self::PER_WORD);
        word.is_some_and(|word| word >> (block % Self::PER_WORD) & 1 != 0)
    }

    /// How many of `range` are plugged.
    pub fn plugged_in(&self, range: Range<usize>) -> usize {
        range.filter(|block| self.is_plugged(*block)).count()
    }

    pub fn set(&mut self, range: Range<usize>, plugged: bool) {
        for block in range {
            let was = self.is_plugged(block);
            if was != plugged
                && let Some(word) = self.bits.get_mut(block / Self::PER_WORD)
            {
                *word ^= 1 << (block % Self::PER_WORD);
                self.plugged = if was {
                    self.plugged - 1
                } else {
                    self.plugged + 1
                };
            }
        }
    }

    /// Runs of blocks that are plugged.
    pub fn runs(&self) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        let all = 0..self.bits.len() * Self::PER_WORD;
        for block in all.filter(|block| self.is_plugged(*block)) {
            match runs.last_mut() {
                Some(run) if run.end == block => run.end += 1,
                _ => runs.push(block..block + 1),
            }
        }
        runs
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        self.bits
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }

    /// Of `blocks` blocks; `None` unless it is as long as that, with no bit set behind the last.
    pub fn from_bytes(bytes: &[u8], blocks: usize) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        let mut read = Self::none_of(blocks);
        if !rest.is_empty() || words.len() != read.bits.len() {
            return None;
        }
        read.bits = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let all = read.bits.len() * Self::PER_WORD;
        if read.plugged_in(blocks..all) > 0 {
            return None;
        }
        read.plugged = read.plugged_in(0..blocks) as u64;
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_over_the_borders_of_words() {
        let mut blocks = Blocks::none_of(130);
        blocks.set(60..70, true);
        blocks.set(65..129, true);
        assert_eq!(blocks.plugged(), 69);
        assert_eq!(blocks.plugged_in(0..62), 2);
        blocks.set(62..63, false);
        blocks.set(62..63, false);
        assert_eq!(blocks.plugged(), 68);
        assert_eq!(blocks.runs(), [60..62, 63..129]);
        assert!(!blocks.is_plugged(usize::MAX));
    }

    #[test]
    fn case_21_only_bits_of_blocks_are_read() {
        let mut blocks = Blocks::none_of(70);
        blocks.set(3..70, true);
        let bytes = blocks.to_bytes();
        assert_eq!(Blocks::from_bytes(&bytes, 70), Some(blocks));
        assert_eq!(Blocks::from_bytes(&bytes, 69), None);
        assert_eq!(Blocks::from_bytes(&bytes, 64), None);
        assert_eq!(Blocks::from_bytes(&bytes, 129), None);
        assert_eq!(Blocks::from_bytes(&bytes[1..], 70), None);
    }
}
