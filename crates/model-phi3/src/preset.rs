//! Descriptions of the published models, for synthetic files with real shapes.
//!
//! A [`Blueprint`] has the keys and tensors of the file that llama.cpp's converter and quantiser make
//! of such a model, in the same order, without weights and tokenizer. The dimensions are those of the
//! models' own `config.json`.
//!
//! ```
//! use model_phi3::preset::{Blueprint, Layout, Preset, TypeMix};
//!
//! let blueprint = Blueprint::new(Preset::Mini4k, Layout::Fused, TypeMix::F16);
//! assert_eq!(blueprint.tensors.len(), 195);
//! let header = blueprint.writer().layout()?;
//! assert_eq!(header.ranges().len(), 195);
//! # Ok::<(), gguf_format::write::WriteError>(())
//! ```
#![allow(
    clippy::arithmetic_side_effects,
    reason = "all operands are dimensions of the table in this file"
)]

use gguf_format::GgmlType;
use gguf_format::write::{GgufWriter, WriteValue};

use crate::choice_words;
use crate::config::Architecture;
use crate::keys;
use crate::names::{self, stem};
use crate::rope::RopeScaling;

/// A model for synthetic files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Preset {
    /// Not a published model: 3 layers, grouped-query attention and RoPE factors in a few megabytes.
    Tiny,
    /// Phi-3-mini-4k-instruct.
    Mini4k,
    /// Phi-3-mini-128k-instruct; Phi-3.5-mini-instruct has the same shape.
    Mini128k,
    /// Phi-3-medium-4k-instruct.
    Medium,
    /// Phi-4.
    Phi4,
    /// Phi-4-mini-instruct: tied output, partial rotary embedding.
    Phi4Mini,
}

/// The layout of Q, K, V and gate, up in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `attn_qkv` and a fused `ffn_up`, architecture `phi3`.
    Fused,
    /// One tensor each, architecture `llama`: the form of "llamafied" models.
    Split,
}

/// The tensor types of the file. Norms and RoPE factors are always F32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TypeMix {
    /// All matrices F16.
    F16,
    /// All matrices BF16.
    Bf16,
    /// All matrices F32.
    F32,
    /// All matrices Q8_0.
    Q8_0,
    /// llama.cpp's mix of Q4_K, Q5_K and Q6_K.
    #[allow(non_camel_case_types, reason = "the name of the mix")]
    Q4_K_M,
}

choice_words!(Preset: Tiny = "tiny", Mini4k = "mini-4k", Mini128k = "mini-128k", Medium = "medium",
    Phi4 = "phi-4", Phi4Mini = "phi-4-mini");
choice_words!(Layout: Fused = "fused", Split = "split");
choice_words!(TypeMix: F16 = "f16", Bf16 = "bf16", F32 = "f32", Q8_0 = "q8_0", Q4_K_M = "q4_k_m");

/// The keys and tensors of a file.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Blueprint {
    /// Keys and values, in file order.
    pub metadata: Vec<(String, WriteValue)>,
    /// Tensors, in file order.
    pub tensors: Vec<TensorSpec>,
}

/// One tensor of a [`Blueprint`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorSpec {
    /// The name.
    pub name: String,
    /// The dimensions, contiguous first.
    pub dims: Vec<u64>,
    /// The type.
    pub ggml_type: GgmlType,
}

impl Blueprint {
    /// Returns the file of a model in this layout and mix.
    #[must_use]
    pub fn new(preset: Preset, layout: Layout, mix: TypeMix) -> Self {
        let model = preset.model();
        Self { metadata: metadata(&model, layout, mix), tensors: tensors(&model, layout, mix) }
    }

    /// Returns a writer with all keys and tensors.
    #[must_use]
    pub fn writer(&self) -> GgufWriter {
        let mut writer = GgufWriter::new();
        for (key, value) in &self.metadata {
            writer.kv(key, value.clone());
        }
        for TensorSpec { name, dims, ggml_type } in &self.tensors {
            writer.tensor(name, dims, *ggml_type);
        }
        writer
    }
}

/// The dimensions of a model.
struct Model {
    name: &'static str,
    layers: u32,
    hidden: u32,
    ffn: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    rope_dim: u32,
    vocab: u32,
    context: u32,
    original_context: u32,
    freq_base: f32,
    sliding_window: u32,
    /// Models with RoPE factors have this factor.
    attn_factor: Option<f32>,
    tied_output: bool,
}

