//! Figures as people read them.

use indicatif::DecimalBytes;

/// A byte count with a unit of 1000s, and the exact figure.
pub(super) fn bytes(count: u64) -> String {
    format!("{} ({count} bytes)", DecimalBytes(count))
}

/// `[rows, cols]`.
pub(super) fn shape(dims: &[u64]) -> String {
    let dims: Vec<_> = dims.iter().map(ToString::to_string).collect();
    format!("[{}]", dims.join(", "))
}
