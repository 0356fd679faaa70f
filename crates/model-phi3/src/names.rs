//! The names of tensors in files, as llama.cpp gives them.

/// The token embedding.
pub(crate) const TOKEN_EMBEDDING: &str = "token_embd.weight";
/// The output weights. If they are absent, the output is the token embedding.
pub(crate) const OUTPUT: &str = "output.weight";
/// The norm before the output.
pub(crate) const OUTPUT_NORM: &str = "output_norm.weight";
/// RoPE factors for contexts longer than the original one.
pub(crate) const ROPE_FACTORS_LONG: &str = "rope_factors_long.weight";
/// RoPE factors for contexts up to the original one.
pub(crate) const ROPE_FACTORS_SHORT: &str = "rope_factors_short.weight";
/// The frequency factors of Llama 3.
pub(crate) const ROPE_FREQUENCIES: &str = "rope_freqs.weight";

/// Names of a layer's tensors, without `blk.N.` and `.weight`.
pub(crate) mod stem {
    pub(crate) const ATTN_NORM: &str = "attn_norm";
    pub(crate) const ATTN_Q: &str = "attn_q";
    pub(crate) const ATTN_K: &str = "attn_k";
    pub(crate) const ATTN_V: &str = "attn_v";
    /// The rows of Q, then those of K, then those of V.
    pub(crate) const ATTN_QKV: &str = "attn_qkv";
    pub(crate) const ATTN_OUTPUT: &str = "attn_output";
    pub(crate) const FFN_NORM: &str = "ffn_norm";
    pub(crate) const FFN_GATE: &str = "ffn_gate";
    /// Also the fused tensor: the rows of gate, then those of up.
    pub(crate) const FFN_UP: &str = "ffn_up";
    pub(crate) const FFN_DOWN: &str = "ffn_down";
}

const WEIGHT: &str = ".weight";
const BIAS: &str = ".bias";
const SCALE: &str = ".scale";
const INPUT_SCALE: &str = ".input_scale";

/// Returns the name of a layer's tensor of weights.
pub(crate) fn of_layer(layer: u32, stem: &str) -> String {
    format!("blk.{layer}.{stem}{WEIGHT}")
}

/// Returns the layer number in a tensor's name.
pub(crate) fn layer_of(name: &str) -> Option<u32> {
    let (layer, _) = name.strip_prefix("blk.")?.split_once('.')?;
    layer.parse().ok()
}

/// Returns the name of the scale of a tensor of weights.
pub(crate) fn scale_of(weight: &str) -> Option<String> {
    Some(format!("{}{SCALE}", weight.strip_suffix(WEIGHT)?))
}

/// Returns the name of the input scale of a tensor of weights.
pub(crate) fn input_scale_of(weight: &str) -> Option<String> {
    Some(format!("{}{INPUT_SCALE}", weight.strip_suffix(WEIGHT)?))
}

/// Returns whether this is the name of a scale or of an input scale.
pub(crate) fn is_scale(name: &str) -> bool {
    name.ends_with(SCALE) || name.ends_with(INPUT_SCALE)
}

/// Returns whether this is the name of a bias.
pub(crate) fn is_bias(name: &str) -> bool {
    name.ends_with(BIAS)
}

/// Returns whether this is the name of RoPE factors.
pub(crate) fn is_rope_factors(name: &str) -> bool {
    [ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT].contains(&name)
}
