//! Names of the weights that the forward pass of a Phi-3 reads.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// One weight of the model, independent of how a file stores it.
///
/// A slot is a weight as consumers name it. One file tensor can hold several slots: a fused `attn_qkv`
/// holds [`AttnQ`](Self::AttnQ), [`AttnK`](Self::AttnK) and [`AttnV`](Self::AttnV). Layers count from
/// zero.
///
/// [`Display`](fmt::Display) and [`FromStr`] use the stable dotted name, such as `layers.3.attn_q`.
/// Slots are in the order of the forward pass. The scales of a matrix follow it, and the optional RoPE
/// factors are last.
///
/// ```
/// use model_phi3::Slot;
///
/// assert_eq!(Slot::AttnQ(3).to_string(), "layers.3.attn_q");
/// assert_eq!("layers.3.attn_q".parse(), Ok(Slot::AttnQ(3)));
/// assert_eq!(Slot::AttnQ(3).layer(), Some(3));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// `[vocab, hidden]`.
    TokenEmbedding,
    /// `[hidden]`, the norm before attention.
    AttnNorm(u32),
    /// `[heads * head_dim, hidden]`.
    AttnQ(u32),
    /// `[kv_heads * head_dim, hidden]`.
    AttnK(u32),
    /// `[kv_heads * head_dim, hidden]`.
    AttnV(u32),
    /// `[hidden, heads * head_dim]`.
    AttnOutput(u32),
    /// `[hidden]`, the norm before the feed-forward network.
    FfnNorm(u32),
    /// `[ffn, hidden]`.
    FfnGate(u32),
    /// `[ffn, hidden]`.
    FfnUp(u32),
    /// `[hidden, ffn]`.
    FfnDown(u32),
    /// `[hidden]`, the norm after the last layer.
    OutputNorm,
    /// `[vocab, hidden]`; the token embedding if the output is tied.
    Output,
    /// `[rope_dim / 2]`, for contexts longer than the original one.
    RopeFactorsLong,
    /// `[rope_dim / 2]`, for contexts up to the original one.
    RopeFactorsShort,
    /// `[1]`: the factor of all values of the matrix. Only NVFP4 tensors can have it, and it is a slot
    /// only under native storage. Under half-precision storage it is part of the weights.
    Scale(Matrix),
    /// `[1]`: the scale of the activations that the matrix is multiplied with. Only NVFP4 tensors can
    /// have it, and it is a slot only under native storage.
    InputScale(Matrix),
}

/// A weight with rows and columns. Norms and RoPE factors are not matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is the slot it is named after")]
pub enum Matrix {
    TokenEmbedding,
    AttnQ(u32),
    AttnK(u32),
    AttnV(u32),
    AttnOutput(u32),
    FfnGate(u32),
    FfnUp(u32),
    FfnDown(u32),
    Output,
}

impl Matrix {
    /// Returns the slot of its weights.
    #[must_use]
    pub const fn slot(self) -> Slot {
        match self {
            Self::TokenEmbedding => Slot::TokenEmbedding,
            Self::AttnQ(layer) => Slot::AttnQ(layer),
            Self::AttnK(layer) => Slot::AttnK(layer),
            Self::AttnV(layer) => Slot::AttnV(layer),
            Self::AttnOutput(layer) => Slot::AttnOutput(layer),
            Self::FfnGate(layer) => Slot::FfnGate(layer),
            Self::FfnUp(layer) => Slot::FfnUp(layer),
            Self::FfnDown(layer) => Slot::FfnDown(layer),
            Self::Output => Slot::Output,
        }
    }
}

type OfLayer = fn(u32) -> Slot;

/// The slots of one layer, in the order of the forward pass. A test compares the order with [`Slot`]'s own.
const LAYER_SLOTS: [OfLayer; 9] = [
    Slot::AttnNorm,
    Slot::AttnQ,
    Slot::AttnK,
    Slot::AttnV,
    Slot::AttnOutput,
    Slot::FfnNorm,
    Slot::FfnGate,
    Slot::FfnUp,
    Slot::FfnDown,
];

/// The name of a slot and its place in the model.
struct Entry {
    section: u8,
    position: u8,
    /// The name without the `layers.N.` prefix. For a scale, that of its matrix.
    stem: &'static str,
}

impl Slot {
    /// Returns the layer that this slot belongs to, counted from zero; `None` for the global slots.
    #[must_use]
    pub const fn layer(self) -> Option<u32> {
        match self {
            Self::AttnNorm(layer)
            | Self::AttnQ(layer)
            | Self::AttnK(layer)
            | Self::AttnV(layer)
            | Self::AttnOutput(layer)
            | Self::FfnNorm(layer)
            | Self::FfnGate(layer)
            | Self::FfnUp(layer)
            | Self::FfnDown(layer) => Some(layer),
            Self::Scale(matrix) | Self::InputScale(matrix) => matrix.slot().layer(),
            Self::TokenEmbedding
            | Self::OutputNorm
            | Self::Output
            | Self::RopeFactorsLong
            | Self::RopeFactorsShort => None,
        }
    }

