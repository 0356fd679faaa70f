//! The files for benchmarks of parsing, here and in `benches/parsers` of the repository.

use std::fmt::Write as _;

use gguf_format::GgmlType;
use gguf_format::write::GgufWriter;

/// Name, number of tokens and number of merges of each file.
pub(crate) const FILES: [(&str, u32, u32); 3] = [
    ("no vocabulary", 0, 0),
    ("32k tokens", 32_064, 0),
    ("200k tokens and merges", 200_064, 199_742),
];

/// Returns a file with the tensors of Phi-3-mini and a vocabulary of `tokens` and `merges`. Tensors have two
/// rows, because the data do not matter here.
pub(crate) fn file(tokens: u32, merges: u32) -> Vec<u8> {
    let word = |n: u32| {
        // Lengths as in a byte-pair vocabulary: mostly 3 to 10 bytes.
        let mut word = String::from("▁");
        let _ = write!(word, "{:x}", u64::from(n).wrapping_mul(0x9e37_79b9) >> (n % 5 * 4));
        word
    };
    let mut writer = GgufWriter::new();
    writer.kv("general.architecture", "phi3").kv("phi3.block_count", 32u32);
    for i in 0..20u32 {
        writer.kv(format!("phi3.key.{i}"), i);
    }
    writer.kv("tokenizer.ggml.tokens", (0..tokens).map(word).collect::<Vec<_>>());
    writer.kv("tokenizer.ggml.scores", vec![0.0f32; tokens as usize]);
    writer.kv("tokenizer.ggml.token_type", vec![1i32; tokens as usize]);
    if merges > 0 {
        let pair = |n| format!("{} {}", word(n), word(n + 1));
        writer.kv("tokenizer.ggml.merges", (0..merges).map(pair).collect::<Vec<_>>());
    }
    writer.tensor("token_embd.weight", &[3072, 2], GgmlType::Q4_K);
    writer.tensor("output.weight", &[3072, 2], GgmlType::Q6_K);
    writer.tensor("output_norm.weight", &[3072], GgmlType::F32);
    for i in 0..32 {
        for name in ["attn_qkv", "attn_output", "ffn_up", "ffn_down"] {
            writer.tensor(format!("blk.{i}.{name}.weight"), &[3072, 2], GgmlType::Q4_K);
        }
        for name in ["attn_norm", "ffn_norm"] {
            writer.tensor(format!("blk.{i}.{name}.weight"), &[3072], GgmlType::F32);
        }
    }
    writer.to_bytes(|_, _| ()).expect("the model can be written")
}
