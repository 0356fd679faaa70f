//! Text forms of numbers, for people.

use indicatif::DecimalBytes;

/// A byte count in a unit of powers of 1000, and the exact number.
pub(super) fn bytes(count: u64) -> String {
    format!("{} ({count} bytes)", DecimalBytes(count))
}

/// Formats a shape as `[rows, cols]`.
pub(super) fn shape(dims: &[u64]) -> String {
    let dims: Vec<_> = dims.iter().map(ToString::to_string).collect();
    format!("[{}]", dims.join(", "))
}