    /// Returns whether this slot holds RoPE factors, which are optional, and `f32` under every storage policy.
    #[must_use]
    pub const fn is_rope_factors(self) -> bool {
        matches!(self, Self::RopeFactorsLong | Self::RopeFactorsShort)
    }

    /// Returns whether this slot holds the scale of a matrix or of its input, which are optional.
    #[must_use]
    pub const fn is_scale(self) -> bool {
        matches!(self, Self::Scale(_) | Self::InputScale(_))
    }

    /// Returns the matrix whose weights this slot holds; `None` for norms, RoPE factors and scales.
    #[must_use]
    pub const fn matrix(self) -> Option<Matrix> {
        Some(match self {
            Self::TokenEmbedding => Matrix::TokenEmbedding,
            Self::AttnQ(layer) => Matrix::AttnQ(layer),
            Self::AttnK(layer) => Matrix::AttnK(layer),
            Self::AttnV(layer) => Matrix::AttnV(layer),
            Self::AttnOutput(layer) => Matrix::AttnOutput(layer),
            Self::FfnGate(layer) => Matrix::FfnGate(layer),
            Self::FfnUp(layer) => Matrix::FfnUp(layer),
            Self::FfnDown(layer) => Matrix::FfnDown(layer),
            Self::Output => Matrix::Output,
            Self::AttnNorm(_)
            | Self::FfnNorm(_)
            | Self::OutputNorm
            | Self::RopeFactorsLong
            | Self::RopeFactorsShort
            | Self::Scale(_)
            | Self::InputScale(_) => return None,
        })
    }

    /// Returns every slot that a model of `layers` layers must have, in order. RoPE factors and scales are
    /// optional and not included.
    pub fn required(layers: u32) -> impl Iterator<Item = Self> {
        std::iter::once(Self::TokenEmbedding)
            .chain((0..layers).flat_map(|layer| LAYER_SLOTS.map(|slot| slot(layer))))
            .chain([Self::OutputNorm, Self::Output])
    }

    /// Returns the name and the place of this slot. Those of a scale are those of its matrix.
    const fn entry(self) -> Entry {
        let (section, position, stem) = match self {
            Self::Scale(matrix) | Self::InputScale(matrix) => return matrix.slot().entry(),
            Self::TokenEmbedding => (0, 0, "token_embedding"),
            Self::AttnNorm(_) => (1, 0, "attn_norm"),
            Self::AttnQ(_) => (1, 1, "attn_q"),
            Self::AttnK(_) => (1, 2, "attn_k"),
            Self::AttnV(_) => (1, 3, "attn_v"),
            Self::AttnOutput(_) => (1, 4, "attn_output"),
            Self::FfnNorm(_) => (1, 5, "ffn_norm"),
            Self::FfnGate(_) => (1, 6, "ffn_gate"),
            Self::FfnUp(_) => (1, 7, "ffn_up"),
            Self::FfnDown(_) => (1, 8, "ffn_down"),
            Self::OutputNorm => (2, 0, "output_norm"),
            Self::Output => (2, 1, "output"),
            Self::RopeFactorsLong => (3, 0, "rope_factors_long"),
            Self::RopeFactorsShort => (3, 1, "rope_factors_short"),
        };
        Entry { section, position, stem }
    }

    /// Returns the suffix of a scale's name after the name of its matrix.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Scale(_) => ".scale",
            Self::InputScale(_) => ".input_scale",
            _ => "",
        }
    }

    /// Returns the sort key: section of the model, layer, position in the section, position after the matrix.
    fn rank(self) -> (u8, u32, u8, u8) {
        let Entry { section, position, .. } = self.entry();
        let after_matrix = match self {
            Self::Scale(_) => 1,
            Self::InputScale(_) => 2,
            _ => 0,
        };
        (section, self.layer().unwrap_or(0), position, after_matrix)
    }
}

impl Ord for Slot {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for Slot {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stem, suffix) = (self.entry().stem, self.suffix());
        // Width and fill of the formatter apply to the whole name, as for a string.
        match self.layer() {
            Some(layer) => f.pad(&format!("layers.{layer}.{stem}{suffix}")),
            None => f.pad(&format!("{stem}{suffix}")),
        }
    }
}

/// The text is not the name of a [`Slot`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a weight slot: {:?}", gguf_format::escape(.name).to_string())]
pub struct ParseSlotError {
    name: String,
}

impl FromStr for Slot {
    type Err = ParseSlotError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let scale = |suffix, of: fn(Matrix) -> Self| {
            weight_slot(name.strip_suffix(suffix)?)?.matrix().map(of)
        };
        weight_slot(name)
            .or_else(|| scale(".scale", Self::Scale))
            .or_else(|| scale(".input_scale", Self::InputScale))
            .ok_or_else(|| ParseSlotError { name: name.to_owned() })
    }
}

