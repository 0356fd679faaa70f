//! The keys of a model that tests write themselves.

use gguf_format::write::GgufWriter;

/// A writer with the keys of a small, consistent phi3 model; tensors are the caller's.
pub(crate) fn phi3_keys() -> GgufWriter {
    let mut writer = GgufWriter::new();
    writer
        .kv("general.architecture", "phi3")
        .kv("phi3.context_length", 4096_u32)
        .kv("phi3.embedding_length", 32_u32)
        .kv("phi3.feed_forward_length", 64_u32)
        .kv("phi3.block_count", 1_u32)
        .kv("phi3.attention.head_count", 2_u32)
        .kv("phi3.attention.layer_norm_rms_epsilon", 1e-5_f32)
        .kv("phi3.rope.dimension_count", 16_u32);
    writer
}
