//! The weights of a model as a struct.

use crate::slot::Slot;

/// The weights of a Phi-3 model. A `P` represents each weight: a device pointer, a view, a hash.
///
/// Build one with [`LoadPlan::weights`](crate::LoadPlan::weights) or [`try_from_fn`](Self::try_from_fn).
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Phi3Weights<P> {
    /// [`Slot::TokenEmbedding`], `[vocab, hidden]`.
    pub token_embedding: P,
    /// One entry for each layer, from layer 0.
    pub layers: Vec<LayerWeights<P>>,
    /// [`Slot::OutputNorm`], `[hidden]`.
    pub output_norm: P,
    /// [`Slot::Output`], `[vocab, hidden]`.
    pub output: P,
    /// [`Slot::RopeFactorsLong`], `[rope_dim / 2]`, if the model has them.
    pub rope_factors_long: Option<P>,
    /// [`Slot::RopeFactorsShort`], `[rope_dim / 2]`, if the model has them.
    pub rope_factors_short: Option<P>,
}

/// The weights of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct LayerWeights<P> {
    /// [`Slot::AttnNorm`], `[hidden]`.
    pub attn_norm: P,
    /// [`Slot::AttnQ`], `[heads * head_dim, hidden]`.
    pub attn_q: P,
    /// [`Slot::AttnK`], `[kv_heads * head_dim, hidden]`.
    pub attn_k: P,
    /// [`Slot::AttnV`], `[kv_heads * head_dim, hidden]`.
    pub attn_v: P,
    /// [`Slot::AttnOutput`], `[hidden, heads * head_dim]`.
    pub attn_output: P,
    /// [`Slot::FfnNorm`], `[hidden]`.
    pub ffn_norm: P,
    /// [`Slot::FfnGate`], `[ffn, hidden]`.
    pub ffn_gate: P,
    /// [`Slot::FfnUp`], `[ffn, hidden]`.
    pub ffn_up: P,
    /// [`Slot::FfnDown`], `[hidden, ffn]`.
    pub ffn_down: P,
}

impl<P> LayerWeights<P> {
    fn try_from_fn<E>(layer: u32, f: &mut impl FnMut(Slot) -> Result<P, E>) -> Result<Self, E> {
        Ok(Self {
            attn_norm: f(Slot::AttnNorm(layer))?,
            attn_q: f(Slot::AttnQ(layer))?,
            attn_k: f(Slot::AttnK(layer))?,
            attn_v: f(Slot::AttnV(layer))?,
            attn_output: f(Slot::AttnOutput(layer))?,
            ffn_norm: f(Slot::FfnNorm(layer))?,
            ffn_gate: f(Slot::FfnGate(layer))?,
            ffn_up: f(Slot::FfnUp(layer))?,
            ffn_down: f(Slot::FfnDown(layer))?,
        })
    }

    fn slots(&self, layer: u32) -> [(Slot, &P); 9] {
        [
            (Slot::AttnNorm(layer), &self.attn_norm),
            (Slot::AttnQ(layer), &self.attn_q),
            (Slot::AttnK(layer), &self.attn_k),
            (Slot::AttnV(layer), &self.attn_v),
            (Slot::AttnOutput(layer), &self.attn_output),
            (Slot::FfnNorm(layer), &self.ffn_norm),
            (Slot::FfnGate(layer), &self.ffn_gate),
            (Slot::FfnUp(layer), &self.ffn_up),
            (Slot::FfnDown(layer), &self.ffn_down),
        ]
    }

    fn map<Q>(self, f: &mut impl FnMut(P) -> Q) -> LayerWeights<Q> {
        LayerWeights {
            attn_norm: f(self.attn_norm),
            attn_q: f(self.attn_q),
            attn_k: f(self.attn_k),
            attn_v: f(self.attn_v),
            attn_output: f(self.attn_output),
            ffn_norm: f(self.ffn_norm),
            ffn_gate: f(self.ffn_gate),
            ffn_up: f(self.ffn_up),
            ffn_down: f(self.ffn_down),
        }
    }
}

impl<P> Phi3Weights<P> {
    /// Calls `f` for every slot of a model with `layers` layers, in slot order. The RoPE factors are
    /// included if `rope_factors` is true.
    ///
    /// # Errors
    ///
    /// The first error that `f` returns.
    pub fn try_from_fn<E>(
        layers: u32,
        rope_factors: bool,
        mut f: impl FnMut(Slot) -> Result<P, E>,
    ) -> Result<Self, E> {
        Ok(Self {
            token_embedding: f(Slot::TokenEmbedding)?,
            layers: (0..layers)
                .map(|layer| LayerWeights::try_from_fn(layer, &mut f))
                .collect::<Result<_, _>>()?,
            output_norm: f(Slot::OutputNorm)?,
            output: f(Slot::Output)?,
            rope_factors_long: rope_factors.then(|| f(Slot::RopeFactorsLong)).transpose()?,
            rope_factors_short: rope_factors.then(|| f(Slot::RopeFactorsShort)).transpose()?,
        })
    }

    /// Returns every weight with its slot, in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &P)> {
        let layers = (0..).zip(&self.layers).flat_map(|(layer, weights)| weights.slots(layer));
        let long = self.rope_factors_long.as_ref().map(|p| (Slot::RopeFactorsLong, p));
        let short = self.rope_factors_short.as_ref().map(|p| (Slot::RopeFactorsShort, p));
        std::iter::once((Slot::TokenEmbedding, &self.token_embedding))
            .chain(layers)
            .chain([(Slot::OutputNorm, &self.output_norm), (Slot::Output, &self.output)])
            .chain(long)
            .chain(short)
    }

    /// Returns the same weights with each `P` turned into a `Q`, in slot order.
    pub fn map<Q>(self, mut f: impl FnMut(P) -> Q) -> Phi3Weights<Q> {
        Phi3Weights {
            token_embedding: f(self.token_embedding),
            layers: self.layers.into_iter().map(|layer| layer.map(&mut f)).collect(),
            output_norm: f(self.output_norm),
            output: f(self.output),
            rope_factors_long: self.rope_factors_long.map(&mut f),
            rope_factors_short: self.rope_factors_short.map(&mut f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn named(layers: u32, rope_factors: bool) -> Phi3Weights<Slot> {
        let Ok(weights) = Phi3Weights::try_from_fn(layers, rope_factors, Ok::<_, Infallible>);
        weights
    }

    #[test]
    fn every_field_gets_its_own_slot_in_order() {
        let weights = named(3, true);
        assert!(weights.iter().all(|(slot, held)| slot == *held));
        assert!(weights.iter().is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(weights.iter().count(), 1 + 3 * 9 + 2 + 2);
    }

    #[test]
    fn a_model_without_factors_has_only_the_required_slots() {
        let slots: Vec<Slot> = named(2, false).iter().map(|(slot, _)| slot).collect();
        assert_eq!(slots, Slot::required(2).collect::<Vec<_>>());
    }

    #[test]
    fn map_keeps_each_value_in_its_slot() {
        let weights = named(2, true).map(|slot| slot.to_string());
        assert!(weights.iter().all(|(slot, name)| slot.to_string() == *name));
    }

    #[test]
    fn the_first_error_is_returned() {
        let mut calls = 0;
        let result = Phi3Weights::try_from_fn(9, true, |slot| {
            calls += 1;
            if slot == Slot::AttnK(0) { Err(slot) } else { Ok(()) }
        });
        assert_eq!(result, Err(Slot::AttnK(0)));
        assert_eq!(calls, 4);
    }
}