fn weight_slot(name: &str) -> Option<Slot> {
    global_slot(name).or_else(|| layer_slot(name))
}

fn global_slot(name: &str) -> Option<Slot> {
    [Slot::TokenEmbedding, Slot::OutputNorm, Slot::Output]
        .into_iter()
        .chain([Slot::RopeFactorsLong, Slot::RopeFactorsShort])
        .find(|slot| slot.entry().stem == name)
}

fn layer_slot(name: &str) -> Option<Slot> {
    let (layer, stem) = name.strip_prefix("layers.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let slot = LAYER_SLOTS.map(|slot| slot(layer)).into_iter().find(|s| s.entry().stem == stem)?;
    // `u32::from_str` accepts "+3" and "03" too. Only the canonical spelling is a name.
    (slot.to_string() == name).then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_stable() {
        let names: Vec<String> = Slot::required(1).map(|slot| slot.to_string()).collect();
        assert_eq!(
            names,
            [
                "token_embedding",
                "layers.0.attn_norm",
                "layers.0.attn_q",
                "layers.0.attn_k",
                "layers.0.attn_v",
                "layers.0.attn_output",
                "layers.0.ffn_norm",
                "layers.0.ffn_gate",
                "layers.0.ffn_up",
                "layers.0.ffn_down",
                "output_norm",
                "output",
            ]
        );
        assert_eq!(Slot::RopeFactorsLong.to_string(), "rope_factors_long");
        assert_eq!(Slot::RopeFactorsShort.to_string(), "rope_factors_short");
        assert_eq!(Slot::Scale(Matrix::AttnQ(3)).to_string(), "layers.3.attn_q.scale");
        assert_eq!(Slot::InputScale(Matrix::Output).to_string(), "output.input_scale");
    }

    #[test]
    fn scales_follow_their_matrix() {
        let order = [
            Slot::TokenEmbedding,
            Slot::Scale(Matrix::TokenEmbedding),
            Slot::AttnNorm(0),
            Slot::AttnQ(0),
            Slot::Scale(Matrix::AttnQ(0)),
            Slot::InputScale(Matrix::AttnQ(0)),
            Slot::AttnK(0),
            Slot::FfnDown(0),
            Slot::InputScale(Matrix::FfnDown(0)),
            Slot::AttnNorm(1),
            Slot::Output,
            Slot::Scale(Matrix::Output),
            Slot::RopeFactorsLong,
        ];
        assert!(order.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn required_slots_are_in_order_and_followed_by_the_factors() {
        let mut slots: Vec<Slot> = Slot::required(12).collect();
        slots.extend([Slot::RopeFactorsLong, Slot::RopeFactorsShort]);
        assert!(slots.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn only_canonical_names_parse() {
        for name in [
            "",
            "layers",
            "layers.",
            "layers..attn_q",
            "layers.+1.attn_q",
            "layers.01.attn_q",
            "layers.-1.attn_q",
            "layers.4294967296.attn_q",
            "layers.1.output",
            "layers.1.attn_q.weight",
            "attn_q",
            "Output",
            "output ",
            "output.",
            "output.scale.scale",
            "output_norm.scale",
            "layers.1.attn_norm.scale",
            "layers.1.attn_q.Scale",
            "layers.01.attn_q.scale",
            "rope_factors_long.input_scale",
            ".scale",
        ] {
            assert!(name.parse::<Slot>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_hostile_name_is_escaped() {
        let error = "\u{1b}[31m".parse::<Slot>().unwrap_err();
        assert!(!error.to_string().contains('\u{1b}'));
    }

    #[test]
    fn display_honours_width() {
        assert_eq!(
            format!("{:>8}|{:<20}|", Slot::Output, Slot::AttnQ(1)),
            "  output|layers.1.attn_q     |"
        );
    }

    proptest! {
        #[test]
        fn names_round_trip(layer: u32) {
            let globals = [Slot::TokenEmbedding, Slot::OutputNorm, Slot::Output];
            let factors = [Slot::RopeFactorsLong, Slot::RopeFactorsShort];
            let layered = LAYER_SLOTS.map(|slot| slot(layer));
            for slot in globals.into_iter().chain(factors).chain(layered) {
                let matrix = slot.matrix();
                let scales = [matrix.map(Slot::Scale), matrix.map(Slot::InputScale)];
                for slot in scales.into_iter().flatten().chain([slot]) {
                    prop_assert_eq!(slot.to_string().parse::<Slot>(), Ok(slot));
                }
                prop_assert!(matrix.is_none_or(|matrix| matrix.slot() == slot));
            }
        }

        #[test]
        fn parsing_never_panics(name: String) {
            let _ = name.parse::<Slot>();
        }
    }
}
