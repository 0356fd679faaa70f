//! Writes small and large test models.

use gguf_format::GgmlType;
use gguf_format::write::GgufWriter;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The tensors that complete a model with the keys of [`phi3_keys`].
pub(crate) const TENSORS: [(&str, &[u64], GgmlType); 9] = [
    ("token_embd.weight", &[32, 8], GgmlType::F16),
    ("blk.0.attn_norm.weight", &[32], GgmlType::F32),
    ("blk.0.attn_qkv.weight", &[32, 96], GgmlType::F16),
    ("blk.0.attn_output.weight", &[32, 32], GgmlType::F16),
    ("blk.0.ffn_norm.weight", &[32], GgmlType::F32),
    ("blk.0.ffn_up.weight", &[32, 128], GgmlType::F16),
    ("blk.0.ffn_down.weight", &[64, 32], GgmlType::F16),
    ("output_norm.weight", &[32], GgmlType::F32),
    ("output.weight", &[32, 8], GgmlType::F16),
];

/// Returns a writer with the keys of a small, consistent phi3 model. The caller adds the tensors.
pub(crate) fn phi3_keys() -> GgufWriter {
    phi3_keys_of(32, 64, 2)
}

/// Returns a writer with the same keys and these dimensions. RoPE rotates the whole head.
pub(crate) fn phi3_keys_of(hidden: u32, ffn: u32, heads: u32) -> GgufWriter {
    let mut writer = GgufWriter::new();
    writer
        .kv("general.architecture", "phi3")
        .kv("phi3.context_length", 4096_u32)
        .kv("phi3.embedding_length", hidden)
        .kv("phi3.feed_forward_length", ffn)
        .kv("phi3.block_count", 1_u32)
        .kv("phi3.attention.head_count", heads)
        .kv("phi3.attention.layer_norm_rms_epsilon", 1e-5_f32)
        .kv("phi3.rope.dimension_count", hidden / heads);
    writer
}

/// Writes a model of small values with the keys and tensors of the writer.
pub(crate) fn write_small_model(path: &Path, mut writer: GgufWriter) {
    for (name, dims, ggml_type) in TENSORS {
        writer.tensor(name, dims, ggml_type);
    }
    std::fs::write(path, writer.to_bytes(|_, data| data.fill(0x2c)).unwrap()).unwrap();
}

/// Returns a writer with the keys of a model whose RoPE factors are missing.
pub(crate) fn factors_lost() -> GgufWriter {
    let mut writer = phi3_keys();
    writer.kv("phi3.rope.scaling.original_context_length", 512_u32);
    writer
}

/// Writes a model of zeros. Its load takes long enough for a test to act during it. The file is sparse: it has
/// 430 MB but takes no disk space. The weights need 560 MB of device memory as f16.
pub(crate) fn write_large_model(path: &Path) {
    let mut writer = phi3_keys_of(2048, 64, 16);
    writer
        .tensor("token_embd.weight", &[2048, 65536], GgmlType::F16)
        .tensor("blk.0.attn_norm.weight", &[2048], GgmlType::F32)
        .tensor("blk.0.attn_qkv.weight", &[2048, 6144], GgmlType::Q8_0)
        .tensor("blk.0.attn_output.weight", &[2048, 2048], GgmlType::F16)
        .tensor("blk.0.ffn_norm.weight", &[2048], GgmlType::F32)
        .tensor("blk.0.ffn_up.weight", &[2048, 128], GgmlType::F16)
        .tensor("blk.0.ffn_down.weight", &[64, 2048], GgmlType::F16)
        .tensor("output_norm.weight", &[2048], GgmlType::F32)
        .tensor("output.weight", &[2048, 65536], GgmlType::Q8_0);
    let layout = writer.layout().unwrap();
    let file = File::create(path).unwrap();
    file.set_len(layout.file_len()).unwrap();
    file.write_all_at(layout.header(), 0).unwrap();
}
