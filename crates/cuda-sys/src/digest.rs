//! Digests of byte ranges.

use crate::bridge::ffi;
use crate::error::Error;
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

/// What the host's digest makes of a piece that starts `offset` bytes into its range, once for every
/// instruction set that this processor runs: the one that the engine uses first. They agree, and
/// digests of pieces add up, modulo 2^64, to that of the range.
///
/// # Errors
///
/// [`ErrorCode::InvalidArgument`](crate::ErrorCode::InvalidArgument) where `offset` is no multiple of
/// 8, and [`ErrorCode::HostOutOfMemory`](crate::ErrorCode::HostOutOfMemory).
pub fn digest_piece_by_each_isa(bytes: &[u8], offset: u64) -> Result<Vec<Digest>, Error> {
    Ok(ffi::digest_piece_by_each(bytes, offset)?.into_iter().map(Digest::from).collect())
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.sum, self.mix)
    }
}