/// `sqrt(1 + ln(131072 / 4096) / ln(4096))`, as the converter computes it for 128k contexts.
const ATTN_FACTOR_128K: f32 = 1.190_238_1;

const MINI_4K: Model = Model {
    name: "Phi 3 Mini 4k",
    layers: 32,
    hidden: 3072,
    ffn: 8192,
    heads: 32,
    kv_heads: 32,
    head_dim: 96,
    rope_dim: 96,
    vocab: 32064,
    context: 4096,
    original_context: 4096,
    freq_base: 10_000.0,
    sliding_window: 2047,
    attn_factor: None,
    tied_output: false,
};

const MEDIUM: Model = Model {
    name: "Phi 3 Medium 4k",
    layers: 40,
    hidden: 5120,
    ffn: 17920,
    heads: 40,
    kv_heads: 10,
    head_dim: 128,
    rope_dim: 128,
    ..MINI_4K
};

impl Preset {
    const fn model(self) -> Model {
        match self {
            Self::Tiny => Model {
                name: "Tiny Phi 3",
                layers: 3,
                hidden: 256,
                ffn: 768,
                heads: 4,
                kv_heads: 2,
                head_dim: 64,
                rope_dim: 64,
                vocab: 1024,
                context: 131_072,
                sliding_window: 262_144,
                attn_factor: Some(ATTN_FACTOR_128K),
                ..MINI_4K
            },
            Self::Mini4k => MINI_4K,
            Self::Mini128k => Model {
                name: "Phi 3 Mini 128k",
                context: 131_072,
                sliding_window: 262_144,
                attn_factor: Some(ATTN_FACTOR_128K),
                ..MINI_4K
            },
            Self::Medium => MEDIUM,
            Self::Phi4 => Model {
                name: "Phi 4",
                vocab: 100_352,
                context: 16_384,
                original_context: 16_384,
                freq_base: 250_000.0,
                sliding_window: 0,
                ..MEDIUM
            },
            Self::Phi4Mini => Model {
                name: "Phi 4 Mini",
                heads: 24,
                kv_heads: 8,
                head_dim: 128,
                vocab: 200_064,
                context: 131_072,
                sliding_window: 262_144,
                attn_factor: Some(ATTN_FACTOR_128K),
                tied_output: true,
                ..MINI_4K
            },
        }
    }
}

fn metadata(model: &Model, layout: Layout, mix: TypeMix) -> Vec<(String, WriteValue)> {
    let architecture = match layout {
        Layout::Fused => Architecture::Phi3,
        Layout::Split => Architecture::Llama,
    };
    let mut pairs: Vec<(String, WriteValue)> = vec![
        (keys::ARCHITECTURE.to_owned(), architecture.name().into()),
        (keys::TYPE.to_owned(), "model".into()),
        (keys::NAME.to_owned(), model.name.into()),
        (keys::FILE_TYPE.to_owned(), mix.file_type().into()),
        ("general.quantization_version".to_owned(), 2_u32.into()),
    ];
    let mut key = |suffix: &str, value: WriteValue| {
        pairs.push((format!("{}.{suffix}", architecture.name()), value));
    };
    key(keys::CONTEXT_LENGTH, model.context.into());
    key(keys::EMBEDDING_LENGTH, model.hidden.into());
    key(keys::FEED_FORWARD_LENGTH, model.ffn.into());
    key(keys::BLOCK_COUNT, model.layers.into());
    key(keys::HEAD_COUNT, model.heads.into());
    key(keys::HEAD_COUNT_KV, model.kv_heads.into());
    key(keys::RMS_EPSILON, 1e-5_f32.into());
    key(keys::ROPE_DIMENSION_COUNT, model.rope_dim.into());
    key(keys::ROPE_FREQ_BASE, model.freq_base.into());
    key(keys::ORIGINAL_CONTEXT, model.original_context.into());
    if let Some(factor) = model.attn_factor {
        key(keys::ATTN_FACTOR, factor.into());
    }
    match layout {
        Layout::Fused => key(keys::SLIDING_WINDOW, model.sliding_window.into()),
        // llama.cpp loads the factors of a `llama` file only if this key is `longrope`.
        Layout::Split if model.attn_factor.is_some() => {
            key(keys::SCALING_TYPE, RopeScaling::LongRope.name().into());
        }
        Layout::Split => {}
    }
    // For llama.cpp, `none` means that there is no tokenizer. It then requires the size of the vocabulary.
    key(keys::VOCAB_SIZE, model.vocab.into());
    pairs.push((keys::TOKENIZER_MODEL.to_owned(), "none".into()));
    pairs
}

