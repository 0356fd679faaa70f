//! Formats sizes, shapes and warnings for text output.

use indicatif::DecimalBytes;
use loader::Warning;
use std::io::Write;

/// Formats a byte count in a decimal unit, followed by the exact number: `1.50 kB (1500 bytes)`.
pub(super) fn bytes(count: u64) -> String {
    format!("{} ({count} bytes)", DecimalBytes(count))
}

/// Formats a shape as `[rows, cols]`.
pub(super) fn shape(dims: &[u64]) -> String {
    let dims: Vec<_> = dims.iter().map(ToString::to_string).collect();
    format!("[{}]", dims.join(", "))
}

pub(super) fn write_warnings(out: &mut dyn Write, warnings: &[Warning]) -> std::io::Result<()> {
    for warning in warnings {
        writeln!(out, "warning   {}: {warning}", warning.code())?;
        writeln!(out, "          help: {}", warning.help())?;
    }
    Ok(())
}
