//! The report of a model's configuration.

use model_phi3::{Phi3Config, Rope, RopeScaling};
use std::io::Write;

pub(super) fn write_config(out: &mut dyn Write, config: &Phi3Config) -> std::io::Result<()> {
    let attention = config.attention();
    if let Some(name) = &config.name {
        writeln!(out, "model     {}", gguf_format::escape(name))?;
    }
    writeln!(
        out,
        "layout    {} architecture, {} layers, hidden {}, ffn {}, vocabulary {}{}",
        config.architecture,
        config.layers,
        config.hidden,
        config.ffn,
        config.vocab,
        if config.tied_output { ", tied output" } else { "" }
    )?;
    writeln!(
        out,
        "attention {}, {} query heads, {} key/value heads, head dimension {}",
        attention.kind(),
        config.heads,
        config.kv_heads,
        config.head_dim
    )?;
    writeln!(
        out,
        "rope      {}, {} dimensions, base {}, context {}",
        config.rope.style,
        config.rope.dimension_count,
        config.rope.freq_base,
        config.context_length
    )?;
    writeln!(out, "scaling   {}", scaling_text(&config.rope))
}

/// Describes how positions beyond the original context are mapped.
fn scaling_text(rope: &Rope) -> String {
    let mut parts = vec![rope.scaling.unwrap_or(RopeScaling::None).to_string()];
    parts.extend(rope.scaling_factor.map(|factor| format!("factor {factor}")));
    parts.extend(rope.original_context.map(|tokens| format!("original context {tokens}")));
    parts.extend(rope.attn_factor.map(|factor| format!("attention factor {factor}")));
    parts.push(if rope.factors { "long and short factors" } else { "no factors" }.to_owned());
    parts.join(", ")
}
