//! The `config.json` of a Hugging Face checkpoint, as far as the file of the model has it.

use loader::{Error, LoadedModel};
use model_phi3::{Phi3Config, RopeScaling, Slot};
use serde::Serialize;

/// The configuration of `Phi3ForCausalLM`. Absent values are written as `null`, because the defaults of transformers
/// are those of one model.
#[derive(Serialize)]
pub(super) struct CheckpointConfig {
    architectures: [&'static str; 1],
    model_type: &'static str,
    torch_dtype: &'static str,
    hidden_act: &'static str,
    vocab_size: u64,
    hidden_size: u64,
    intermediate_size: u64,
    num_hidden_layers: u32,
    num_attention_heads: u32,
    num_key_value_heads: u32,
    head_dim: u32,
    max_position_embeddings: u32,
    original_max_position_embeddings: u32,
    rms_norm_eps: f32,
    rope_theta: f32,
    partial_rotary_factor: f64,
    rope_scaling: Option<Scaling>,
    sliding_window: Option<u32>,
    tie_word_embeddings: bool,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
    pad_token_id: Option<u32>,
}

#[derive(Serialize)]
struct Scaling {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    factor: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    long_factor: Option<Vec<f32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    short_factor: Option<Vec<f32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attention_factor: Option<f32>,
}

pub(super) fn of(model: &LoadedModel) -> Result<CheckpointConfig, Error> {
    let config = model.config();
    let tokenizer = model.tokenizer().ok();
    let tokenizer = tokenizer.as_ref();
    Ok(CheckpointConfig {
        architectures: ["Phi3ForCausalLM"],
        model_type: "phi3",
        torch_dtype: "float16",
        hidden_act: "silu",
        vocab_size: config.vocab,
        hidden_size: config.hidden,
        intermediate_size: config.ffn,
        num_hidden_layers: config.layers,
        num_attention_heads: config.heads,
        num_key_value_heads: config.kv_heads,
        head_dim: config.head_dim,
        max_position_embeddings: config.context_length,
        original_max_position_embeddings: original_context(config),
        rms_norm_eps: config.rms_epsilon,
        rope_theta: config.rope.freq_base,
        partial_rotary_factor: f64::from(config.rope.dimension_count) / f64::from(config.head_dim),
        rope_scaling: scaling(model)?,
        sliding_window: config.sliding_window,
        tie_word_embeddings: config.tied_output,
        bos_token_id: tokenizer.and_then(|tokenizer| tokenizer.bos_id),
        eos_token_id: tokenizer.and_then(|tokenizer| tokenizer.eos_id),
        pad_token_id: tokenizer.and_then(|tokenizer| tokenizer.padding_id),
    })
}

fn original_context(config: &Phi3Config) -> u32 {
    config.rope.original_context.unwrap_or(config.context_length)
}

fn scaling(model: &LoadedModel) -> Result<Option<Scaling>, Error> {
    let config = model.config();
    let kind = match config.rope.scaling {
        None | Some(RopeScaling::None) => return Ok(None),
        Some(kind) => kind,
    };
    let is_long_rope = kind == RopeScaling::LongRope;
    Ok(Some(Scaling {
        kind: kind.name(),
        factor: config.rope.scaling_factor.filter(|_| !is_long_rope),
        long_factor: factors(model, Slot::RopeFactorsLong)?,
        short_factor: factors(model, Slot::RopeFactorsShort)?,
        attention_factor: attention_factor(config),
    }))
}

/// Returns the factor of cosine and sine, if it is not the one that transformers computes. Its earlier versions refuse
/// the entry.
fn attention_factor(config: &Phi3Config) -> Option<f32> {
    let original = original_context(config) as f32;
    let stretch = config.context_length as f32 / original;
    let computed = if stretch > 1.0 { (1.0 + stretch.ln() / original.ln()).sqrt() } else { 1.0 };
    let factor = config.rope.attn_factor.unwrap_or(1.0);
    ((factor - computed).abs() > 1e-5).then_some(factor)
}

fn factors(model: &LoadedModel, slot: Slot) -> Result<Option<Vec<f32>>, Error> {
    let bytes = model.read_slot(slot)?;
    let factor = |bytes: &[u8; 4]| f32::from_le_bytes(*bytes);
    Ok(bytes.map(|bytes| bytes.as_chunks().0.iter().map(factor).collect()))
}
