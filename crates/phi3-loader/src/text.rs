//! Formats sizes, shapes, parts of models and warnings for text output.

use indicatif::DecimalBytes;
use loader::Warning;
use model_phi3::{PlacedSlot, Slot, SplitMode};
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

/// Says which part of a model a device holds: `embedding, layers 0 to 15`.
pub(super) fn held(slots: &[PlacedSlot], mode: SplitMode) -> String {
    let has = |slot: Slot| slots.iter().any(|held| held.planned.slot == slot);
    let layers = slots.iter().filter_map(|held| held.planned.slot.layer());
    let layers = layers.clone().min().zip(layers.max());
    let parts = match mode {
        SplitMode::Layer => [
            has(Slot::TokenEmbedding).then(|| "embedding".to_owned()),
            layers.map(|(first, last)| span("layer", first, u64::from(last))),
            has(Slot::Output).then(|| "output".to_owned()),
        ],
        SplitMode::Tensor => {
            let heads = slots.iter().find_map(|held| held.heads);
            let embedding = slots.iter().find(|held| held.planned.slot == Slot::TokenEmbedding);
            let of = |what, first: u32, count: u32| {
                span(what, first, u64::from(first) + u64::from(count) - 1)
            };
            [
                heads.map(|heads| of("query head", heads.first_head, heads.heads)),
                heads.map(|heads| of("key-value head", heads.first_kv_head, heads.kv_heads)),
                embedding.map(|held| span("vocabulary row", held.rows.start, held.rows.end - 1)),
            ]
        }
        _ => [Some("everything".to_owned()), None, None],
    };
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

/// Formats a range of numbered things, both ends included.
fn span(what: &str, first: impl Into<u64>, last: u64) -> String {
    match first.into() {
        first if first == last => format!("{what} {first}"),
        first => format!("{what}s {first} to {last}"),
    }
}

pub(super) fn write_warnings(out: &mut dyn Write, warnings: &[Warning]) -> std::io::Result<()> {
    for warning in warnings {
        writeln!(out, "warning   {}: {warning}", warning.code())?;
        writeln!(out, "          help: {}", warning.help())?;
    }
    Ok(())
}
