//! The report of a model's configuration.

use super::text::counted;
use model_phi3::{Phi3Config, Rope, RopeScaling};
use std::io::Write;

pub(super) fn write_config(out: &mut dyn Write, config: &Phi3Config) -> std::io::Result<()> {
    let attention = config.attention();
    if let Some(name) = &config.name {
        writeln!(out, "model     {}", gguf_format::escape(name))?;
    }
    writeln!(
        out,
        "layout    {} architecture, {}, hidden {}, ffn {}, vocabulary {}{}",
        config.architecture,
        counted(config.layers, "layer"),
        config.hidden,
        config.ffn,
        config.vocab,
        if config.tied_output { ", tied output" } else { "" }
    )?;
    writeln!(
        out,
        "attention {}, {}, {}, head dimension {}",
        attention.kind(),
        counted(config.heads, "query head"),
        counted(config.kv_heads, "key/value head"),
        config.head_dim
    )?;
    write!(out, "context   {} tokens", config.context_length)?;
    if let Some(window) = config.sliding_window {
        write!(out, ", sliding window {window}")?;
    }
    writeln!(out, "\nrope      {}", rope_text(&config.rope))
}

/// Describes the rotary position embedding, and how positions beyond the original context are mapped.
fn rope_text(rope: &Rope) -> String {
    let mut parts = vec![
        rope.style.to_string(),
        format!("{} dimensions", rope.dimension_count),
        format!("base {}", rope.freq_base),
        format!("scaling {}", rope.scaling.unwrap_or(RopeScaling::None)),
    ];
    parts.extend(rope.scaling_factor.map(|factor| format!("factor {factor}")));
    parts.extend(rope.original_context.map(|tokens| format!("original context {tokens}")));
    parts.extend(rope.attn_factor.map(|factor| format!("attention factor {factor}")));
    parts.push(if rope.factors {
        format!("long and short factors of {} elements", rope.dimension_count / 2)
    } else {
        "no long and short factors".to_owned()
    });
    parts.join(", ")
}
