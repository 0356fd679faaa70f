//! Reads the dimensions of a model from its metadata.

use std::fmt;

use gguf_format::{Elements, FromValue, Metadata, Strings, TensorInfo, Text};

use crate::attention::AttentionShape;
use crate::choice_words;
use crate::error::Error;
use crate::keys::{
    ARCHITECTURE, ATTN_FACTOR, BLOCK_COUNT, CONTEXT_LENGTH, EMBEDDING_LENGTH, EXPERT_COUNT,
    FEED_FORWARD_LENGTH, FILE_TYPE, HEAD_COUNT, HEAD_COUNT_KV, KEY_LENGTH, NAME, ORIGINAL_CONTEXT,
    RMS_EPSILON, ROPE_DIMENSION_COUNT, ROPE_FREQ_BASE, SCALE_LINEAR, SCALING_FACTOR, SCALING_TYPE,
    SLIDING_WINDOW, TOKEN_MERGES, TOKEN_SCORES, TOKENS, TYPE, VALUE_LENGTH, VOCAB_SIZE,
};
use crate::names::{self, OUTPUT, TOKEN_EMBEDDING};
use crate::problems::Problem;
use crate::rope::{Rope, RopeScaling, RopeStyle};
use crate::tokenizer::TokenTypes;

/// The base of RoPE frequencies if the file does not state it, as in llama.cpp.
const DEFAULT_FREQ_BASE: f32 = 10_000.0;

/// The largest valid number of layers, far above any known model. A larger number means a damaged file.
const MAX_LAYERS: u32 = 65_536;

/// The largest supported number of layers. Published models have at most 40. Work and memory grow with the
/// number of layers.
const SUPPORTED_LAYERS: u32 = 1024;

/// The largest number of elements of a head if the file does not state the size of the hidden state.
const MAX_HEAD_DIM: u64 = 65_536;

/// The largest number of bytes that are copied of a text. A single string can be most of a header.
const MAX_TEXT: usize = 4096;

/// The architecture of a file. Its name is the value of `general.architecture` and the prefix of most keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Architecture {
    /// `phi3`: Phi-3, Phi-3.5, Phi-4 and Phi-4-mini as llama.cpp converts them.
    Phi3,
    /// `llama`: a "llamafied" Phi-3, whose fused tensors were split before conversion.
    ///
    /// The file does not say that the model is a Phi-3. Any model of the same form is accepted.
    Llama,
}

choice_words!(Architecture: Phi3 = "phi3", Llama = "llama");

impl Architecture {
    /// Order of the elements that RoPE rotates together, in files of this architecture.
    #[must_use]
    pub const fn rope_style(self) -> RopeStyle {
        match self {
            Self::Phi3 => RopeStyle::Neox,
            Self::Llama => RopeStyle::Adjacent,
        }
    }

    fn from_metadata(metadata: &Metadata<'_>) -> Result<Self, Error> {
        match metadata.optional::<&str>(ARCHITECTURE)? {
            Some("phi3") => Ok(Self::Phi3),
            Some("llama") => Ok(Self::Llama),
            found => Err(Error::UnsupportedArchitecture {
                found: found.map(|name| excerpt(name).to_owned()),
            }),
        }
    }
}

/// The dimensions of a Phi-3 model. All of them come from the file.
///
/// With the feature `serde` it can be serialised and deserialised. A deserialised configuration is not checked:
/// it is as trustworthy as its source. [`TensorMap::bind`](crate::TensorMap::bind) compares it with the tensors of
/// a file before anything is planned.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Phi3Config {
    /// The architecture in the file.
    pub architecture: Architecture,
    /// `general.name` as it is in the file; escape it before printing. If it is longer than 4096 bytes,
    /// this is its start. If it is not UTF-8, it is already [escaped](gguf_format::escape()).
    pub name: Option<String>,
    /// Transformer layers, from 1 to 1,024.
    pub layers: u32,
    /// Elements of the hidden state.
    pub hidden: u64,
    /// Query heads.
    pub heads: u32,
    /// Key heads, and as many value heads. Their number divides `heads`.
    pub kv_heads: u32,
    /// Elements of a head: `attention.key_length`, or `hidden / heads`.
    pub head_dim: u32,
    /// Elements of the feed-forward network's inner state.
    pub ffn: u64,
    /// Rows of the token embedding. There may be more rows than tokens, because rows are often padded.
    pub vocab: u64,
    /// Tokens of context that the model was made for.
    pub context_length: u32,
    /// Added to the mean square in the norms; positive and finite.
    pub rms_epsilon: f32,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Tokens that a token attends to: `attention.sliding_window`. `None` if the key is 0, as in Phi-4,
    /// or absent. If it is 0, attention reaches the whole context. If it is absent, the file does not
    /// say: Microsoft's own q4 file of mini-4k lacks the key, although that model has a window of 2047
    /// tokens.
    pub sliding_window: Option<u32>,
    /// `general.file_type`: llama.cpp's number of the mix of tensor types.
    pub file_type: Option<u32>,
    /// Whether the file has no output weights, so that the output is the token embedding.
    pub tied_output: bool,
}

