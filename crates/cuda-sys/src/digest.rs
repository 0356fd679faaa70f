//! Digests of byte ranges.

use crate::bridge::ffi;
use std::fmt;

/// A 128-bit digest of a byte range: finds bad memory, bad copies and misplaced pieces, and is no
/// guard against an adversary. `cuda/include/transfer/digest.hpp` defines it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Digest {
    /// Sum of all words; every change of a single word changes it.
    pub sum: u64,
    /// Sum of products of keyed words; depends on where words stand.
    pub mix: u64,
}

impl From<ffi::Digest> for Digest {
    fn from(digest: ffi::Digest) -> Self {
        Self { sum: digest.sum, mix: digest.mix }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.sum, self.mix)
    }
}
