//! Weights that one matrix product can use together, because they are neighbours in the arena.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::choice_text::ParseChoiceError;
use crate::plan::{LoadPlan, PlannedSlot, SlotFormat};
use crate::slot::{Matrix, Slot};

/// Several weights of a layer as one matrix: the rows of the first weight, then those of the next.
///
/// [`Display`](fmt::Display) and [`FromStr`] use the stable dotted name, such as `layers.3.attn_qkv`.
///
/// ```
/// use model_phi3::{Fused, Slot};
///
/// let gate_up = Fused::FfnGateUp(3);
/// assert!(gate_up.slots().eq([Slot::FfnGate(3), Slot::FfnUp(3)]));
/// assert_eq!(gate_up.to_string(), "layers.3.ffn_gate_up");
/// assert_eq!("layers.3.ffn_gate_up".parse(), Ok(gate_up));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fused {
    /// `[(heads + 2 * kv_heads) * head_dim, hidden]`: Q, K, V.
    AttnQkv(u32),
    /// `[2 * ffn, hidden]`: gate, up.
    FfnGateUp(u32),
}

type OfLayer = fn(u32) -> Slot;

impl Fused {
    const QKV: &'static [OfLayer] = &[Slot::AttnQ, Slot::AttnK, Slot::AttnV];
    const GATE_UP: &'static [OfLayer] = &[Slot::FfnGate, Slot::FfnUp];

    /// Returns the layer, counted from zero.
    #[must_use]
    pub const fn layer(self) -> u32 {
        match self {
            Self::AttnQkv(layer) | Self::FfnGateUp(layer) => layer,
        }
    }

    /// Returns the weights in the order of their rows: Q, K, V, or gate, up.
    pub fn slots(self) -> impl ExactSizeIterator<Item = Slot> + Clone {
        let parts = match self {
            Self::AttnQkv(_) => Self::QKV,
            Self::FfnGateUp(_) => Self::GATE_UP,
        };
        parts.iter().map(move |part| part(self.layer()))
    }

    const fn stem(self) -> &'static str {
        match self {
            Self::AttnQkv(_) => "attn_qkv",
            Self::FfnGateUp(_) => "ffn_gate_up",
        }
    }
}

impl fmt::Display for Fused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("layers.{}.{}", self.layer(), self.stem()))
    }
}

impl FromStr for Fused {
    type Err = ParseChoiceError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (layer, stem) = name.strip_prefix("layers.")?.split_once('.')?;
            let layer = layer.parse().ok()?;
            let fused = [Self::AttnQkv(layer), Self::FfnGateUp(layer)];
            let fused = fused.into_iter().find(|fused| fused.stem() == stem)?;
            // `u32::from_str` accepts "+3" and "03" too. Only the canonical spelling is a name.
            (fused.to_string() == name).then_some(fused)
        };
        parse().ok_or_else(|| {
            ParseChoiceError::new(name, &["layers.N.attn_qkv", "layers.N.ffn_gate_up"])
        })
    }
}

/// Several weights in the arena as one matrix: see [`LoadPlan::fused`] and
/// [`PlacedPart::fused`](crate::PlacedPart::fused).
///
/// Row `r` is the [`row_bytes`](Self::row_bytes) bytes from `dest.start + r * row_bytes`, as in a
/// [`PlannedSlot`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FusedSlot {
    /// The weights.
    pub fused: Fused,
    /// `[rows, cols]` in elements. The rows are those of all weights.
    pub shape: [u64; 2],
    /// The format of the bytes.
    pub format: SlotFormat,
    /// Bytes of one row.
    pub row_bytes: u64,
    /// The bytes of the arena: those of all weights.
    pub dest: Range<u64>,
}

impl LoadPlan {
    /// Returns several weights as one matrix, or `None` if they are not one matrix in the arena.
    ///
    /// They are one matrix if all of this is true:
    ///
    /// * In the arena, each weight starts where the weight before it ends.
    /// * All of them have the same format and the same number of columns.
    /// * None of them has a [`Slot::Scale`], or all of them share one. The same holds for [`Slot::InputScale`].
    ///
    /// If they are one tensor of the file, all of this is true. If they are several tensors, it depends on the
    /// order, the types and the sizes of the tensors, so it can differ between layers.
    #[must_use]
    pub fn fused(&self, fused: Fused) -> Option<FusedSlot> {
        view(fused, |slot| self.slot(slot))
    }
}

/// Returns the weights as one matrix if they are that in the arena that `slot` looks into.
pub(crate) fn view<'a>(
    fused: Fused,
    slot: impl Fn(Slot) -> Option<&'a PlannedSlot>,
) -> Option<FusedSlot> {
    let mut parts = fused.slots().map(&slot);
    let first = parts.next()??;
    let mut whole = FusedSlot::of_first(fused, first)?;
    for part in parts {
        let part = part?;
        if !share_scales(first.slot, part.slot, &slot) {
            return None;
        }
        whole.append(part)?;
    }
    Some(whole)
}

/// Returns whether both matrices have the same scales, or none.
fn share_scales<'a>(
    one: Slot,
    other: Slot,
    planned: impl Fn(Slot) -> Option<&'a PlannedSlot>,
) -> bool {
    let dest = |slot: Slot, scale: fn(Matrix) -> Slot| Some(&planned(scale(slot.matrix()?))?.dest);
    let same = |scale| dest(one, scale) == dest(other, scale);
    same(Slot::Scale) && same(Slot::InputScale)
}

impl FusedSlot {
    fn of_first(fused: Fused, part: &PlannedSlot) -> Option<Self> {
        let &[rows, cols] = part.shape.as_slice() else { return None };
        Some(Self {
            fused,
            shape: [rows, cols],
            format: part.format,
            row_bytes: part.row_bytes,
            dest: part.dest.clone(),
        })
    }

    /// Adds the rows of the next weight; `None` if they are not the rows that follow in memory.
    fn append(&mut self, part: &PlannedSlot) -> Option<()> {
        let &[rows, cols] = part.shape.as_slice() else { return None };
        let [rows_before, cols_before] = self.shape;
        let follows = part.dest.start == self.dest.end
            && cols == cols_before
            && part.format == self.format
            && part.row_bytes == self.row_bytes;
        if !follows {
            return None;
        }
        self.shape = [rows_before.checked_add(rows)?, cols];
        self.dest.end = part.dest.end;
        Some(())
    }
}