impl Phi3Config {
    /// Reads and checks the dimensions of the model.
    ///
    /// `tensors` determine the size of the vocabulary, for which `phi3` files have no key, and whether the
    /// output is tied. [`TensorMap::bind`](crate::TensorMap) checks their other dimensions.
    ///
    /// `head_count`, `head_count_kv` and `feed_forward_length` can also be arrays with one value for
    /// each layer, if all layers have the same value.
    ///
    /// If a file has several errors, the first in this order is returned: another type or architecture (an
    /// adapter has neither the keys nor the tensors of a model); wrong values; unsupported values; no tensors;
    /// missing keys; missing tensors. Thus the error distinguishes a file with contradictions from a file that
    /// is not a complete model.
    ///
    /// # Errors
    ///
    /// * [`Error::NotAModel`] if `general.type` is present and not `model`, or if there are no tensors.
    /// * [`Error::UnsupportedArchitecture`] for anything but `phi3` and `llama`.
    /// * [`Error::Metadata`] if a required key is missing, or a key has the wrong type.
    /// * [`Error::InvalidValue`] if a value is out of bounds or contradicts another value.
    /// * [`Error::UnsupportedValue`] for more than 1,024 layers, experts, layers that differ, and
    ///   unknown RoPE scaling.
    /// * [`Error::Binding`] if no tensor shows the size of the vocabulary.
    pub fn from_gguf(metadata: &Metadata<'_>, tensors: &[TensorInfo<'_>]) -> Result<Self, Error> {
        check_type(metadata)?;
        let architecture = Architecture::from_metadata(metadata)?;
        let rope_factors = tensors.iter().any(|tensor| names::is_rope_factors(tensor.name()));
        let mut keys = Keys { metadata, architecture, rope_factors, unsupported: None };
        let dimensions = keys.read()?;
        if let Some(error) = keys.unsupported.take() {
            return Err(error);
        }
        if tensors.is_empty() {
            return Err(Error::NotAModel { found: None });
        }
        let layers = keys.given(BLOCK_COUNT, dimensions.layers)?;
        let hidden = keys.given(EMBEDDING_LENGTH, dimensions.hidden)?;
        let ffn = keys.given(FEED_FORWARD_LENGTH, dimensions.ffn)?;
        let heads = keys.given(HEAD_COUNT, dimensions.heads)?;
        let context_length = keys.given(CONTEXT_LENGTH, dimensions.context_length)?;
        let rms_epsilon = keys.given(RMS_EPSILON, dimensions.rms_epsilon)?;
        let vocab = vocabulary(tensors)?;
        keys.check_tokens(&dimensions, vocab)?;

        Ok(Self {
            architecture,
            name: dimensions.name.map(name_text),
            layers,
            hidden,
            heads,
            kv_heads: dimensions.kv_heads.unwrap_or(heads),
            // If hidden state and heads are known, so are this and RoPE.
            head_dim: keys.given(KEY_LENGTH, dimensions.head_dim)?,
            ffn,
            vocab,
            context_length,
            rms_epsilon,
            rope: keys.given(ROPE_DIMENSION_COUNT, dimensions.rope)?,
            sliding_window: dimensions.sliding_window,
            file_type: dimensions.file_type,
            tied_output: !tensors.iter().any(|tensor| tensor.name() == OUTPUT),
        })
    }

    /// Returns the figures that an attention kernel needs.
    #[must_use]
    pub fn attention(&self) -> AttentionShape {
        AttentionShape::new(self.heads, self.kv_heads, self.head_dim)
    }

    /// Returns the number of weights of the model, without RoPE factors. A tied output counts once. `None` if
    /// the number exceeds 64 bits.
    #[must_use]
    pub fn parameters(&self) -> Option<u64> {
        let head_dim = u64::from(self.head_dim);
        let queries = u64::from(self.heads).checked_mul(head_dim)?;
        let keys = u64::from(self.kv_heads).checked_mul(head_dim)?;
        // Rows of `hidden` elements in one layer: q and output, k and v, gate, up and down, norms.
        let layer = queries
            .checked_add(keys)?
            .checked_mul(2)?
            .checked_add(self.ffn.checked_mul(3)?)?
            .checked_add(2)?;
        let embeddings = if self.tied_output { 1 } else { 2 };
        u64::from(self.layers)
            .checked_mul(layer)?
            .checked_add(self.vocab.checked_mul(embeddings)?)?
            .checked_add(1)?
            .checked_mul(self.hidden)
    }

    /// Returns the full name of one of the architecture's keys.
    pub(crate) fn key(&self, suffix: &str) -> String {
        full_key(self.architecture, suffix)
    }
}

