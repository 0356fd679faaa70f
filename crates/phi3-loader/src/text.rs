//! Formats sizes, shapes, parts of models and warnings for text output.

use super::color::Palette;
use indicatif::{BinaryBytes, DecimalBytes};
use loader::Warning;
use model_phi3::{PlacedSlot, Slot, SplitMode};
use std::io::Write;

/// Formats a number of things: `1 tensor`, `2 tensors`.
pub(super) fn counted(count: impl TryInto<u64>, noun: &str) -> String {
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    }
}

/// Formats a byte count in a decimal unit, followed by the exact number: `1.50 kB (1500 bytes)`.
pub(super) fn bytes(count: u64) -> String {
    match count {
        0..1000 => counted(count, "byte"),
        _ => format!("{} ({count} bytes)", DecimalBytes(count)),
    }
}

/// Formats a size of device memory also in the binary unit of tools for GPUs: `1.50 GB (1.40 GiB, 1500000000 bytes)`.
pub(super) fn memory_bytes(count: u64) -> String {
    match count {
        0..1024 => bytes(count),
        _ => format!("{} ({}, {count} bytes)", DecimalBytes(count), BinaryBytes(count)),
    }
}

/// Formats a number of parameters: `3.82 billion parameters (3821079552)`.
pub(super) fn parameters(count: u128) -> String {
    let units = [(1e12, "trillion"), (1e9, "billion"), (1e6, "million")];
    match units.into_iter().find(|(size, _)| count as f64 >= *size) {
        Some((size, unit)) => format!("{:.2} {unit} parameters ({count})", count as f64 / size),
        None => format!("{count} parameters"),
    }
}

/// Formats a size of device memory in both units, without the exact number: `1.50 GB (1.40 GiB)`.
pub(super) fn memory_size(count: u64) -> String {
    match count {
        0..1024 => bytes(count),
        _ => format!("{} ({})", DecimalBytes(count), BinaryBytes(count)),
    }
}

/// Returns the word for the memory of devices with these names, as `--device` takes them.
pub(super) fn memory_word(devices: impl IntoIterator<Item: ToString>) -> &'static str {
    let all_gpus = devices.into_iter().all(|device| device.to_string().starts_with("cuda"));
    if all_gpus { "VRAM" } else { "memory" }
}

/// Formats a rate in a decimal unit: `5.99 GB/s`, `12.30 MB/s`.
pub(super) fn rate(gb_per_s: f64) -> String {
    format!("{}/s", DecimalBytes((gb_per_s * 1e9) as u64))
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
    let Palette { warning: tint, help, .. } = Palette::stdout();
    for warning in warnings {
        writeln!(out, "{tint}warning{tint:#}   {}: {warning}", warning.code())?;
        writeln!(out, "          {help}help{help:#}: {}", warning.help())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_memory_have_a_decimal_and_a_binary_unit() {
        assert_eq!(memory_bytes(7_642_159_104), "7.64 GB (7.12 GiB, 7642159104 bytes)");
        assert_eq!(memory_bytes(1023), "1.02 kB (1023 bytes)");
        assert_eq!(memory_bytes(0), "0 bytes");
        assert_eq!(memory_bytes(1), "1 byte");
    }

    #[test]
    fn a_number_of_parameters_has_a_short_and_an_exact_form() {
        assert_eq!(parameters(3_821_079_552), "3.82 billion parameters (3821079552)");
        assert_eq!(parameters(1_580_000), "1.58 million parameters (1580000)");
        assert_eq!(parameters(999), "999 parameters");
    }

    #[test]
    fn the_memory_of_gpus_alone_is_vram() {
        assert_eq!(memory_word(["cuda:0", "cuda:1"]), "VRAM");
        assert_eq!(memory_word(["host"]), "memory");
        assert_eq!(memory_word(["cuda:0", "host"]), "memory");
    }

    #[test]
    fn a_rate_has_a_unit_that_fits() {
        assert_eq!(rate(5.994), "5.99 GB/s");
        assert_eq!(rate(0.0123), "12.30 MB/s");
        assert_eq!(rate(0.0), "0 B/s");
    }
}
