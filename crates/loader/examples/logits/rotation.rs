//! Rotary position embedding, in both styles.

use loader::model_phi3::{RopeScaling, RopeStyle};
use loader::{Phi3Config, Phi3Weights};

/// The rotation of queries and keys.
pub(crate) struct Rotation {
    style: RopeStyle,
    /// The angle from one position to the next, for each pair of elements.
    angles: Vec<f64>,
    /// The factor of every rotated element.
    factor: f64,
}

impl Rotation {
    /// Chooses the short factors if a prompt of this length fits into the original context, otherwise the long
    /// ones.
    pub(crate) fn new(
        config: &Phi3Config,
        weights: &Phi3Weights<Vec<f64>>,
        prompt_len: usize,
    ) -> Self {
        let rope = &config.rope;
        let supported = [None, Some(RopeScaling::None), Some(RopeScaling::LongRope)];
        assert!(
            supported.contains(&rope.scaling),
            "RoPE scaling {:?} is not supported",
            rope.scaling
        );
        let original = rope.original_context.unwrap_or(config.context_length);
        let divisors = if prompt_len <= original as usize {
            &weights.rope_factors_short
        } else {
            &weights.rope_factors_long
        };
        let pairs = rope.dimension_count / 2;
        let angle = |pair: u32| {
            let exponent = -f64::from(pair) / f64::from(pairs);
            let divisor = divisors.as_ref().map_or(1.0, |divisors| divisors[pair as usize]);
            f64::from(rope.freq_base).powf(exponent) / divisor
        };
        Self {
            style: rope.style,
            angles: (0..pairs).map(angle).collect(),
            factor: rope.attn_factor.map_or(1.0, f64::from),
        }
    }

    /// Rotates the first elements of a head. The others stay as they are.
    pub(crate) fn rotate(&self, head: &mut [f64], position: usize) {
        for (pair, angle) in self.angles.iter().enumerate() {
            let (first, second) = match self.style {
                RopeStyle::Neox => (pair, pair + self.angles.len()),
                RopeStyle::Adjacent => (2 * pair, 2 * pair + 1),
            };
            let (sin, cos) = (position as f64 * angle).sin_cos();
            let (x, y) = (head[first] * self.factor, head[second] * self.factor);
            (head[first], head[second]) = (x * cos - y * sin, x * sin + y * cos);
        }
    }
}