fn tensors(model: &Model, layout: Layout, mix: TypeMix) -> Vec<TensorSpec> {
    let [hidden, ffn, vocab] = [model.hidden, model.ffn, model.vocab].map(u64::from);
    let [queries, keys] =
        [model.heads, model.kv_heads].map(|heads| u64::from(heads) * u64::from(model.head_dim));
    let mut specs = Vec::new();
    let mut put = |name: String, dims: &[u64], ggml_type| {
        specs.push(TensorSpec { name, dims: dims.to_vec(), ggml_type });
    };
    if model.attn_factor.is_some() {
        for name in [names::ROPE_FACTORS_LONG, names::ROPE_FACTORS_SHORT] {
            put(name.to_owned(), &[u64::from(model.rope_dim / 2)], GgmlType::F32);
        }
    }
    let embedding = if model.tied_output { Matrix::Output } else { Matrix::Plain };
    put(names::TOKEN_EMBEDDING.to_owned(), &[hidden, vocab], mix.of(embedding));
    for layer in 0..model.layers {
        let more_bits = use_more_bits(layer, model.layers);
        let mut put = |stem: &str, dims: &[u64], ggml_type| {
            put(names::of_layer(layer, stem), dims, ggml_type);
        };
        put(stem::ATTN_NORM, &[hidden], GgmlType::F32);
        put(stem::FFN_DOWN, &[ffn, hidden], mix.of(Matrix::Sensitive { more_bits }));
        match layout {
            Layout::Fused => put(stem::FFN_UP, &[hidden, 2 * ffn], mix.of(Matrix::Plain)),
            Layout::Split => {
                put(stem::FFN_GATE, &[hidden, ffn], mix.of(Matrix::Plain));
                put(stem::FFN_UP, &[hidden, ffn], mix.of(Matrix::Plain));
            }
        }
        put(stem::FFN_NORM, &[hidden], GgmlType::F32);
        match layout {
            Layout::Fused => {
                put(stem::ATTN_OUTPUT, &[queries, hidden], mix.of(Matrix::Plain));
                put(stem::ATTN_QKV, &[hidden, queries + 2 * keys], mix.of(Matrix::FusedAttention));
            }
            Layout::Split => {
                put(stem::ATTN_K, &[hidden, keys], mix.of(Matrix::Plain));
                put(stem::ATTN_OUTPUT, &[queries, hidden], mix.of(Matrix::Plain));
                put(stem::ATTN_Q, &[hidden, queries], mix.of(Matrix::Plain));
                put(stem::ATTN_V, &[hidden, keys], mix.of(Matrix::Sensitive { more_bits }));
            }
        }
    }
    put(names::OUTPUT_NORM.to_owned(), &[hidden], GgmlType::F32);
    if !model.tied_output {
        put(names::OUTPUT.to_owned(), &[hidden, vocab], mix.of(Matrix::Output));
    }
    specs
}

/// The kinds of matrices that llama.cpp's quantiser treats differently.
#[derive(Clone, Copy)]
enum Matrix {
    Plain,
    FusedAttention,
    /// `ffn_down` and `attn_v`, which get more bits in about half of the layers.
    Sensitive {
        more_bits: bool,
    },
    /// The output, or the embedding if the output is tied.
    Output,
}

/// Implements llama.cpp's `use_more_bits`: returns true for the first and last eighth of the layers, and for
/// every third layer between them.
const fn use_more_bits(layer: u32, layers: u32) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

impl TypeMix {
    /// Returns llama.cpp's number of the mix, the value of `general.file_type`.
    const fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::Q4_K_M => 15,
            Self::Bf16 => 32,
        }
    }

    const fn of(self, matrix: Matrix) -> GgmlType {
        match self {
            Self::F16 => GgmlType::F16,
            Self::Bf16 => GgmlType::BF16,
            Self::F32 => GgmlType::F32,
            Self::Q8_0 => GgmlType::Q8_0,
            Self::Q4_K_M => match matrix {
                Matrix::Plain | Matrix::Sensitive { more_bits: false } => GgmlType::Q4_K,
                Matrix::FusedAttention => GgmlType::Q5_K,
                Matrix::Output | Matrix::Sensitive { more_bits: true } => GgmlType::Q6_K,
            },
        }
    }
}
