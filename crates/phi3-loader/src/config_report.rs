//! Reports of a model's configuration, as text and as JSON.

use super::json::ConfigDocument;
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

pub(super) fn config_document(config: &Phi3Config) -> ConfigDocument {
    let attention = config.attention();
    ConfigDocument {
        architecture: config.architecture.to_string(),
        name: config.name.clone(),
        layers: config.layers,
        hidden: config.hidden,
        ffn: config.ffn,
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        attention: attention.kind().to_string(),
        attention_scale: attention.scale,
        vocab: config.vocab,
        context_length: config.context_length,
        rms_epsilon: config.rms_epsilon,
        rope_style: config.rope.style.to_string(),
        rope_dim: config.rope.dimension_count,
        rope_freq_base: config.rope.freq_base,
        rope_original_context: config.rope.original_context,
        rope_attn_factor: config.rope.attn_factor,
        rope_scaling: config.rope.scaling.map(|scaling| scaling.to_string()),
        rope_scaling_factor: config.rope.scaling_factor,
        rope_factors: config.rope.factors,
        sliding_window: config.sliding_window,
        tied_output: config.tied_output,
        file_type: config.file_type,
    }
}