/// Fails if `general.type` is not `model`. The architecture is not sufficient for this check, because adapters,
/// importance matrices and projectors have the architecture of their model.
fn check_type(metadata: &Metadata<'_>) -> Result<(), Error> {
    match metadata.optional::<&str>(TYPE)? {
        None | Some("model") => Ok(()),
        Some(other) => Err(Error::NotAModel { found: Some(excerpt(other).to_owned()) }),
    }
}

fn full_key(architecture: Architecture, suffix: &str) -> String {
    format!("{}.{suffix}", architecture.name())
}

/// Checks the number of layers, which limits the work and the memory for layers.
pub(crate) fn check_layers(layers: u32, key: String) -> Result<(), Error> {
    let value = layers.to_string();
    if layers > MAX_LAYERS {
        let reason = format!("a model has at most {MAX_LAYERS} layers");
        return Err(Error::InvalidValue { key, value, reason });
    }
    if layers > SUPPORTED_LAYERS {
        let reason = format!("at most {SUPPORTED_LAYERS} layers are supported");
        return Err(Error::UnsupportedValue { key, value, reason });
    }
    Ok(())
}

/// Returns the start of a text from the file.
fn excerpt(text: &str) -> &str {
    text.split_at(text.floor_char_boundary(MAX_TEXT)).0
}

/// Returns the start of a name, for display only. No weight depends on it, so it need not be UTF-8: then it is
/// escaped.
fn name_text(name: Text<'_>) -> String {
    match name.as_str() {
        Ok(name) => excerpt(name).to_owned(),
        Err(_) => gguf_format::escape(&name).shortened(MAX_TEXT).to_string(),
    }
}

/// Returns the number of rows of the token embedding. If it is missing, returns those of the output, so that
/// the report of all missing tensors is still reached.
fn vocabulary(tensors: &[TensorInfo<'_>]) -> Result<u64, Error> {
    let named = |name| tensors.iter().find(|tensor| tensor.name() == name);
    let tensor = named(TOKEN_EMBEDDING)
        .or_else(|| named(OUTPUT))
        .ok_or_else(|| Problem::missing(TOKEN_EMBEDDING))?;
    match *tensor.shape().dims() {
        [_, rows, ..] if rows > 0 => Ok(rows),
        _ => Err(Problem::Misshapen {
            name: tensor.name().to_owned(),
            expected: "[hidden, vocab]".to_owned(),
            found: *tensor.shape(),
        }
        .into()),
    }
}

/// The values of the keys that are present; `None` if they are not sufficient.
struct Dimensions<'a> {
    name: Option<Text<'a>>,
    file_type: Option<u32>,
    layers: Option<u32>,
    hidden: Option<u64>,
    heads: Option<u32>,
    kv_heads: Option<u32>,
    head_dim: Option<u32>,
    ffn: Option<u64>,
    context_length: Option<u32>,
    rms_epsilon: Option<f32>,
    rope: Option<Rope>,
    sliding_window: Option<u32>,
    vocab_size: Option<u64>,
    tokens: Option<usize>,
}

