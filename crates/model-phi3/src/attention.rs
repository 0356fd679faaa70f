//! The shape of the attention block.

use std::fmt;

/// How query heads share key and value heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttentionKind {
    /// Each query head has its own key and value head.
    MultiHead,
    /// Groups of query heads share a key and value head.
    GroupedQuery,
    /// All query heads share one key and value head.
    MultiQuery,
}

/// `multi-head`, `grouped-query`, `multi-query`.
impl fmt::Display for AttentionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::MultiHead => "multi-head",
            Self::GroupedQuery => "grouped-query",
            Self::MultiQuery => "multi-query",
        })
    }
}

/// What an attention kernel must know beside the weights.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct AttentionShape {
    /// Query heads.
    pub q_heads: u32,
    /// Key heads, and value heads; divides `q_heads`.
    pub kv_heads: u32,
    /// Elements of one head.
    pub head_dim: u32,
    /// What `q . k` is multiplied by: `1 / sqrt(head_dim)`.
    pub scale: f32,
}

impl AttentionShape {
    pub(crate) fn new(q_heads: u32, kv_heads: u32, head_dim: u32) -> Self {
        // In f64, because a head_dim above 2^24 is no exact f32; the one rounding is the last.
        #[allow(clippy::cast_possible_truncation, reason = "rounding is the purpose")]
        let scale = f64::from(head_dim).sqrt().recip() as f32;
        Self { q_heads, kv_heads, head_dim, scale }
    }

    /// How query heads share key and value heads. One head of each kind counts as
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
    fn kinds() {
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
