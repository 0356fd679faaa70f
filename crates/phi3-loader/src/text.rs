//! Formats sizes and shapes for text output.

use indicatif::DecimalBytes;

/// Formats a byte count in a decimal unit, followed by the exact number: `1.50 kB (1500 bytes)`.
pub(super) fn bytes(count: u64) -> String {
    format!("{} ({count} bytes)", DecimalBytes(count))
}

/// Formats a shape as `[rows, cols]`.
pub(super) fn shape(dims: &[u64]) -> String {
    let dims: Vec<_> = dims.iter().map(ToString::to_string).collect();
    format!("[{}]", dims.join(", "))
}
