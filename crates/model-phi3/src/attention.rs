//! The shape of the attention block.

use crate::choice_words;

/// The way in which query heads share key heads and value heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttentionKind {
    /// Each query head has its own key and value head.
    MultiHead,
    /// Groups of query heads share a key and value head.
    GroupedQuery,
    /// All query heads share one key and value head.
    MultiQuery,
}

choice_words!(AttentionKind: MultiHead = "multi-head", GroupedQuery = "grouped-query",
    MultiQuery = "multi-query");

/// The figures that an attention kernel needs in addition to the weights.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct AttentionShape {
    /// Query heads.
    pub q_heads: u32,
    /// Key heads, and as many value heads. Their number divides `q_heads`.
    pub kv_heads: u32,
    /// Elements of one head.
    pub head_dim: u32,
    /// The factor of `q . k`: `1 / sqrt(head_dim)`.
    pub scale: f32,
}

impl AttentionShape {
    pub(crate) fn new(q_heads: u32, kv_heads: u32, head_dim: u32) -> Self {
        // Computed in f64, because a head_dim above 2^24 may not be an exact f32. The result is rounded
        // once.
        #[allow(clippy::cast_possible_truncation, reason = "rounding is the purpose")]
        let scale = f64::from(head_dim).sqrt().recip() as f32;
        Self { q_heads, kv_heads, head_dim, scale }
    }

    /// Returns how query heads share key heads and value heads. If there is one head of each kind, this is
    /// [`MultiHead`](AttentionKind::MultiHead).
    #[must_use]
    pub const fn kind(&self) -> AttentionKind {
        if self.q_heads == self.kv_heads {
            AttentionKind::MultiHead
        } else if self.kv_heads == 1 {
            AttentionKind::MultiQuery
        } else {
            AttentionKind::GroupedQuery
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_follows_from_the_numbers_of_heads() {
        let kind = |q_heads, kv_heads| AttentionShape::new(q_heads, kv_heads, 64).kind();
        assert_eq!(kind(32, 32), AttentionKind::MultiHead);
        assert_eq!(kind(40, 10), AttentionKind::GroupedQuery);
        assert_eq!(kind(32, 1), AttentionKind::MultiQuery);
        assert_eq!(kind(1, 1), AttentionKind::MultiHead);
    }

    #[test]
    fn scale_is_the_inverse_root() {
        assert_eq!(AttentionShape::new(1, 1, 64).scale, 0.125);
        assert_eq!(AttentionShape::new(1, 1, 96).scale, 0.102_062_08);
    }
}
