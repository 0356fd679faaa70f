//! The alignment of tensor data.

/// The alignment of files that do not state one, in bytes.
pub(crate) const DEFAULT_ALIGNMENT: u32 = 32;

/// The key that states the alignment.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";

/// Returns the next multiple of `alignment`, or `u64::MAX` if it exceeds 64 bits, which no file can reach.
pub(crate) fn padded(offset: u64, alignment: u64) -> u64 {
    offset.checked_next_multiple_of(alignment).unwrap_or(u64::MAX)
}
