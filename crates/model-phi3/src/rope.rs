//! Rotary position embedding: what the forward pass must know beside the weights.

use std::fmt;

/// Which elements of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// Element `i` with element `i + rope_dim / 2`: `phi3` files.
    Neox,
    /// Element `2i` with element `2i + 1`: `llama` files, in which the converter has permuted the
    /// rows of Q and K to this end.
    Adjacent,
}

impl fmt::Display for RopeStyle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Neox => "neox",
            Self::Adjacent => "adjacent",
        })
    }
}

/// How positions beyond the original context are mapped, as `rope.scaling.type` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions are divided by a factor.
    Linear,
    /// `YaRN`.
    Yarn,
    /// Frequencies are divided by the model's long or short factors.
    LongRope,
}

impl RopeScaling {
    const ALL: [Self; 4] = [Self::None, Self::Linear, Self::Yarn, Self::LongRope];

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scaling| scaling.name() == name)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Linear => "linear",
            Self::Yarn => "yarn",
            Self::LongRope => "longrope",
        }
    }
}

impl fmt::Display for RopeScaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The rotary position embedding of a model.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Rope {
    /// Which elements are rotated together.
    pub style: RopeStyle,
    /// Elements of a head that are rotated, from its first: even, at most `head_dim`. Less where
    /// the rotary embedding is partial (Phi-4-mini). `head_dim` where the file does not say.
    pub dimension_count: u32,
    /// Base of the geometric series of frequencies; 10000 where the file does not say, as in
    /// llama.cpp.
    pub freq_base: f32,
    /// Tokens of context before scaling, above which the long factors apply.
    pub original_context: Option<u32>,
    /// What cosine and sine are multiplied by, as in llama.cpp: the rotated elements of queries and
    /// those of keys are each scaled by it, so their part of a score by its square. Elements that
    /// are not rotated are not scaled, so where the rotation is partial no factor of the score
    /// can stand for it.
    pub attn_factor: Option<f32>,
    /// The kind of scaling. Where the file does not name it, a factor means a linear one, and
    /// [`factors`](Self::factors) mean [`LongRope`](RopeScaling::LongRope): `phi3` files of long-context
    /// models name none.
    pub scaling: Option<RopeScaling>,
    /// `rope.scaling.factor`, or the older `rope.scale_linear`, where the file has one of them.
    pub scaling_factor: Option<f32>,
    /// Whether the file has long and short factors.
    pub factors: bool,
}
