//! Random numbers for choices that need to be even, not secret.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};

/// A generator of one worker (SplitMix64).
pub(crate) struct Random(Cell<u64>);

impl Random {
    /// Seeded by the operating system.
    pub(crate) fn new() -> Self {
        Self(Cell::new(RandomState::new().build_hasher().finish()))
    }

    /// Uniform over all of `u64`.
    pub(crate) fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform over `0..bound`; 0 when `bound` is.
    pub(crate) fn below(&self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// Two different numbers below `bound`, which is at least 2.
    pub(crate) fn two_below(&self, bound: usize) -> (usize, usize) {
        let first = self.below(bound);
        let second = self.below(bound - 1);
        (first, if second < first { second } else { second + 1 })
    }
}
