//! Rotary position embedding: the figures that the forward pass needs in addition to the weights.

use crate::choice_words;

/// The elements of a head that are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// Element `i` with element `i + rope_dim / 2`: `phi3` files.
    Neox,
    /// Element `2i` with element `2i + 1`: `llama` files, for which the converter permutes the rows of
    /// Q and K.
    Adjacent,
}

choice_words!(RopeStyle: Neox = "neox", Adjacent = "adjacent");

/// The mapping of positions beyond the original context: `rope.scaling.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RopeScaling {
    /// They are not mapped.
    None,
    /// Positions are divided by a factor.
    Linear,
    /// `YaRN`.
    Yarn,
    /// Frequencies are divided by the model's long or short factors.
    LongRope,
}

choice_words!(RopeScaling: None = "none", Linear = "linear", Yarn = "yarn", LongRope = "longrope");

/// The rotary position embedding of a model.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Rope {
    /// The elements that are rotated together.
    pub style: RopeStyle,
    /// Elements of a head that are rotated, starting with the first: an even number, at most
    /// `head_dim`. It is less than `head_dim` if the rotary embedding is partial (Phi-4-mini), and
    /// `head_dim` if the file does not state it.
    pub dimension_count: u32,
    /// Base of the geometric series of frequencies; 10000 if the file does not state it, as in
    /// llama.cpp.
    pub freq_base: f32,
    /// Tokens of context before scaling. The long factors apply above it.
    pub original_context: Option<u32>,
    /// Factor of cosine and sine, as in llama.cpp. It scales the rotated elements of queries and of keys, so
    /// their part of a score is scaled by its square. Elements that are not rotated are not scaled. Therefore,
    /// if the rotation is partial, a factor of the whole score is not equivalent.
    pub attn_factor: Option<f32>,
    /// The kind of scaling. If the file does not state it, a factor means a linear one, and
    /// [`factors`](Self::factors) mean [`LongRope`](RopeScaling::LongRope), because `phi3` files of
    /// long-context models do not state it.
    pub scaling: Option<RopeScaling>,
    /// `rope.scaling.factor`, or the older `rope.scale_linear`; `None` if the file has neither.
    pub scaling_factor: Option<f32>,
    /// Whether the file has long and short factors.
    pub factors: bool,
}
