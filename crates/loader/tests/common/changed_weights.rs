//! Makes copies of golden models with changed weights.

use crate::common::model_path;
use gguf_format::{GgmlType, Gguf};
use std::path::{Path, PathBuf};

/// Writes a copy of a golden model in which `change` has modified the bytes of these tensors. Returns its path.
pub(crate) fn changed(
    dir: &Path,
    name: &str,
    tensors: &[&str],
    mut change: impl FnMut(&str, GgmlType, &mut [u8]),
) -> PathBuf {
    let mut bytes = std::fs::read(model_path(name)).unwrap();
    let found: Vec<_> = {
        let gguf = Gguf::parse(&bytes).unwrap();
        let find = |name: &str| gguf.tensor(name).unwrap_or_else(|| panic!("{name}"));
        tensors.iter().map(|name| (find(name).ggml_type(), find(name).range())).collect()
    };
    for (tensor, (ggml_type, range)) in tensors.iter().zip(found) {
        change(tensor, ggml_type, &mut bytes[range.start as usize..range.end as usize]);
    }
    let path = dir.join("changed.gguf");
    std::fs::write(&path, bytes).unwrap();
    path
}

pub(crate) fn put(bytes: &mut [u8], values: &[f32]) {
    for (place, value) in bytes.chunks_exact_mut(4).zip(values) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}

const WILD_DOWN: [f32; 4] = [65520.0, -1e30, f32::NAN, 65519.0];

/// Writes a model with values that are too large for f16 and values that are infinite in the file.
pub(crate) fn with_wild_weights(dir: &Path) -> PathBuf {
    let tensors = ["blk.1.ffn_down.weight", "token_embd.weight"];
    changed(dir, "tied-gqa-bf16.gguf", &tensors, |_, ggml_type, bytes| match ggml_type {
        GgmlType::F32 => put(bytes, &WILD_DOWN),
        _ => bytes[..2].copy_from_slice(&0x7f80_u16.to_le_bytes()),
    })
}