/// The metadata, read with the architecture's prefix.
struct Keys<'m, 'a> {
    metadata: &'m Metadata<'a>,
    architecture: Architecture,
    /// Whether the file has RoPE factors.
    rope_factors: bool,
    /// The first valid but unsupported value. Errors in other values have priority.
    unsupported: Option<Error>,
}

/// An unsigned integer that a dimension can be read as.
trait Dimension: for<'a> FromValue<'a> + Copy + PartialEq + fmt::Display + TryFrom<i64> {
    const ZERO: Self;
}

impl Dimension for u32 {
    const ZERO: Self = 0;
}

impl Dimension for u64 {
    const ZERO: Self = 0;
}

impl<'a> Keys<'_, 'a> {
    fn key(&self, suffix: &str) -> String {
        full_key(self.architecture, suffix)
    }

    /// Returns the value of a required key.
    fn given<T>(&self, suffix: &str, value: Option<T>) -> Result<T, Error> {
        Ok(value.ok_or_else(|| gguf_format::Error::Missing { key: self.key(suffix) })?)
    }

    fn invalid(&self, suffix: &str, value: impl fmt::Display, reason: impl Into<String>) -> Error {
        Error::InvalidValue {
            key: self.key(suffix),
            value: value.to_string(),
            reason: reason.into(),
        }
    }

    fn refuse(&mut self, suffix: &str, value: impl fmt::Display, reason: impl Into<String>) {
        let key = self.key(suffix);
        self.unsupported.get_or_insert_with(|| Error::UnsupportedValue {
            key,
            value: value.to_string(),
            reason: reason.into(),
        });
    }

    fn optional<T: FromValue<'a>>(&self, suffix: &str) -> Result<Option<T>, Error> {
        Ok(self.metadata.optional(&self.key(suffix))?)
    }

    fn optional_positive<T: Dimension>(&self, suffix: &str) -> Result<Option<T>, Error> {
        match self.optional::<T>(suffix)? {
            Some(value) if value == T::ZERO => {
                Err(self.invalid(suffix, value, "it must be at least 1"))
            }
            value => Ok(value),
        }
    }

    /// Checks every key that is present, by itself and against the others.
    fn read(&mut self) -> Result<Dimensions<'a>, Error> {
        let layers = self.layers()?;
        let hidden = self.optional_positive(EMBEDDING_LENGTH)?;
        let heads = self.per_layer(HEAD_COUNT, layers)?;
        let head_dim = self.head_dim(hidden, heads)?;
        self.check_dense()?;
        self.check_tokenizer()?;
        Ok(Dimensions {
            name: self.metadata.optional(NAME)?,
            file_type: self.metadata.optional(FILE_TYPE)?,
            layers,
            hidden,
            heads,
            kv_heads: self.kv_heads(heads, layers)?,
            head_dim,
            ffn: self.per_layer(FEED_FORWARD_LENGTH, layers)?,
            context_length: self.optional_positive(CONTEXT_LENGTH)?,
            rms_epsilon: self.positive_float(RMS_EPSILON)?,
            rope: self.rope(hidden, head_dim)?,
            sliding_window: self.optional(SLIDING_WINDOW)?.filter(|&window| window != 0),
            vocab_size: self.optional(VOCAB_SIZE)?,
            tokens: self.metadata.optional::<Strings<'_>>(TOKENS)?.map(|tokens| tokens.len()),
        })
    }

    /// Returns an integer above zero: one value, or an array with this value for each layer.
    fn per_layer<T: Dimension>(
        &mut self,
        suffix: &str,
        layers: Option<u32>,
    ) -> Result<Option<T>, Error> {
        let key = self.key(suffix);
        let Some(array) = self.metadata.get(&key).and_then(|value| value.as_array()) else {
            return self.optional_positive(suffix);
        };
        // llama.cpp's writers use two types for such arrays.
        let mut values: Box<dyn Iterator<Item = i64> + '_> =
            match (array.iter::<i32>(), array.iter::<u32>()) {
                (Some(values), _) => Box::new(values.map(i64::from)),
                (_, Some(values)) => Box::new(values.map(i64::from)),
                _ => {
                    return Err(gguf_format::Error::WrongType {
                        key,
                        expected: "an integer, or an array of i32 or u32",
                        found: array.element_type().array_name(),
                    }
                    .into());
                }
            };
        let shown = || format!("an array of {} values", array.len());
        if let Some(layers) = layers.filter(|&layers| usize::try_from(layers) != Ok(array.len())) {
            return Err(self.invalid(suffix, shown(), format!("there are {layers} layers")));
        }
        let Some(first) = values.next() else {
            return Err(self.invalid(suffix, shown(), "there is at least one layer"));
        };
        if let Some(other) = values.find(|&value| value != first) {
            self.refuse(
                suffix,
                format!("{first} in layer 0 and {other} in another"),
                "all layers must have the same shape",
            );
            return Ok(None);
        }
        match T::try_from(first) {
            Ok(value) if value != T::ZERO => Ok(Some(value)),
            _ => Err(self.invalid(suffix, first, "it must be at least 1")),
        }
    }

    /// Returns a finite number above zero.
    fn positive_float(&self, suffix: &str) -> Result<Option<f32>, Error> {
        match self.optional::<f32>(suffix)? {
            Some(value) if !(value.is_finite() && value > 0.0) => {
                Err(self.invalid(suffix, value, "it must be a finite number above 0"))
            }
            value => Ok(value),
        }
    }

    /// Refuses mixtures of experts, which have the same architecture names but other weights.
    fn check_dense(&mut self) -> Result<(), Error> {
        if let Some(experts) = self.optional::<u64>(EXPERT_COUNT)?.filter(|&count| count != 0) {
            self.refuse(EXPERT_COUNT, experts, "only models without experts are supported");
        }
        Ok(())
    }

    fn layers(&mut self) -> Result<Option<u32>, Error> {
        let Some(layers) = self.optional_positive(BLOCK_COUNT)? else { return Ok(None) };
        match check_layers(layers, self.key(BLOCK_COUNT)) {
            Err(unsupported @ Error::UnsupportedValue { .. }) => {
                self.unsupported.get_or_insert(unsupported);
                Ok(None)
            }
            checked => checked.map(|()| Some(layers)),
        }
    }

    fn kv_heads(&mut self, heads: Option<u32>, layers: Option<u32>) -> Result<Option<u32>, Error> {
        let kv_heads = self.per_layer::<u32>(HEAD_COUNT_KV, layers)?;
        if let (Some(heads), Some(kv_heads)) = (heads, kv_heads)
            && !heads.is_multiple_of(kv_heads)
        {
            let reason = format!("it must divide the {heads} query heads");
            return Err(self.invalid(HEAD_COUNT_KV, kv_heads, reason));
        }
        Ok(kv_heads)
    }

    fn head_dim(&mut self, hidden: Option<u64>, heads: Option<u32>) -> Result<Option<u32>, Error> {
        // No known model has heads wider than its hidden state. The limit keeps products small.
        let most = hidden.unwrap_or(MAX_HEAD_DIM);
        let head_dim = match (self.optional_positive::<u32>(KEY_LENGTH)?, hidden, heads) {
            (Some(given), _, _) if u64::from(given) > most => {
                let reason = format!("a head has at most {most} elements");
                return Err(self.invalid(KEY_LENGTH, given, reason));
            }
            (Some(given), _, _) => Some(given),
            (None, Some(hidden), Some(heads)) => Some(self.divided_head_dim(hidden, heads)?),
            _ => None,
        };
        let value_dim = self.optional_positive::<u32>(VALUE_LENGTH)?;
        if let (Some(head_dim), Some(value_dim)) = (head_dim, value_dim)
            && value_dim != head_dim
        {
            let reason =
                format!("keys have {head_dim} elements, and values must have the same number");
            self.refuse(VALUE_LENGTH, value_dim, reason);
        }
        Ok(head_dim)
    }

    fn divided_head_dim(&self, hidden: u64, heads: u32) -> Result<u32, Error> {
        let heads_wide = u64::from(heads);
        match hidden.checked_div(heads_wide) {
            Some(head_dim) if head_dim > 0 && hidden.is_multiple_of(heads_wide) => {
                u32::try_from(head_dim).map_err(|_| {
                    let reason = format!("there are only {heads} heads");
                    self.invalid(EMBEDDING_LENGTH, hidden, reason)
                })
            }
            _ => {
                let reason = format!("it must divide the {hidden} elements of the hidden state");
                Err(self.invalid(HEAD_COUNT, heads, reason))
            }
        }
    }

    /// `None` if nothing states the number of rotated elements.
    fn rope(&mut self, hidden: Option<u64>, head_dim: Option<u32>) -> Result<Option<Rope>, Error> {
        let dimension_count = self.optional_positive(ROPE_DIMENSION_COUNT)?.or(head_dim);
        let most = head_dim.map(u64::from).or(hidden).unwrap_or(MAX_HEAD_DIM);
        if let Some(count) =
            dimension_count.filter(|&count| u64::from(count) > most || !count.is_multiple_of(2))
        {
            let reason = format!("it must be even and at most the {most} elements of a head");
            return Err(self.invalid(ROPE_DIMENSION_COUNT, count, reason));
        }
        let scaling_factor = self.scaling_factor()?;
        let freq_base = self.positive_float(ROPE_FREQ_BASE)?.unwrap_or(DEFAULT_FREQ_BASE);
        let original_context = self.optional_positive(ORIGINAL_CONTEXT)?;
        let attn_factor = self.positive_float(ATTN_FACTOR)?;
        let named = self.rope_scaling()?;
        // As in llama.cpp: a factor without a type is a linear one.
        let linear = scaling_factor.filter(|&factor| factor != 0.0).map(|_| RopeScaling::Linear);
        let by_factors = self.rope_factors.then_some(RopeScaling::LongRope);
        let scaling = named.or(linear).or(by_factors);
        Ok(dimension_count.map(|dimension_count| Rope {
            style: self.architecture.rope_style(),
            dimension_count,
            freq_base,
            original_context,
            attn_factor,
            scaling,
            scaling_factor,
            factors: self.rope_factors,
        }))
    }

    /// Returns the value of the first of two keys that is present, as in llama.cpp. The second key is the
    /// older name.
    fn scaling_factor(&self) -> Result<Option<f32>, Error> {
        let mut first = None;
        for suffix in [SCALING_FACTOR, SCALE_LINEAR] {
            let factor = self.optional::<f32>(suffix)?;
            if let Some(factor) = factor.filter(|f| !(f.is_finite() && *f >= 0.0)) {
                return Err(self.invalid(suffix, factor, "it must be a finite number, 0 or above"));
            }
            first = first.or(factor);
        }
        Ok(first)
    }

    fn rope_scaling(&mut self) -> Result<Option<RopeScaling>, Error> {
        let Some(name) = self.optional::<&str>(SCALING_TYPE)? else { return Ok(None) };
        let scaling = RopeScaling::ALL.iter().copied().find(|scaling| scaling.name() == name);
        if scaling.is_none() {
            let known = "supported are none, linear, yarn and longrope";
            self.refuse(SCALING_TYPE, format!("\"{}\"", excerpt(name)), known);
        }
        Ok(scaling)
    }

    /// Checks the types of the tokenizer's arrays. The configuration does not need them, but wrong types are a
    /// sign of a damaged file.
    fn check_tokenizer(&self) -> Result<(), Error> {
        self.metadata.optional::<Strings<'_>>(TOKEN_MERGES)?;
        self.metadata.optional::<Elements<'_, f32>>(TOKEN_SCORES)?;
        TokenTypes::from_metadata(self.metadata)?;
        Ok(())
    }

    /// Fails if the vocabulary is larger than the token embedding: the model would produce wrong text.
    fn check_tokens(&self, dimensions: &Dimensions<'_>, vocab: u64) -> Result<(), Error> {
        let reason = || format!("the token embedding has only {vocab} rows");
        if let Some(tokens) = dimensions.tokens.filter(|&tokens| tokens as u64 > vocab) {
            return Err(Error::InvalidValue {
                key: TOKENS.to_owned(),
                value: format!("an array of {tokens} tokens"),
                reason: reason(),
            });
        }
        match dimensions.vocab_size {
            Some(size) if size > vocab => Err(self.invalid(VOCAB_SIZE, size, reason())),
            _ => Ok(()),
        }
    }
}
