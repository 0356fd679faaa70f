//! The dimensions of a model, from its metadata.

use std::fmt;

use gguf_format::{Elements, FromValue, Metadata, Strings, TensorInfo};

use crate::attention::AttentionShape;
use crate::binding::{OUTPUT, TOKEN_EMBEDDING};
use crate::error::Error;
use crate::problems::Problem;
use crate::rope::{Rope, RopeScaling, RopeStyle};

/// The base of RoPE frequencies where the file does not say, as in llama.cpp.
const DEFAULT_FREQ_BASE: f32 = 10_000.0;

/// The architecture that a file names, which decides the prefix of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// `phi3`: Phi-3, Phi-3.5, Phi-4 and Phi-4-mini as llama.cpp converts them.
    Phi3,
    /// `llama`: a "llamafied" Phi-3, whose fused tensors were split before conversion.
    ///
    /// Nothing in such a file says that it is a Phi-3; any model of the same form is accepted.
    Llama,
}

impl Architecture {
    /// The name in `general.architecture`, and the prefix of keys.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Phi3 => "phi3",
            Self::Llama => "llama",
        }
    }

    /// How files of this architecture order the elements that RoPE rotates together.
    #[must_use]
    pub const fn rope_style(self) -> RopeStyle {
        match self {
            Self::Phi3 => RopeStyle::Neox,
            Self::Llama => RopeStyle::Adjacent,
        }
    }

    fn from_metadata(metadata: &Metadata<'_>) -> Result<Self, Error> {
        match metadata.optional::<&str>("general.architecture")? {
            Some("phi3") => Ok(Self::Phi3),
            Some("llama") => Ok(Self::Llama),
            found => Err(Error::UnsupportedArchitecture { found: found.map(str::to_owned) }),
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The dimensions of a Phi-3 model. All come from the file; none is assumed.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Phi3Config {
    /// What the file calls itself.
    pub architecture: Architecture,
    /// `general.name`, as it is in the file: escape it to print it.
    pub name: Option<String>,
    /// Transformer layers, at least 1.
    pub layers: u32,
    /// Elements of the hidden state.
    pub hidden: u64,
    /// Query heads.
    pub heads: u32,
    /// Key heads, and value heads; divides `heads`.
    pub kv_heads: u32,
    /// Elements of a head: `attention.key_length`, or `hidden / heads`.
    pub head_dim: u32,
    /// Elements of the feed-forward network's inner state.
    pub ffn: u64,
    /// Rows of the token embedding. May exceed the number of tokens: rows are often padded.
    pub vocab: u64,
    /// Tokens of context the model was made for.
    pub context_length: u32,
    /// Added to the mean square in the norms; positive and finite.
    pub rms_epsilon: f32,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Tokens that a token attends to. `None` where attention reaches the whole context: the key
    /// is absent, as in Microsoft's own Phi-3 files, or 0, as in Phi-4.
    pub sliding_window: Option<u32>,
    /// `general.file_type`: llama.cpp's number of the mix of tensor types.
    pub file_type: Option<u32>,
    /// Whether the output weights are the token embedding, because the file has no others.
    pub tied_output: bool,
}

impl Phi3Config {
    /// Reads and checks the dimensions of the model.
    ///
    /// `tensors` give the vocabulary, which `phi3` files have no key for, and whether the output
    /// is tied. All their other dimensions are checked by [`TensorMap::bind`](crate::TensorMap).
    ///
    /// Keys that newer files may give as an array with one value a layer (`head_count`,
    /// `head_count_kv`, `feed_forward_length`) are accepted where all layers agree.
    ///
    /// # Errors
    ///
    /// * [`Error::UnsupportedArchitecture`] for anything but `phi3` and `llama`.
    /// * [`Error::Metadata`] where a required key is missing, or a key has the wrong type.
    /// * [`Error::InvalidValue`] where a value is out of bounds or contradicts another.
    /// * [`Error::UnsupportedValue`] for experts, layers that differ, and unknown RoPE scaling.
    /// * [`Error::Binding`] where no tensor tells the size of the vocabulary.
    pub fn from_gguf(metadata: &Metadata<'_>, tensors: &[TensorInfo<'_>]) -> Result<Self, Error> {
        let keys = Keys { metadata, architecture: Architecture::from_metadata(metadata)? };
        keys.ensure_dense()?;

        let layers = keys.layers(tensors.len())?;
        let hidden = keys.positive::<u64>("embedding_length")?;
        let ffn = keys.per_layer::<u64>("feed_forward_length", layers)?;
        let ffn = ffn.ok_or_else(|| keys.missing("feed_forward_length"))?;
        let heads = keys.per_layer::<u32>("attention.head_count", layers)?;
        let heads = heads.ok_or_else(|| keys.missing("attention.head_count"))?;
        let kv_heads = keys.kv_heads(heads, layers)?;
        let head_dim = keys.head_dim(hidden, heads)?;
        let vocab = vocabulary(tensors)?;
        keys.check_tokens(vocab)?;

        Ok(Self {
            architecture: keys.architecture,
            name: metadata.optional::<&str>("general.name")?.map(str::to_owned),
            layers,
            hidden,
            heads,
            kv_heads,
            head_dim,
            ffn,
            vocab,
            context_length: keys.positive("context_length")?,
            rms_epsilon: keys
                .positive_float("attention.layer_norm_rms_epsilon")?
                .ok_or_else(|| keys.missing("attention.layer_norm_rms_epsilon"))?,
            rope: keys.rope(head_dim)?,
            sliding_window: keys
                .optional("attention.sliding_window")?
                .filter(|&window: &u32| window != 0),
            file_type: metadata.optional("general.file_type")?,
            tied_output: !tensors.iter().any(|tensor| tensor.name() == OUTPUT),
        })
    }

    /// What an attention kernel must know.
    #[must_use]
    pub fn attention(&self) -> AttentionShape {
        AttentionShape::new(self.heads, self.kv_heads, self.head_dim)
    }

    /// Weights of the model, without RoPE factors; a tied output counts once. `None` where the
    /// number does not fit 64 bits.
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

    /// The full name of one of the architecture's keys.
    pub(crate) fn key(&self, suffix: &str) -> String {
        full_key(self.architecture, suffix)
    }
}

fn full_key(architecture: Architecture, suffix: &str) -> String {
    format!("{}.{suffix}", architecture.name())
}

/// More layers than tensors cannot be: proven before anything is done once a layer.
pub(crate) fn check_layers(layers: u32, tensors: usize, key: String) -> Result<(), Error> {
    if usize::try_from(layers).is_ok_and(|layers| layers <= tensors) {
        return Ok(());
    }
    Err(Error::InvalidValue {
        key,
        value: layers.to_string(),
        reason: format!("the file holds {tensors} tensors, fewer than one a layer"),
    })
}

/// Rows of the token embedding, or else of the output, so that a file which lacks only the former
/// still gets to the report of all that is missing.
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

/// The metadata, read with the architecture's prefix.
struct Keys<'m, 'a> {
    metadata: &'m Metadata<'a>,
    architecture: Architecture,
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

    fn missing(&self, suffix: &str) -> Error {
        gguf_format::Error::Missing { key: self.key(suffix) }.into()
    }

    fn invalid(&self, suffix: &str, value: impl fmt::Display, reason: impl Into<String>) -> Error {
        Error::InvalidValue {
            key: self.key(suffix),
            value: value.to_string(),
            reason: reason.into(),
        }
    }

    fn unsupported(
        &self,
        suffix: &str,
        value: impl fmt::Display,
        reason: impl Into<String>,
    ) -> Error {
        Error::UnsupportedValue {
            key: self.key(suffix),
            value: value.to_string(),
            reason: reason.into(),
        }
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

    fn positive<T: Dimension>(&self, suffix: &str) -> Result<T, Error> {
        self.optional_positive(suffix)?.ok_or_else(|| self.missing(suffix))
    }

    /// An integer above zero, given once or, with the same value, once a layer.
    fn per_layer<T: Dimension>(&self, suffix: &str, layers: u32) -> Result<Option<T>, Error> {
        let key = self.key(suffix);
        let Some(array) = self.metadata.get(&key).and_then(|value| value.as_array()) else {
            return self.optional_positive(suffix);
        };
        if usize::try_from(layers).ok() != Some(array.len()) {
            return Err(self.invalid(
                suffix,
                format!("an array of {} values", array.len()),
                format!("there are {layers} layers"),
            ));
        }
        // The two types that llama.cpp's writers use for such arrays.
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
        let Some(first) = values.next() else { return Ok(None) };
        if let Some(other) = values.find(|&value| value != first) {
            return Err(self.unsupported(
                suffix,
                format!("{first} in layer 0 and {other} in another"),
                "all layers must have the same shape",
            ));
        }
        match T::try_from(first) {
            Ok(value) if value != T::ZERO => Ok(Some(value)),
            _ => Err(self.invalid(suffix, first, "it must be at least 1")),
        }
    }

    /// A finite number above zero.
    fn positive_float(&self, suffix: &str) -> Result<Option<f32>, Error> {
        match self.optional::<f32>(suffix)? {
            Some(value) if !(value.is_finite() && value > 0.0) => {
                Err(self.invalid(suffix, value, "it must be a finite number above 0"))
            }
            value => Ok(value),
        }
    }

    /// Mixtures of experts share the architecture names, but not the weights.
    fn ensure_dense(&self) -> Result<(), Error> {
        match self.optional::<u64>("expert_count")? {
            None | Some(0) => Ok(()),
            Some(experts) => {
                Err(self.unsupported("expert_count", experts, "only models without experts are"))
            }
        }
    }

    fn layers(&self, tensors: usize) -> Result<u32, Error> {
        let layers = self.positive("block_count")?;
        check_layers(layers, tensors, self.key("block_count"))?;
        Ok(layers)
    }

    fn kv_heads(&self, heads: u32, layers: u32) -> Result<u32, Error> {
        const SUFFIX: &str = "attention.head_count_kv";
        let kv_heads = self.per_layer::<u32>(SUFFIX, layers)?.unwrap_or(heads);
        if heads.checked_rem(kv_heads) == Some(0) {
            return Ok(kv_heads);
        }
        Err(self.invalid(SUFFIX, kv_heads, format!("it must divide the {heads} query heads")))
    }

    fn head_dim(&self, hidden: u64, heads: u32) -> Result<u32, Error> {
        const KEY_LENGTH: &str = "attention.key_length";
        const VALUE_LENGTH: &str = "attention.value_length";
        let head_dim = match self.optional_positive::<u32>(KEY_LENGTH)? {
            // No known model has heads wider than its hidden state; the bound keeps products small.
            Some(given) if u64::from(given) > hidden => {
                let reason = format!("the hidden state has only {hidden} elements");
                return Err(self.invalid(KEY_LENGTH, given, reason));
            }
            Some(given) => given,
            None => self.divided_head_dim(hidden, heads)?,
        };
        match self.optional_positive::<u32>(VALUE_LENGTH)? {
            Some(value_dim) if value_dim != head_dim => {
                let reason = format!("keys have {head_dim} elements, and values must have as many");
                Err(self.unsupported(VALUE_LENGTH, value_dim, reason))
            }
            _ => Ok(head_dim),
        }
    }

    fn divided_head_dim(&self, hidden: u64, heads: u32) -> Result<u32, Error> {
        const HEADS: &str = "attention.head_count";
        let heads_wide = u64::from(heads);
        match hidden.checked_div(heads_wide) {
            Some(head_dim) if head_dim > 0 && hidden.is_multiple_of(heads_wide) => {
                u32::try_from(head_dim).map_err(|_| {
                    self.invalid(
                        "embedding_length",
                        hidden,
                        format!("there are only {heads} heads"),
                    )
                })
            }
            _ => Err(self.invalid(
                HEADS,
                heads,
                format!("it must divide the {hidden} elements of the hidden state"),
            )),
        }
    }

    fn rope(&self, head_dim: u32) -> Result<Rope, Error> {
        const DIMENSIONS: &str = "rope.dimension_count";
        const FACTOR: &str = "rope.scaling.factor";
        let dimension_count = self.optional_positive(DIMENSIONS)?.unwrap_or(head_dim);
        if dimension_count > head_dim || !dimension_count.is_multiple_of(2) {
            let reason = format!("it must be even and at most the {head_dim} elements of a head");
            return Err(self.invalid(DIMENSIONS, dimension_count, reason));
        }
        let scaling_factor = self.optional::<f32>(FACTOR)?;
        if let Some(factor) = scaling_factor.filter(|f| !(f.is_finite() && *f >= 0.0)) {
            return Err(self.invalid(FACTOR, factor, "it must be a finite number, 0 or above"));
        }
        Ok(Rope {
            style: self.architecture.rope_style(),
            dimension_count,
            freq_base: self.positive_float("rope.freq_base")?.unwrap_or(DEFAULT_FREQ_BASE),
            original_context: self.optional_positive("rope.scaling.original_context_length")?,
            attn_factor: self.positive_float("rope.scaling.attn_factor")?,
            scaling: self.rope_scaling()?,
            scaling_factor,
        })
    }

    fn rope_scaling(&self) -> Result<Option<RopeScaling>, Error> {
        const SUFFIX: &str = "rope.scaling.type";
        let Some(name) = self.optional::<&str>(SUFFIX)? else { return Ok(None) };
        let scaling = RopeScaling::from_name(name).ok_or_else(|| {
            let known = "known are none, linear, yarn and longrope";
            self.unsupported(SUFFIX, format!("\"{name}\""), known)
        })?;
        Ok(Some(scaling))
    }

    /// The tokenizer is not this crate's business, but a vocabulary that does not fit the weights
    /// would make a model answer nonsense, and wrong types betray a broken file.
    fn check_tokens(&self, vocab: u64) -> Result<(), Error> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
        let tokens = self.metadata.optional::<Strings<'_>>(TOKENS)?;
        if let Some(tokens) = tokens.filter(|tokens| tokens.len() as u64 > vocab) {
            return Err(Error::InvalidValue {
                key: TOKENS.to_owned(),
                value: format!("an array of {} tokens", tokens.len()),
                reason: format!("the token embedding has only {vocab} rows"),
            });
        }
        if let Some(size) = self.optional::<u64>("vocab_size")?.filter(|&size| size > vocab) {
            let reason = format!("the token embedding has only {vocab} rows");
            return Err(self.invalid("vocab_size", size, reason));
        }
        self.metadata.optional::<Strings<'_>>("tokenizer.ggml.merges")?;
        self.metadata.optional::<Elements<'_, f32>>("tokenizer.ggml.scores")?;
        // Signed in what llama.cpp writes; other writers use unsigned.
        if self.metadata.optional::<Elements<'_, u32>>(TOKEN_TYPE).is_err() {
            self.metadata.optional::<Elements<'_, i32>>(TOKEN_TYPE)?;
        }
        Ok(())
    }
}
